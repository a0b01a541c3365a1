"""Boxes of text become lines: each letter in one of them, in the order they are read."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from fakes import StopAfter

from multimodal.backends.describer.findings import (
    Quad,
    in_reading_order,
    is_truncated,
    join_quads,
    strips,
)

NEVER = threading.Event()


def box(left: float, top: float, right: float, bottom: float, degrees: float = 0.0) -> Quad:
    """Turned around the picture's corner."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    turn = np.radians(degrees)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.asarray(corners @ np.array([[cos, sin], [-sin, cos]]), np.float32)


def same(one: Quad, other: Quad) -> bool:
    return bool(np.abs(one - other).max() < 1.5)


@pytest.mark.parametrize("degrees", [0, 8, -8, 30])
@pytest.mark.parametrize("height", [20, 80, 300])
def test_overlapping_boxes_of_a_line_become_one_around_both(height: int, degrees: float) -> None:
    long = box(177, 100, 177 + 5 * height, 100 + height, degrees)
    short = box(20, 103, 205, 98 + height, degrees)
    for boxes in ((short, long), (long, short)):
        (whole,) = join_quads(boxes, NEVER)
        assert same(whole, box(20, 100, 177 + 5 * height, 100 + height, degrees))


def test_a_box_that_bridges_two_joins_all_three() -> None:
    (whole,) = join_quads([box(0, 0, 100, 40), box(180, 0, 300, 40), box(90, 2, 190, 42)], NEVER)
    assert same(whole, box(0, 0, 300, 42))


def test_a_vertical_line_is_joined_along_its_height() -> None:
    (whole,) = join_quads([box(10, 0, 50, 300), box(12, 280, 50, 700)], NEVER)
    assert same(whole, box(10, 0, 50, 700))


@pytest.mark.parametrize(
    "boxes",
    [
        [box(0, 0, 400, 50), box(0, 45, 400, 95), box(0, 90, 400, 140)],
        [box(0, 0, 400, 50), box(430, 0, 800, 50)],
        [box(0, 0, 400, 120), box(390, 80, 600, 110)],
        [box(0, 0, 40, 55), box(0, 50, 40, 105), box(0, 100, 40, 155)],
        [box(0, 0, 900, 50, 10), box(0, 60, 900, 110, 10)],
    ],
    ids=["lines", "columns", "large and small", "digits below each other", "tilted lines"],
)
def test_what_is_not_one_line_stays_apart(boxes: list[Quad]) -> None:
    assert len(join_quads(boxes, NEVER)) == len(boxes)


def words(count: int) -> list[Quad]:
    """Seven words in a row, rows below each other, none of them touching another."""
    places = [(180 * (at % 7), 20 * (at // 7)) for at in range(count)]
    return [box(left, top, left + 170, top + 17) for left, top in places]


def test_a_page_with_twice_the_words_takes_twice_the_work() -> None:
    def calls(count: int) -> int:
        found, made = words(count), 0

        def note(*_: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(note)
        try:
            lines = join_quads(found, NEVER)
        finally:
            sys.setprofile(None)
        assert len(lines) == count
        return made

    assert calls(400) < 2.5 * calls(200)


def test_what_touches_none_of_the_rest_is_joined_as_if_it_were_alone() -> None:
    rows = [box(0, 30 * row, 100, 30 * row + 20) for row in range(200)]
    rest = [box(90, 30 * row, 300, 30 * row + 20) for row in range(200)]
    lines = join_quads([*rows, *reversed(rest)], NEVER)
    for row, line in enumerate(sorted(lines, key=lambda line: float(line[0, 1]))):
        assert same(line, box(0, 30 * row, 300, 30 * row + 20))
    assert len(lines) == 200


def test_joining_ends_when_it_is_stopped() -> None:
    assert len(join_quads(words(50), StopAfter(10))) == 10


def test_rows_are_read_from_the_top_and_each_from_the_left() -> None:
    wanted = [
        box(0, 0, 300, 60),
        box(400, 12, 700, 72),
        box(0, 80, 300, 100),
        box(400, 84, 700, 104),
        box(0, 102, 300, 122),
    ]
    ordered = in_reading_order([wanted[at] for at in (4, 1, 3, 0, 2)])
    assert all(same(one, other) for one, other in zip(ordered, wanted, strict=True))


@pytest.mark.parametrize("length", [1, 1536, 1537, 6000, 12_288])
def test_strips_cover_the_picture_and_overlap(length: int) -> None:
    found = list(strips(length, 1536, 192))
    assert (found[0].start, found[-1].end) == (0, length)
    assert (found[0].is_first, found[-1].is_last) == (True, True)
    assert all(strip.end - strip.start == min(length, 1536) for strip in found)
    for one, other in pairwise(found):
        assert not one.is_last
        assert not other.is_first
        assert one.end - other.start >= 192


def test_a_line_at_the_edge_of_a_strip_is_left_to_the_strip_that_has_it_whole() -> None:
    first, second = strips(2880, 1536, 192)
    assert is_truncated(box(0, 1500, 400, 1535), 1, first, 192)
    assert is_truncated(box(0, 0, 400, 20), 1, second, 192)
    assert not is_truncated(box(0, 1400, 400, 1500), 1, first, 192)
    assert not is_truncated(box(0, 0, 400, 20), 1, first, 192), "the picture ends there"
    assert not is_truncated(box(0, 1000, 400, 1535), 1, first, 192), "no strip has it whole"
