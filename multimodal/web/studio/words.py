"""Figures of a job in words for people."""

from __future__ import annotations

from multimodal.studio.records import Interval, Report

STATES = {
    "waiting": ("…", "Waiting"),
    "running": ("▸", "Running"),
    "done": ("✓", "Done"),
    "failed": ("✕", "Failed"),
    "stopped": ("■", "Stopped"),
    "interrupted": ("!", "Interrupted"),
}
"""A sign and a word, so that neither colour alone says how a job stands."""
MEASURES = {
    "perplexity": ("Perplexity of what is held out", "less is better"),
    "accuracy": ("Right answers of what is held out", "more is better"),
    "word_error": ("Words of what is held out that are heard wrong", "less is better"),
    "margin": ("Margin between preferred and rejected answers", "more is better"),
    "reward": ("Mean reward of what is held out", "more is better"),
    "denoising": ("Noise that it finds in held-out pictures", "more is better"),
}
SHARES = frozenset({"accuracy", "denoising", "word_error"})
"""Those told in percent."""


def duration(seconds: float) -> str:
    """“40 s”, “3 min 20 s”, “2 h 5 min”."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def interval(found: Interval, measure: str) -> str:
    """“24.1 (22.8 to 25.6)”, of a share in percent."""
    if measure in SHARES:
        value, low, high = (f"{100 * it:.1f} %" for it in (found.value, found.low, found.high))
    else:
        value, low, high = (f"{it:.3g}" for it in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def change(report: Report) -> str:
    """How much better or worse it became: “21 % of what it was (18 to 25 %)”."""
    if report.change is None:
        return ""
    found = report.change
    if report.measure == "perplexity":
        return (
            f"{100 * found.value:.0f} % of what it was "
            f"({100 * found.low:.0f} to {100 * found.high:.0f} %)"
        )
    scale, unit = (100, " points") if report.measure in SHARES else (1, "")
    value, low, high = (f"{scale * it:+.3g}" for it in (found.value, found.low, found.high))
    return f"{value}{unit} ({low} to {high})"


def outcome(report: Report) -> str:
    """Whether it learned; too few samples were held out to show it where there is no interval."""
    if report.passed:
        return "learned"
    return "not learned" if report.change else "not shown"


def forgetting(found: Interval) -> str:
    """What became of a fixed text that it was not taught."""
    share = 100 * (found.value - 1)
    told = f"({100 * (found.low - 1):+.1f} to {100 * (found.high - 1):+.1f} %)"
    if found.low <= 1:
        return (
            f"None that can be told from chance: perplexity of a fixed text {share:+.1f} % {told}."
        )
    return f"Perplexity of a fixed text rose by {share:.1f} % {told}."
