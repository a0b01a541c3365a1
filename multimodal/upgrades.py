"""Better models that are fetched behind the first set, and take over between two turns.

A profile lists, per task, the cards that may take over from its default. The first that fits the
budget, can be had, and is quick enough on this machine does. Quickness is measured with the loaded
model; before one is fetched in vain, the speed of the first set is scaled by the bytes of weights,
which a processor reads once for each token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from multimodal.backends.base import Backend
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.catalog.defaults import DefaultModels
from multimodal.errors import MultimodalError, TurnStoppedError, WeightsError
from multimodal.fetching import Announce, Fetching, Show, say_nothing
from multimodal.json_file import JsonFile
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Task
from multimodal.sizes import download_size, gigabytes
from multimodal.speeds import LEAST_WRITTEN_PER_S, Speed, SpeedBook, measure
from multimodal.weights import Weights

log = logging.getLogger(__name__)

State = Literal["waiting", "fetching", "measuring", "in use", "passed over", "declined"]
QUIET_WAIT_S = 120.0
LOOK_EVERY_S = 0.5
CLOSE_WAIT_S = 10.0
TERMS = "A better model comes behind the page: {}. --no-upgrade, or a press there, leaves it out."
NOT_HAD = "It cannot be fetched from here now; the terminal says why."
MORE_THAN_SCALED = 3.0
"""A model of 1,117 MB wrote up to three times the tokens that the speed of one of 98 MB, scaled by
bytes, let expect: small models are kept busy by other things than their weights."""

Measure = Callable[[MemoryManager[Backend], ModelCard, threading.Event], Speed]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A card that may take over, and how far that has come; `why` in words, without the title."""

    task: Task
    card: str
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class UpgradeChoices:
    """The tasks for which a person keeps the first model."""

    declined: Sequence[Task] = ()


@dataclass(frozen=True)
class UpgradeDependencies:
    """What `Upgrades` works with."""

    catalog: Catalog
    profile: Profile
    weights: Weights
    memory: MemoryManager[Backend]
    defaults: DefaultModels
    fetching: Fetching
    speeds: SpeedBook
    choices: Path
    """The file of the `Choices`."""
    offline: bool = False
    measure: Measure = field(default=measure)


class _NoUpgradeError(Exception):
    """Why a card is passed over, in words."""


