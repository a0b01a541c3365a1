"""Text, faces and colours of a picture, each found by a library of the field.

Boxes of text that were found in overlapping strips of a picture become one quadrilateral a line, in
reading order, and are cut out upright.
"""

from __future__ import annotations

import colorsys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rapidocr import RapidOCR

Quad = NDArray[np.float32]
"""Shape (4, 2): the corners in pixels, clockwise from the top left."""

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


def join_quads(quads: Iterable[Quad], stop: threading.Event) -> list[Quad]:
    """Quadrilaterals of one line that overlap put together, so that no letter is in two of them.
    Once `stop` is set, further ones are left out."""
    lines = _Lines()
    for quad in takewhile(lambda _: not stop.is_set(), quads):
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
    return float(max(map(np.linalg.norm, _sides(quad))))


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


MIN_TEXT_SCORE = 0.75
SURE_SCORE = 0.9
MAX_SIDE = 1536  # of what the detector sees at once, in pixels
PAGE_SIDE = 2048
OVERLAP = 192
"""Of two strips, at the detector's scale: what is lower than this is whole in one of them."""
MAX_BOXES = 3000
"""Read of one picture; a page of small print has a few hundred."""
LEAST_SIDE = 32
ENLARGED_SIDE = 736
MAX_ENLARGEMENT = 2.0
FACE_CASCADE = "haarcascade_frontalface_alt2.xml"
MIN_FACE_WEIGHT = 8.0
FACE_SHARE = 16
FACE_SIDE = 800
COLOURS = 8
MIN_COLOUR_SHARE = 0.12
COLOURLESS = 12


@dataclass(frozen=True, slots=True)
class Text:
    """Lines in reading order; `share` of the picture's area that they cover. `is_whole`: no more
    of it was found than is read."""

    lines: tuple[str, ...] = ()
    share: float = 0.0
    is_whole: bool = True

    @property
    def characters(self) -> int:
        return sum(len(line) for line in self.lines)


class TextReader:
    """RapidOCR on ONNX Runtime; its models are part of its package, nothing is fetched.

    Lines are found in a picture that is made smaller, a long one strip by strip, and read from the
    picture as it is.
    """

    def __init__(self, threads: int, max_boxes: int = MAX_BOXES) -> None:
        def engine(**how: Any) -> RapidOCR:
            return RapidOCR(
                params={
                    "Global.log_level": "critical",
                    "Global.use_preprocess_img": False,
                    "Global.use_vertical_padding": False,
                    "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                    "Det.limit_side_len": LEAST_SIDE,
                    **{f"Global.{name}": value for name, value in how.items()},
                }
            )

        self._max_boxes = max_boxes
        # One of both kinds would keep from call to call which of its parts is used.
        self._detector = engine(use_cls=False, use_rec=False)
        self._recogniser = engine(use_det=False, use_cls=False)

    def read(self, image: Image.Image, stop: threading.Event) -> Text:
        """The text of an RGB picture, of `max_boxes` boxes at most; lines it is not sure of are
        left out. Once `stop` is set, it ends with the next strip or line."""
        boxes = list(islice(self._boxes(image, stop), self._max_boxes + 1))
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # once, not for every line
        lines, covered = [], 0.0
        for quad in in_reading_order(join_quads(boxes[: self._max_boxes], stop)):
            if stop.is_set():
                break
            words, score = self._words(crop(pixels, quad))
            if score >= MIN_TEXT_SCORE and len(words.strip()) > 1:
                lines.append(" ".join(words.split()))
                covered += float(cv2.contourArea(quad))
        share = covered / (image.width * image.height)
        return Text(tuple(lines), share, len(boxes) <= self._max_boxes)

    def _words(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        """The text of a line and how sure the recogniser is. One that it is not sure of is read
        upside down too; RapidOCR's own classifier turns long lines that are upright."""
        best = "", 0.0
        for pixels in (line, np.rot90(line, 2)):
            found: Any = self._recogniser(np.ascontiguousarray(pixels))
            if found.txts and found.scores[0] > best[1]:
                best = found.txts[0], float(found.scores[0])
            if best[1] >= SURE_SCORE:
                break
        return best

    def _boxes(self, image: Image.Image, stop: threading.Event) -> Iterator[Quad]:
        """What may be lines or parts of them, in pixels of `image`."""
        scale = _detection_scale(image.size)
        width, height = (max(LEAST_SIDE, round(side * scale)) for side in image.size)
        size = width, height
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))[:, :, ::-1]
        back = np.array(image.size, np.float32) / np.array(size, np.float32)
        axis = 0 if size[0] > size[1] else 1
        for strip in strips(size[axis], MAX_SIDE, OVERLAP):
            if stop.is_set():
                return
            along = slice(strip.start, strip.end)
            part = pixels[:, along] if axis == 0 else pixels[along]
            found: Any = self._detector(np.ascontiguousarray(part))
            for box in () if found.boxes is None else found.boxes:
                quad = np.asarray(box, np.float32)
                if not is_truncated(quad, axis, strip, OVERLAP):
                    quad[:, axis] += strip.start
                    yield np.asarray(quad * back, np.float32)


