"""Text, faces and colours of a picture, each found by a library of the field."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from PIL import Image
from rapidocr import RapidOCR

MIN_TEXT_SCORE = 0.75
MAX_ASPECT = 4
MAX_SIDE = 1536  # in pixels; at 1280, letters of 18 pixels on a page 2048 high are misread
FACE_CASCADE = "haarcascade_frontalface_alt2.xml"
MIN_FACE_WEIGHT = 8.0
FACE_SHARE = 16
FACE_SIDE = 800
COLOURS = 8
MIN_COLOUR_SHARE = 0.12
COLOURLESS = 12


@dataclass(frozen=True, slots=True)
class Text:
    """Lines in reading order; `share` of the picture's area that they cover."""

    lines: tuple[str, ...] = ()
    share: float = 0.0

    @property
    def characters(self) -> int:
        return sum(len(line) for line in self.lines)


class TextReader:
    """RapidOCR on ONNX Runtime; its models are part of its package, nothing is fetched."""

    def __init__(self, threads: int) -> None:
        self._engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.max_side_len": MAX_SIDE,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            }
        )

    def read(self, image: Image.Image) -> Text:
        """The text of an RGB picture; lines it is not sure of are left out."""
        found: Any = self._engine(np.asarray(_no_strip(image))[:, :, ::-1])
        if found.txts is None:
            return Text()
        lines, covered = [], 0.0
        for words, score, box in zip(found.txts, found.scores, found.boxes, strict=True):
            if score >= MIN_TEXT_SCORE and len(words.strip()) > 1:
                lines.append(" ".join(words.split()))
                covered += float(cv2.contourArea(np.asarray(box, dtype=np.float32)))
        return Text(tuple(lines), covered / (image.width * image.height))


def _no_strip(image: Image.Image) -> Image.Image:
    """A long strip on a white ground: the reader enlarges the short side of what it is given, which
    would make a strip of 16x800 pixels 37,000 pixels long."""
    width, height = image.size
    wide, high = max(width, height // MAX_ASPECT), max(height, width // MAX_ASPECT)
    if (wide, high) == (width, height):
        return image
    ground = Image.new("RGB", (wide, high), "white")
    ground.paste(image)
    return ground


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
