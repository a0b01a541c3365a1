"""When the answers of people who closed their tabs are abandoned; time is what a test says."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

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


def test_an_owner_whose_only_tab_was_closed_is_abandoned_after_the_grace() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.tick(2, 4)
    scene.at(5).leave("tab")
    scene.at(24.9)
    assert scene.gone == []
    scene.at(26.1)
    assert scene.gone == ["ann"]
    scene.at(100)
    assert scene.gone == ["ann"], "once"


def test_the_grace_counts_from_the_last_leaving() -> None:
    scene = Scene()
    scene.at(0).enter("first", "ann")
    scene.at(0).leave("first")
    scene.at(1).enter("second", "ann")
    scene.at(19.9).leave("second")
    scene.at(39.8)
    assert scene.gone == []
    scene.at(40)
    assert scene.gone == ["ann"]


def test_a_tab_whose_heartbeat_was_cut_stays_as_long_as_it_ticks() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.tick(2, 4)
    scene.at(5).leave("tab")
    scene.tick(*range(6, 300, 2))
    assert scene.gone == []
    scene.at(319)
    assert scene.gone == [], "its next tick was due two seconds after the last"
    scene.at(321)
    assert scene.gone == ["ann"], "and it leaves like any other"


def test_a_tab_that_takes_an_answer_is_there() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.at(1).leave("tab")
    for now_s in range(2, 100):
        scene.at(now_s).see("tab", "ann")
    assert scene.gone == []


def test_a_hidden_tab_that_ticks_once_a_minute_is_not_given_up_between() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.tick(2, 4, 64, 124)
    scene.at(130).leave("tab")
    scene.tick(184, 244)
    assert scene.gone == []
    scene.at(323)
    assert scene.gone == []
    scene.at(325)
    assert scene.gone == ["ann"]


def test_a_tab_that_was_given_up_comes_back_and_leaves_again() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.at(1).leave("tab")
    scene.at(3600)
    assert scene.gone == ["ann"]
    scene.tick(3600, 3602)
    scene.at(3620)
    assert scene.gone == ["ann"]
    scene.at(3625)
    assert scene.gone == ["ann", "ann"]


def test_a_tab_that_slept_for_long_does_not_hold_its_owner_for_as_long() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.tick(500)
    scene.at(501).leave("tab")
    scene.at(579)
    assert scene.gone == []
    scene.at(581)
    assert scene.gone == ["ann"]


def test_another_tab_keeps_the_answers_of_its_owner_alone() -> None:
    scene = Scene()
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


def test_a_tab_of_which_nothing_is_heard_for_ten_minutes_is_gone() -> None:
    scene = Scene()
    scene.at(0).enter("tab", "ann")
    scene.tick(2)
    scene.at(601)
    assert scene.gone == []
    scene.at(603)
    assert scene.gone == ["ann"]
    scene.at(603).leave("tab")
    scene.at(700)
    assert scene.gone == ["ann"]


def test_many_tabs_are_watched_by_one_thread() -> None:
    presence = Presence(GRACE_S, lambda owner: None)
    before = threading.active_count()
    for number in range(1000):
        presence.enter(f"tab{number}", "ann")
        presence.leave(f"tab{number}")
    assert threading.active_count() <= before + 1
    presence.close()
