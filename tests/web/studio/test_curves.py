"""What a plot of the studio shows of thousands of figures, and what is said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.studio.records import Metric
from multimodal.web.studio.curves import JUDGED, MOST_POINTS, Plot, axis, plots, thin
from multimodal.web.studio.rendering import HEIGHT, band_of, path_of


def measured(**curves: list[float]) -> list[Metric]:
    """A metric for each step from 1 on; a curve that is shorter ends sooner."""
    longest = max(map(len, curves.values()))
    return [
        Metric(
            at + 1,
            0.0,
            float(at),
            {name: values[at] for name, values in curves.items() if at < len(values)},
        )
        for at in range(longest)
    ]


def plot_of(title: str, **curves: list[float]) -> Plot:
    return next(p for p in plots(measured(**curves)) if p.quantity.title == title)


# ---------------------------------------------------------------- thinning out


@given(st.lists(st.floats(-1e6, 1e6), min_size=21, max_size=200), st.integers(4, 20))
def test_a_long_curve_keeps_its_ends_and_its_extremes(values: list[float], most: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    kept = thin(points, most)
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {value for _, value in kept}
    assert list(kept) == sorted(set(kept))


def test_a_short_curve_is_shown_as_it_is() -> None:
    points = [(float(step), 1.0) for step in range(MOST_POINTS)]
    assert thin(points) == tuple(points)


def test_a_single_peak_among_thousands_is_seen() -> None:
    values = [1.0] * 4000
    values[1777] = 9.0
    (curve,) = plot_of("Loss", loss=values).curves
    assert (1778.0, 9.0) in curve.points


# ---------------------------------------------------------------- axes


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_an_axis_holds_its_values_and_has_ticks_between_its_ends(low: float, span: float) -> None:
    found = axis(low, low + span)
    assert found.low <= low <= low + span <= found.high
    assert 1 <= len(found.ticks) <= 11
    room = 1e-6 * (found.high - found.low)
    assert all(found.low - room <= tick <= found.high + room for tick in found.ticks)


def test_ticks_are_round_numbers() -> None:
    assert axis(0, 400, has_room=False).ticks == (0, 100, 200, 300, 400)


def test_what_is_not_a_number_is_left_out() -> None:
    (curve,) = plot_of("Loss", loss=[2.0, float("nan"), 1.0]).curves
    assert curve.points == ((1.0, 2.0), (3.0, 1.0))


def test_a_curve_runs_from_the_upper_end_of_the_plot_to_the_lower() -> None:
    found = axis(0.0, 1.0, has_room=False)
    assert path_of([(0.0, 1.0), (1.0, 0.0)], found, found) == f"M0.0 0.0L1000.0 {HEIGHT:.1f}"


# ---------------------------------------------------------------- what is usual


@pytest.mark.parametrize(
    ("title", "name", "value", "verdict"),
    [
        ("Loss", "loss", 1.0, "healthy"),
        ("Loss", "loss", 0.2, "low"),
        ("Loss", "loss", 3.0, "high"),
        ("Gradient norm", "grad_norm", 0.05, "low"),
        ("Gradient norm", "grad_norm", 50.0, "high"),
        ("Distance from the first model", "kl", 0.6, "high"),
        ("Groups without spread", "frac_reward_zero_std", 0.9, "high"),
        ("Reward", "reward", 0.1, "low"),
        ("Learning rate", "learning_rate", 1e-4, ""),
    ],
)
def test_the_newest_values_are_judged(title: str, name: str, value: float, verdict: str) -> None:
    found = plot_of(title, **{name: [1.0] * 20 + [value] * JUDGED})
    assert found.verdict == verdict
    assert bool(found.judgement) == bool(verdict)


def test_entropy_is_judged_where_rewards_are_measured() -> None:
    values = [0.01] * (20 + JUDGED)
    assert plot_of("Entropy", entropy=values).verdict == ""
    assert plot_of("Entropy", entropy=values, reward=values).verdict == "low"


def test_one_odd_step_is_not_the_verdict() -> None:
    assert plot_of("Loss", loss=[1.0] * 20 + [2.5]).verdict == "healthy"


def test_a_reward_is_expected_from_step_twenty_on() -> None:
    assert plot_of("Reward", reward=[0.0] * 19).verdict == ""
    assert plot_of("Reward", reward=[0.0] * 20).verdict == "low"


def test_the_usual_range_is_in_sight_where_the_curve_is_outside_of_it() -> None:
    found = plot_of("Loss", loss=[9.0, 8.0])
    assert found.quantity.band is not None
    _, height = band_of(found.quantity.band, found.y)
    assert height > 0


def test_a_plot_is_told_in_words() -> None:
    told = plot_of("Loss", loss=[3.0, 1.5, 1.0], eval_loss=[2.0]).sentence
    assert told == (
        "Loss, training: from 3 at step 1 to 1 at step 3, between 1 and 3; held out: from 2 at "
        "step 1 to 2 at step 1, between 2 and 2. Within the usual range (0.5 to 2)."
    )


def test_what_is_healthy_is_said_of_text_models_alone() -> None:
    metrics = measured(loss=[0.1] * JUDGED, grad_norm=[20.0] * JUDGED)
    assert [plot.verdict for plot in plots(metrics)] == ["low", "high"]
    assert [plot.verdict for plot in plots(metrics, is_of_text=False)] == ["", ""]
