"""Which card answers each task unless the person chooses another one."""

from __future__ import annotations

import threading

from multimodal.catalog.cards import Profile
from multimodal.messages import Task


class DefaultModels:
    """Begins as the profile says; a card may take over from another one. Thread-safe."""

    def __init__(self, profile: Profile) -> None:
        self._lock = threading.Lock()
        self._names = {task: names[0] for task, names in profile.models.items() if names}
        self._first = dict(self._names)

    def name(self, task: Task) -> str | None:
        """The name of the card that answers that task now; None where the profile has none."""
        with self._lock:
            return self._names.get(task)

    @property
    def names(self) -> tuple[str, ...]:
        """One card a task, in the profile's order."""
        with self._lock:
            return tuple(self._names.values())

    def first(self, task: Task) -> str | None:
        """The card with which the program began."""
        return self._first.get(task)

    def replace(self, task: Task, name: str) -> None:
        """From the next turn on the card of that name answers that task."""
        with self._lock:
            self._names[task] = name
