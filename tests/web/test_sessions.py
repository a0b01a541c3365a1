"""Sessions of the page: whose they are, and that no flood of them takes another's place."""

from __future__ import annotations

from multimodal.web.sessions import Sessions

HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_a_session_belongs_to_who_used_it_first() -> None:
    sessions = Sessions()
    assert sessions.admit("abc", "login:ann")
    assert sessions.admit("abc", "login:ann")
    assert not sessions.admit("abc", "login:bob")
    assert sessions.admit("abd", "login:bob")
    assert not sessions.admit("", "login:bob")
    assert not sessions.admit("x" * 1000, "login:bob")


def test_a_flood_from_one_address_takes_the_places_of_that_address_alone() -> None:
    sessions = Sessions(capacity=10)
    assert all(sessions.admit(f"ann{number}", "ann", HERE) for number in range(3))
    for number in range(1000):
        assert sessions.admit(f"flood{number}", f"browser:{number}", THERE)
        assert sessions.admit("ann0", "ann", HERE)
    assert not sessions.admit("ann1", "eve", THERE), "it still belongs to who used it first"
    assert sessions.admit("new", "bob", "192.0.2.3"), "a newcomer is let in"
    assert not sessions.admit("flood999", "eve", THERE)


def test_a_flood_from_many_addresses_keeps_no_newcomer_out() -> None:
    sessions = Sessions(capacity=100)
    for number in range(1000):
        assert sessions.admit(f"flood{number}", "eve", f"198.51.100.{number % 40}")
    for number in range(30):
        assert sessions.admit(f"new{number}", "ann", f"203.0.113.{number}")
    for number in range(30):
        assert not sessions.admit(f"new{number}", "eve", "198.51.100.1")


def test_what_one_machine_sends_from_many_addresses_is_one_share() -> None:
    sessions = Sessions(capacity=4)
    assert sessions.admit("ann", "ann", "2001:db8:1::1")
    for number in range(100):
        assert sessions.admit(f"flood{number}", "eve", f"2001:db8:2::{number}")
    assert not sessions.admit("ann", "eve", "2001:db8:2::1")


def test_events_whose_answers_nobody_reads_are_bounded() -> None:
    sessions = Sessions()
    assert not sessions.begin_event("one"), "it was never admitted"
    assert sessions.admit("one", "ann")
    assert sum(sessions.begin_event("one") for _ in range(100)) == 20
    sessions.reset_unread("two")
    assert not sessions.begin_event("one")
    sessions.reset_unread("one")
    assert sessions.begin_event("one")
