"""When the answers of people who closed their tabs are abandoned; time is what a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from multimodal.web.presence import Presence

GRACE_S = 20.0


@dataclass
class Scene:
    now_s: float = 0.0
    gone: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.presence = Presence(GRACE_S, self.gone.append, lambda: self.now_s)
        self.presence.close()  # the test sweeps

    def at(self, now_s: float) -> Presence:
        """Time goes on, and what is due by then happens."""
        while self.now_s + 1 < now_s:
            self.now_s += 1
            self.presence.sweep()
        self.now_s = now_s
        self.presence.sweep()
        return self.presence

    def tick(self, *times_s: float, tab: str = "tab") -> None:
        for now_s in times_s:
            self.at(now_s).see(tab, "ann", is_tick=True)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    ("ticks_s", "left_s", "later_s", "there_s", "gone_s"),
    [
        pytest.param([2, 4], 5, [], 24.9, 26.1, id="after the grace"),
        pytest.param(
            [2, 4], 5, range(6, 300, 2), 319, 321, id="a cut heartbeat, as long as it ticks"
        ),
        pytest.param([2, 4, 64, 124], 130, [184, 244], 323, 325, id="hidden, it ticks slowly"),
        pytest.param([500], 501, [], 579, 581, id="it slept for long, and is held for less"),
        pytest.param([2], 603, [], 601, 603, id="nothing is heard for ten minutes"),
    ],
)
def test_an_owner_whose_only_tab_is_gone_is_abandoned_once(
    scene: Scene,
    ticks_s: Iterable[float],
    left_s: float,
    later_s: Iterable[float],
    there_s: float,
    gone_s: float,
) -> None:
    """The tab ticks, its stream is closed at `left_s`, and it may tick on."""
    scene.at(0).enter("tab", "ann")
    scene.tick(*ticks_s)
    if left_s < gone_s:
        scene.at(left_s).leave("tab")
    scene.tick(*later_s)
    scene.at(there_s)
    assert scene.gone == []
    scene.at(gone_s)
    assert scene.gone == ["ann"]
    scene.at(gone_s).leave("tab")
    scene.at(gone_s + 100)
    assert scene.gone == ["ann"], "once"


def test_the_grace_counts_from_the_last_leaving(scene: Scene) -> None:
    scene.at(0).enter("first", "ann")
    scene.at(0).leave("first")
    scene.at(1).enter("second", "ann")
    scene.at(19.9).leave("second")
    scene.at(39.8)
    assert scene.gone == []
    scene.at(40)
    assert scene.gone == ["ann"]


def test_a_tab_that_takes_an_answer_is_there(scene: Scene) -> None:
    scene.at(0).enter("tab", "ann")
    scene.at(1).leave("tab")
    for now_s in range(2, 100):
        scene.at(now_s).see("tab", "ann")
    assert scene.gone == []


def test_a_tab_that_was_given_up_comes_back_and_leaves_again(scene: Scene) -> None:
    scene.at(0).enter("tab", "ann")
    scene.at(1).leave("tab")
    scene.at(3600)
    assert scene.gone == ["ann"]
    scene.tick(3600, 3602)
    scene.at(3620)
    assert scene.gone == ["ann"]
    scene.at(3625)
    assert scene.gone == ["ann", "ann"]


def test_another_tab_keeps_the_answers_of_its_owner_alone(scene: Scene) -> None:
    scene.at(0).enter("one", "ann")
    scene.at(0).enter("two", "ann")
    scene.at(0).enter("three", "bob")
    scene.at(1).leave("one")
    scene.at(1).leave("three")
    scene.at(100)
    assert scene.gone == ["bob"]
    scene.at(100).leave("two")
    scene.at(121)
    assert scene.gone == ["bob", "ann"]


def test_many_tabs_are_watched_by_one_thread() -> None:
    presence = Presence(GRACE_S, lambda owner: None)
    before = threading.active_count()
    for number in range(1000):
        presence.enter(f"tab{number}", "ann")
        presence.leave(f"tab{number}")
    assert threading.active_count() <= before + 1
    presence.close()
