"""Curves of a job as a plot shows them: what was measured, thinned out, on axes, and judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from multimodal.sizes import gigabytes
from multimodal.studio.records import Metric

MOST_POINTS = 500
TICKS = 4
JUDGED = 5
"""Of the newest values, whose mean is judged: a single step may be an odd one."""
Point = tuple[float, float]
"""Step and value."""


@dataclass(frozen=True, slots=True)
class Band:
    """The range in which a run is usually healthy; `below` and `above` say what leaving it means.
    `from_step`: it is expected from that step on."""

    low: float | None
    high: float | None
    below: str = ""
    above: str = ""
    from_step: int = 0

    @property
    def words(self) -> str:
        if self.low is None:
            return f"below {self.high:g}"
        return f"above {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """One plot: the metrics that it shows (a name in `Metric.values`, and what it is called)."""

    title: str
    series: tuple[tuple[str, str], ...]
    write: Callable[[float], str]
    band: Band | None = None
    starts_at_zero: bool = False
    band_needs: str = ""
    """The metric without which the band says nothing: that of the methods it is known for."""


def _number(value: float) -> str:
    """Three significant digits, so that neighbouring ticks differ."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


QUANTITIES = (
    Quantity(
        "Loss",
        (("loss", "training"), ("eval_loss", "held out")),
        _number,
        Band(
            0.5,
            2.0,
            "It may be learning its samples by heart: compare what is held out.",
            "It is still far from its samples; early in a run that is usual.",
        ),
    ),
    Quantity(
        "Reward",
        (("reward", "mean"),),
        _number,
        Band(
            0.15,
            None,
            "Hardly any answer is rewarded: make the reward easier, or the prompts.",
            from_step=20,
        ),
    ),
    Quantity(
        "Groups without spread",
        (("frac_reward_zero_std", "share of prompts"),),
        _number,
        Band(None, 0.8, above="All answers to a prompt are alike, so there is little to learn."),
        starts_at_zero=True,
    ),
    Quantity(
        "Distance from the first model",
        (("kl", "KL"),),
        _number,
        Band(None, 0.5, above="It leaves the first model behind: raise beta, or learn slower."),
        starts_at_zero=True,
    ),
    Quantity(
        "Entropy",
        (("entropy", ""),),
        _number,
        Band(0.05, 0.5, "Its answers become all the same.", "Its answers are close to chance."),
        starts_at_zero=True,
        band_needs="reward",
    ),
    Quantity(
        "Margin",
        (("rewards/margins", "training"), ("eval_rewards/margins", "held out")),
        _number,
    ),
    Quantity(
        "Preferred answers",
        (("rewards/accuracies", "training"), ("eval_rewards/accuracies", "held out")),
        lambda share: f"{100 * share:.0f} %",
        starts_at_zero=True,
    ),
    Quantity(
        "Accuracy",
        (("accuracy", "training"), ("eval_accuracy", "held out")),
        lambda share: f"{100 * share:.0f} %",
        starts_at_zero=True,
    ),
    Quantity(
        "Gradient norm",
        (("grad_norm", ""),),
        _number,
        Band(
            0.1,
            10.0,
            "Little changes any more.",
            "The updates are violent: a lower learning rate calms them.",
        ),
        starts_at_zero=True,
    ),
    Quantity("Learning rate", (("learning_rate", ""),), _number, starts_at_zero=True),
    Quantity("Speed", (("tokens_per_s", "tokens/s"),), _number, starts_at_zero=True),
    Quantity("Memory", (("memory_bytes", ""),), gigabytes, starts_at_zero=True),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """`points`: at most `MOST_POINTS` of those that were measured, ordered by step."""

    label: str
    points: tuple[Point, ...]
    latest: float
    level: float
    """Mean of the newest values."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`; ticks lie within."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what is outside, at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True, slots=True)
class Plot:
    quantity: Quantity
    curves: tuple[Curve, ...]
    x: Axis
    y: Axis
    verdict: str = ""
    """“healthy”, “low” or “high”; "" where nothing is expected, or not yet."""

    @property
    def judgement(self) -> str:
        """What the verdict means, in a sentence."""
        band = self.quantity.band
        if band is None or not self.verdict:
            return ""
        if self.verdict == "healthy":
            return f"Within the usual range ({band.words})."
        more = band.below if self.verdict == "low" else band.above
        side = "Below" if self.verdict == "low" else "Above"
        return f"{side} the usual range ({band.words}). {more}".strip()

    @property
    def sentence(self) -> str:
        """The plot in words, for those who do not see it."""
        told = "; ".join(map(self._words, self.curves))
        return f"{self.quantity.title}, {told}. {self.judgement}".strip()

    def _words(self, curve: Curve) -> str:
        write, values = self.quantity.write, [value for _, value in curve.points]
        (first, begun), (last, _) = curve.points[0], curve.points[-1]
        name = f"{curve.label}: " if curve.label else ""
        return (
            f"{name}from {write(begun)} at step {first:.0f} to {write(curve.latest)} at step "
            f"{last:.0f}, between {write(min(values))} and {write(max(values))}"
        )


def plots(metrics: Sequence[Metric], is_of_text: bool = True) -> list[Plot]:
    """A plot for each quantity that was measured. `is_of_text`: whether a text model is taught;
    what is healthy is known of these alone."""
    measured = {"", *(name for metric in metrics for name in metric.values)}
    usual = (
        quantity if is_of_text and quantity.band_needs in measured else replace(quantity, band=None)
        for quantity in QUANTITIES
    )
    found = (_plot(quantity, metrics) for quantity in usual)
    return [plot for plot in found if plot is not None]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most `most` points, among them the first, the last, and the lowest and highest of each
    stretch, so that no peak is lost."""
    if len(points) <= most:
        return tuple(points)
    inner, stretches = points[1:-1], max(1, (most - 2) // 2)
    kept = [points[0]]
    for number in range(stretches):
        begin, end = (len(inner) * at // stretches for at in (number, number + 1))
        stretch = inner[begin:end]
        ends = {min(stretch, key=_value), max(stretch, key=_value)}
        kept += sorted(ends)
    return (*kept, points[-1])


def axis(low: float, high: float, has_room: bool = True) -> Axis:
    """An axis that holds both, with about four ticks at 1, 2 or 5 times a power of ten; with some
    room at its ends unless it is told otherwise."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
    elif has_room:
        room = (high - low) * 0.06
        low, high = (low if low == 0 else low - room), high + room
    step = _tick_step((high - low) / TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(number * step for number in range(first, last + 1)))


def _tick_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _value(point: Point) -> float:
    return point[1]


def _plot(quantity: Quantity, metrics: Sequence[Metric]) -> Plot | None:
    curves = tuple(_curves(quantity, metrics))
    if not curves:
        return None
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points]
    low, high = min(values), max(values)
    if quantity.starts_at_zero and low >= 0:
        low = 0.0
    low, high = _with_band(low, high, quantity.band)
    return Plot(
        quantity,
        curves,
        axis(min(steps), max(steps), has_room=False),
        axis(low, high),
        _verdict(quantity.band, curves[0]),
    )


def _curves(quantity: Quantity, metrics: Sequence[Metric]) -> Iterator[Curve]:
    for name, label in quantity.series:
        measured = [
            (float(metric.step), value)
            for metric in metrics
            if (value := metric.values.get(name)) is not None and math.isfinite(value)
        ]
        if measured:
            newest = [value for _, value in measured[-JUDGED:]]
            yield Curve(label, thin(measured), newest[-1], sum(newest) / len(newest))


def _with_band(low: float, high: float, band: Band | None) -> tuple[float, float]:
    """The range, widened to the nearest end of the band where the curve runs outside of it."""
    if band is None:
        return low, high
    if band.high is not None and low > band.high:
        low = band.high - 0.1 * (high - band.high)
    if band.low is not None and high < band.low:
        high = band.low + 0.1 * (band.low - low)
    return low, high


def _verdict(band: Band | None, curve: Curve) -> str:
    if band is None or curve.points[-1][0] < band.from_step:
        return ""
    if band.low is not None and curve.level < band.low:
        return "low"
    return "high" if band.high is not None and curve.level > band.high else "healthy"