def _detection_scale(size: tuple[int, int]) -> float:
    """Letters of a page 2048 pixels high are found at three quarters of their size, those of a
    longer one too; what is small is enlarged."""
    shorter, longer = min(size), max(size)
    if longer > MAX_SIDE:
        return MAX_SIDE / min(longer, PAGE_SIDE)
    return max(1.0, min(MAX_ENLARGEMENT, ENLARGED_SIDE / shorter, MAX_SIDE / longer))


class FaceFinder:
    """OpenCV's cascade for faces seen from the front."""

    def __init__(self) -> None:
        folder = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(str(folder / FACE_CASCADE))

    def count(self, image: Image.Image) -> int:
        shades = image.convert("L")
        shades.thumbnail((FACE_SIDE, FACE_SIDE))
        grey = np.asarray(shades)
        smallest = max(24, min(grey.shape) // FACE_SHARE)
        _boxes, _levels, weights = self._cascade.detectMultiScale3(
            grey, 1.1, 5, minSize=(smallest, smallest), outputRejectLevels=True
        )
        return sum(float(weight) >= MIN_FACE_WEIGHT for weight in np.ravel(weights))


def is_colourless(image: Image.Image) -> bool:
    """Whether an RGB picture is all shades of grey: a drawing, a scan, an old photograph."""
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX), dtype=np.int16)
    spread = small.max(axis=2) - small.min(axis=2)
    return float(np.quantile(spread, 0.98)) < COLOURLESS


def colours(image: Image.Image) -> tuple[str, ...]:
    """One to three everyday names of the colours that cover most of the picture."""
    small = image.resize((64, 64), Image.Resampling.BOX)
    reduced = small.quantize(COLOURS, Image.Quantize.MEDIANCUT)
    palette = reduced.getpalette() or []
    shares: dict[str, float] = {}
    counted = cast("list[tuple[int, int]]", reduced.getcolors() or [])
    for count, index in counted:
        red, green, blue = palette[3 * index : 3 * index + 3]
        name = colour_name(red, green, blue)
        shares[name] = shares.get(name, 0.0) + count / (64 * 64)
    ordered = sorted(shares, key=lambda name: -shares[name])
    return tuple(n for i, n in enumerate(ordered[:3]) if i == 0 or shares[n] >= MIN_COLOUR_SHARE)


def colour_name(red: int, green: int, blue: int) -> str:
    """The everyday name of a colour given in sRGB, 0 to 255."""
    hue, lightness, saturation = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    chroma = (max(red, green, blue) - min(red, green, blue)) / 255
    if lightness < 0.12:
        return "black"
    if lightness > 0.9 or (lightness > 0.82 and chroma < 0.12):
        return "white"
    if chroma < 0.1:
        return "grey"
    degrees = hue * 360
    if degrees < 45 and lightness < 0.45 and (degrees > 12 or saturation < 0.5):
        return "brown"
    if 20 <= degrees < 60 and lightness >= 0.45 and saturation < 0.5:
        return "beige"
    bounds = ((15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (195, "turquoise"))
    later = ((255, "blue"), (290, "purple"), (342, "pink"), (361, "red"))
    return next(name for end, name in (*bounds, *later) if degrees < end)
