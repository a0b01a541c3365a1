"""Where the lines of text in a picture are: boxes that were found in overlapping strips of it
become one quadrilateral a line, in reading order, and are cut out upright.

A quadrilateral is float32 of the shape (4, 2): its corners in pixels, clockwise from the top left.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Quad = NDArray[np.float32]

UPRIGHT_RATIO = 1.5
"""Height by width from which on a box holds a line that runs from bottom to top, as RapidOCR's own
pipeline takes it."""
VERTICAL_RATIO = 2.0
"""The same where boxes are joined: a single letter may be higher than wide and its line level."""
SAME_LINE = 0.5
"""Of the higher one's height, what two boxes of one line have in common."""


@dataclass(frozen=True, slots=True)
class Strip:
    """From `start` to `end` along the longer side, in pixels; the picture goes on before and after
    it, unless it is the first or the last one."""

    start: int
    end: int
    is_first: bool
    is_last: bool


def strips(length: int, longest: int, overlap: int) -> Iterator[Strip]:
    """Strips of at most `longest` pixels that cover `length`, each `overlap` or more into the
    next."""
    count = max(1, -(-(length - overlap) // (longest - overlap)))
    size = min(length, longest)
    for index in range(count):
        start = round(index * (length - size) / max(1, count - 1))
        yield Strip(start, start + size, index == 0, index == count - 1)


def is_truncated(quad: Quad, axis: int, strip: Strip, overlap: int, margin: int = 2) -> bool:
    """Whether `quad`, relative to its strip, ends where the strip does and not the picture, and is
    so short that the neighbouring strip has it whole."""
    low, high = float(quad[:, axis].min()), float(quad[:, axis].max())
    length = strip.end - strip.start
    is_cut_before = not strip.is_first and low <= margin
    is_cut_after = not strip.is_last and high >= length - 1 - margin
    return (is_cut_before or is_cut_after) and high - low < overlap


def joined(quads: Iterable[Quad], stop: threading.Event) -> list[Quad]:
    """Quadrilaterals of one line that overlap put together, so that no letter is in two of them.
    Once `stop` is set, further ones are left out."""
    lines = _Lines()
    for quad in quads:
        if stop.is_set():
            break
        lines.add(quad)
    return lines.quads


class _Lines:
    """Lines as they grow, and the bounds of all of them in one array: a page has thousands, and
    only those that a box touches are worth a closer look."""

    def __init__(self) -> None:
        self._lines: list[Quad | None] = []
        self._bounds = np.empty((64, 2, 2), np.float32)
        """Least and greatest x and y of each line; of one that went into another, nowhere."""

    @property
    def quads(self) -> list[Quad]:
        return [line for line in self._lines if line is not None]

    def add(self, quad: Quad) -> None:
        while (found := self._joined_with(quad)) is not None:
            at, quad = found
            self._lines[at] = None
            self._bounds[at] = np.nan
        if len(self._lines) == len(self._bounds):
            self._bounds = np.concatenate([self._bounds, np.empty_like(self._bounds)])
        self._bounds[len(self._lines)] = quad.min(axis=0), quad.max(axis=0)
        self._lines.append(quad)

    def _joined_with(self, quad: Quad) -> tuple[int, Quad] | None:
        """The first line that `quad` is a part of, and both put together."""
        known = self._bounds[: len(self._lines)]
        meets = (known[:, 0] < quad.max(axis=0)) & (quad.min(axis=0) < known[:, 1])
        for at in np.flatnonzero(meets.all(axis=1)).tolist():
            line = self._lines[at]
            if line is not None and (whole := _union(quad, line)) is not None:
                return at, whole
        return None


def in_reading_order(quads: Sequence[Quad]) -> list[Quad]:
    """Row by row from the top, in a row from the left. Boxes are in one row where their middles are
    less than half the lower one's height apart."""
    rows: list[list[Quad]] = []
    for quad in sorted(quads, key=_middle):
        if rows:
            first = rows[-1][0]
            height = min(np.ptp(quad[:, 1]), np.ptp(first[:, 1]))
            if _middle(quad) - _middle(first) < height / 2:
                rows[-1].append(quad)
                continue
        rows.append([quad])
    return [quad for row in rows for quad in sorted(row, key=lambda q: float(q[:, 0].min()))]


def crop(pixels: NDArray[np.uint8], quad: Quad) -> NDArray[np.uint8]:
    """The line as it is to be read: level, one that runs upwards turned to run to the right."""
    top, right, bottom, left = (
        float(np.linalg.norm(quad[at] - quad[(at + 1) % 4])) for at in range(4)
    )
    width, height = max(1, round(max(top, bottom))), max(1, round(max(left, right)))
    level = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    line: NDArray[np.uint8] = cv2.warpPerspective(  # type: ignore[assignment]
        pixels,
        cv2.getPerspectiveTransform(quad, level),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.rot90(line) if height >= UPRIGHT_RATIO * width else line


def _middle(quad: Quad) -> float:
    return float(quad[:, 1].mean())


def _union(one: Quad, other: Quad) -> Quad | None:
    """The smallest box around both, along the longer one; None where they are of two lines."""
    along, across = _directions(max(one, other, key=_length))
    (a0, a1), (b0, b1) = (_span(quad, along) for quad in (one, other))
    (c0, c1), (d0, d1) = (_span(quad, across) for quad in (one, other))
    common = min(c1, d1) - max(c0, d0)
    if min(a1, b1) <= max(a0, b0) or common < SAME_LINE * max(c1 - c0, d1 - d0):
        return None
    left, right, top, bottom = min(a0, b0), max(a1, b1), min(c0, d0), max(c1, d1)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    whole = np.array([a * along + c * across for a, c in corners], np.float32)
    return whole if abs(along[0]) >= abs(along[1]) else np.roll(whole, 1, axis=0)


def _span(quad: Quad, direction: NDArray[np.float32]) -> tuple[float, float]:
    places = quad @ direction
    return float(places.min()), float(places.max())


def _length(quad: Quad) -> float:
    width, height = _sides(quad)
    return float(max(np.linalg.norm(width), np.linalg.norm(height)))


def _sides(quad: Quad) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From left to right, and from top to bottom."""
    return (quad[1] + quad[2] - quad[0] - quad[3]) / 2, (quad[2] + quad[3] - quad[0] - quad[1]) / 2


def _directions(quad: Quad) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors along the line, to the right or down, and across it."""
    width, height = _sides(quad)
    vertical = np.linalg.norm(height) >= VERTICAL_RATIO * np.linalg.norm(width)
    along = height if vertical else width
    along = along / (np.linalg.norm(along) or 1)
    across = np.array([-along[1], along[0]], np.float32)
    return along.astype(np.float32), across
