"""Text, faces and colours of a picture, each found by a library of the field."""

from __future__ import annotations

import colorsys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rapidocr import RapidOCR

from multimodal.backends.describer.text_lines import (
    Quad,
    crop,
    in_reading_order,
    is_truncated,
    joined,
    strips,
)

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
        for quad in in_reading_order(joined(boxes[: self._max_boxes], stop)):
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