class Upgrades:
    """The upgrades of one profile. Every method is thread-safe."""

    def __init__(self, parts: UpgradeDependencies) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._working = threading.Lock()
        self._stop = threading.Event()
        self._is_closed = False
        self._measured_now: set[str] = set()
        self._choices = JsonFile(parts.choices, UpgradeChoices, "upgrades are offered anew")
        self._declined = set(self._choices.read().declined)
        self._upgrades = {
            (task, name): Upgrade(task, name, "declined" if task in self._declined else "waiting")
            for task, names in parts.profile.upgrades.items()
            for name in names
        }

    @property
    def all(self) -> tuple[Upgrade, ...]:
        """Every upgrade of the profile, per task the one that is tried first in front."""
        with self._lock:
            return tuple(self._upgrades.values())

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks for which the profile has upgrades."""
        return tuple(task for task, names in self._parts.profile.upgrades.items() if names)

    @property
    def declined(self) -> frozenset[Task]:
        """The tasks for which a person keeps the first model."""
        with self._lock:
            return frozenset(self._declined)

    def resume(self) -> None:
        """Let those take over at once that did in an earlier run; loads and fetches nothing."""
        for task, names in self._parts.profile.upgrades.items():
            if task in self.declined:
                continue
            for card in map(self._parts.catalog.card, names):
                speed = self._parts.speeds.speed(card)
                is_enough = speed is not None and speed.is_enough
                if is_enough and self._fits(card) and self._parts.weights.is_ready(card):
                    self._take_over(task, card, speed)
                    break

    def run(self, show: Show = say_nothing, announce: Announce = say_nothing) -> None:
        """Fetch, measure and put to use what is better; never raises. One run at a time."""
        with self._working:
            for task, names in self._parts.profile.upgrades.items():
                for card in map(self._parts.catalog.card, names):
                    if self._is_closed or task in self.declined:
                        break
                    if self._try(task, card, show, announce):
                        break

    def decline(self, task: Task) -> None:
        """Stay with the first model: stop what is fetched for it, go back, and remember it."""
        with self._lock:
            self._declined.add(task)
            if not self._is_closed:
                self._stop.set()
                self._stop = threading.Event()
            first = self._parts.defaults.first(task)
            if first is not None:
                self._parts.defaults.replace(task, first)
            self._change(task, "declined")
            self._write_choices()

    def accept(self, task: Task) -> None:
        """Take the better model after all; the work is done in a thread of its own."""
        with self._lock:
            self._declined.discard(task)
            self._change(task, "waiting")
            self._write_choices()
        self.resume()
        threading.Thread(target=self.run, name="upgrades", daemon=True).start()

    def close(self) -> None:
        """Stop what is under way, and wait until it has ended."""
        with self._lock:
            self._is_closed = True
            self._stop.set()
        if self._working.acquire(timeout=CLOSE_WAIT_S):
            self._working.release()

    # ------------------------------------------------------------ one card

    def _try(self, task: Task, card: ModelCard, show: Show, announce: Announce) -> bool:
        """Whether the card answers the task now."""
        with self._lock:
            stop = self._stop
        try:
            speed = self._checked_speed(task, card, show, announce, stop)
        except TurnStoppedError:
            return True
        except _NoUpgradeError as reason:
            return self._pass_over(task, card, str(reason))
        except WeightsError as error:
            announce(str(error))
            return self._pass_over(task, card, NOT_HAD)
        except MultimodalError as error:
            return self._pass_over(task, card, str(error))
        if not speed.is_enough:
            return self._pass_over(task, card, f"It is too slow here: it {speed}.")
        self._take_over(task, card, speed)
        return True

    def _checked_speed(
        self, task: Task, card: ModelCard, show: Show, announce: Announce, stop: threading.Event
    ) -> Speed:
        """What the card was measured to do here, fetched and loaded for it where it never was."""
        parts, is_ready = self._parts, self._parts.weights.is_ready(card)
        if not self._fits(card):
            needed = gigabytes(footprint(card).total)
            budget = gigabytes(parts.memory.budget_for(card))
            raise _NoUpgradeError(f"It needs {needed} and the budget is {budget}.")
        known = parts.speeds.speed(card)
        is_settled = known is not None and (known.is_enough or card.name in self._measured_now)
        if known is not None and is_settled == is_ready:
            return known  # it is used as it is, or left where it is
        if not is_ready:
            if parts.offline:
                raise _NoUpgradeError("It was not fetched yet and the program is offline.")
            self._check_expected(task, card, stop)
            self._set(task, card, "fetching")
            parts.fetching.fetch(
                parts.weights, card, show, lambda line: announce(TERMS.format(line)), stop
            )
        self._set(task, card, "measuring")
        return self._measured(card, stop)

    def _check_expected(self, task: Task, card: ModelCard, stop: threading.Event) -> None:
        """Raise _NoUpgradeError where fetching the card would be in vain."""
        first = self._parts.defaults.first(task)
        if first is None or not _generates_text(begun := self._parts.catalog.card(first)):
            return
        if not self._parts.weights.is_ready(begun):
            return
        ratio = footprint(begun).weights / footprint(card).weights
        expected = self._measured(begun, stop).written_per_s * ratio * MORE_THAN_SCALED
        if expected < LEAST_WRITTEN_PER_S:
            raise _NoUpgradeError(
                f"It would write {expected:.0f} tokens a second here at most, going by "
                f"{begun.title}; at least {LEAST_WRITTEN_PER_S:.0f} are wanted."
            )

    def _measured(self, card: ModelCard, stop: threading.Event) -> Speed:
        """The speed of the card, now or earlier. One that is found slow may have shared the
        processor with others, so it is tried a second time before that is believed, and once more
        at the next start, if it is here."""
        parts = self._parts
        known = parts.speeds.speed(card)
        if known is not None and (known.is_enough or card.name in self._measured_now):
            return known
        self._wait_until_idle(stop)
        speed = parts.measure(parts.memory, card, stop)
        if not speed.is_enough:
            self._wait_until_idle(stop)
            again = parts.measure(parts.memory, card, stop)
            speed = Speed(
                min(speed.reading_s, again.reading_s), max(speed.written_per_s, again.written_per_s)
            )
        parts.speeds.learn(card, speed)
        self._measured_now.add(card.name)
        return speed

    def _wait_until_idle(self, stop: threading.Event) -> None:
        until_s = time.monotonic() + QUIET_WAIT_S
        while time.monotonic() < until_s:
            if not any(held.leases for held in self._parts.memory.snapshot().held):
                return
            if stop.wait(LOOK_EVERY_S):
                raise TurnStoppedError("stopped while waiting for others")

    def _fits(self, card: ModelCard) -> bool:
        return footprint(card).total <= self._parts.memory.budget_for(card)

    # ------------------------------------------------------------ books

    def _take_over(self, task: Task, card: ModelCard, speed: Speed | None) -> None:
        with self._lock:
            if task in self._declined:
                return
            self._parts.defaults.replace(task, card.name)
            key = (task, card.name)
            self._upgrades[key] = replace(
                self._upgrades[key], state="in use", why=f"It {speed} here."
            )

    def _pass_over(self, task: Task, card: ModelCard, why: str) -> bool:
        log.info("%s: %s", card.title, why)
        self._set(task, card, "passed over", why)
        return False

    def _set(self, task: Task, card: ModelCard, state: State, why: str = "") -> None:
        with self._lock:
            if task not in self._declined:
                self._upgrades[task, card.name] = Upgrade(task, card.name, state, why)

    def _change(self, task: Task, state: State) -> None:
        for key in self._upgrades:
            if key[0] is task:
                self._upgrades[key] = Upgrade(*key, state)

    def _write_choices(self) -> None:
        self._choices.write(UpgradeChoices(sorted(self._declined)))


def offer(card: ModelCard, weights: Weights) -> str:
    """“Qwen2.5 Coder 1.5B (Apache-2.0, 1.1 GB)”: what is told before it is fetched."""
    size = weights.declared_bytes(card)
    amount = f", {download_size(size)}" if size else ""
    return f"{card.title} ({card.license}{amount})"


def _generates_text(card: ModelCard) -> bool:
    return card.task is Task.TEXT or card.converses
