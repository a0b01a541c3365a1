"""What a job says while it runs and at its end: frozen values, one JSON object a line of a file in
its folder, so that a page or a program that comes later sees the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["waiting", "running", "done", "failed", "stopped", "interrupted"]
"""`stopped`: by the person; `interrupted`: the process is gone and left no end. Both, and
`failed`, can be resumed from the last whole checkpoint."""
ENDS = frozenset({"done", "failed", "stopped", "interrupted"})


@dataclass(frozen=True, slots=True)
class Metric:
    """What was measured at one step. `values` by name; times in seconds, memory in bytes:
    loss, eval_loss, learning_rate, grad_norm, tokens_per_s, memory_bytes, eta_s,
    train_loss_mean, and what a method adds (rewards/margins, kl, entropy, reward)."""

    step: int
    epoch: float
    time_s: float
    """Since the job began for the first time; pauses between two runs are left out."""
    values: Mapping[str, float]
    run: int = 1
    """In which run of the job, which is resumed in a new one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model answers at an evaluation to a prompt that is held out."""

    step: int
    prompt: str
    answer: str
    expected: str = ""
    run: int = 1
    picture: str = ""
    """Of what draws: a file below the folder `pictures` of the job."""


@dataclass(frozen=True, slots=True)
class JobNotice:
    """What was given up, changed or found, in a sentence."""

    step: int
    text: str
    run: int = 1


@dataclass(frozen=True, slots=True)
class Status:
    """How a job stands. Moments are seconds since the epoch (POSIX); `steps` are all updates."""

    state: State = "waiting"
    doing: str = ""
    """For people, what it does at the moment or waits for."""
    error: str | None = None
    pid: int | None = None
    process_created_s: float | None = None
    """When the process of that number was created, by the system: numbers are used again."""
    created_s: float = 0.0
    started_s: float | None = None
    ended_s: float | None = None
    step: int = 0
    steps: int = 0
    runs: int = 0
    """How often it was started or resumed."""
    batch: int = 0
    accumulation: int = 0
    max_length: int = 0
    """The three as they are in effect, which may be less than was asked for."""
    owner: str = ""
    """A digest of who began it on the page; "" for one of the command line."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One held-out prompt, answered without and with what was learned (greedily)."""

    prompt: str
    before: str
    after: str
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Confusion:
    """`count` of the `total` held-out samples of the class `expected` were taken for another."""

    expected: str
    predicted: str
    count: int
    total: int


@dataclass(frozen=True, slots=True)
class Report:
    """Did it learn? `measure` names what before and after are: perplexity (less is better),
    word_error (less is better, too), accuracy, margin, reward or denoising (more is better)."""

    passed: bool
    verdict: str
    """In a sentence or two, for people; of a failed gate, why and what to try."""
    measure: Literal["perplexity", "word_error", "accuracy", "margin", "reward", "denoising"] = (
        "perplexity"
    )
    before: Interval | None = None
    after: Interval | None = None
    change: Interval | None = None
    """After over before for a perplexity, after minus before for the others; paired by sample."""
    forgetting: Interval | None = None
    """Perplexity of the fixed text after over before, paired by its pieces."""
    is_overfitted: bool = False
    samples: int = 0
    comparisons: tuple[Comparison, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    confusions: tuple[Confusion, ...] = ()
    """Of a classifier, the classes that are mixed up, the most frequent first."""
