"""Pixels of any kind to 8 bits in RGB or RGBA, and what is transparent onto a ground.

A picture is worked on strip by strip: beside the decoded picture only a strip and the result are in
memory; while a ground is chosen, also a few bytes a pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from multimodal.media.decode_queue import stopped_error

STRIP_PIXELS = 2_000_000
DEPTHS = (1.0, *(2.0**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32)))
"""The white of pictures: 1 for shares, else that of the bits a camera or scanner has."""
LOW_RANGE = 1 / 16
"""Of white: values that span less are a picture of low range, stretched to be seen."""
NOISE = 1 / 256
"""Of white: values that span less would be one shade in 8 bits."""
SATURATED = 0.97

SEEN_SIDE = 2048
"""Of what a model is given that sees or draws; none reads more."""

TRANSPARENT = 128
VISIBLE = 25
GROUNDS = {"white": 255, "black": 0, "grey": 118}
"""By preference; the grey is the one that contrasts as much with black as with white."""
LEAST_CONTRAST = 3.0
"""For graphics and large letters (WCAG 2.2, success criteria 1.4.3 and 1.4.11)."""
MOST_UNREADABLE = 0.2
BORDER_PIXELS = 100_000
"""Looked at to choose a ground; a photograph that is translucent all over is all border."""


@dataclass(frozen=True, slots=True)
class _Shades:
    """Values from `low` to `high` become 0 to 255."""

    low: float
    high: float

    def eight_bit(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        scaled = np.asarray(values, np.float32)
        scaled = np.nan_to_num(scaled, nan=self.low, posinf=self.high, neginf=self.low)
        scaled = (scaled - self.low) * (255 / ((self.high - self.low) or 1))
        shades: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return shades


def eight_bit_colour(image: Image.Image, side: int, stop: threading.Event) -> Image.Image:
    """`image` (loaded) in RGB, or RGBA where it has transparency, in 8 bits; one that is far larger
    than `side` reduced by a whole factor, never below `side`. Raises TurnStoppedError."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    factor = max(1, max(image.size) * 2 // (3 * side))
    shades = _shades(image, stop) if _is_deep(image) else None
    if factor == 1 and image.mode == mode:
        return image
    width, height = (-(-length // factor) for length in image.size)
    result = Image.new(mode, (width, height))
    for top, strip in _strips(image, stop, factor):
        part = Image.fromarray(shades.eight_bit(np.asarray(strip))) if shades else strip
        result.paste(_reduced(part.convert(mode), factor), (0, top // factor))
    return result


def within(image: Image.Image, side: int) -> Image.Image:
    """`image`, made smaller where it is wider or higher than `side`."""
    if max(image.size) <= side:
        return image
    smaller = image.copy()
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    return smaller


def flatten(image: Image.Image) -> Image.Image:
    """`image` in RGB: what is transparent becomes white, or black or grey where what is drawn would
    not stand out from white."""
    if image.mode == "RGB":
        return image
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    grey = GROUNDS[_ground(layer)]
    result = Image.new("RGB", layer.size)
    for top, strip in _strips(layer):
        ground = Image.new("RGBA", strip.size, (grey,) * 3)
        result.paste(Image.alpha_composite(ground, strip).convert("RGB"), (0, top))
    return result


# ---------------------------------------------------------------- shades


def _is_deep(image: Image.Image) -> bool:
    """Whether it has 16 or 32 bits a pixel; `convert` alone would clip it to white."""
    return image.mode[0] in "IF"


def _shades(image: Image.Image, stop: threading.Event) -> _Shades:
    """How the values of a picture of more than 8 bits are shown.

    They are shares of white, as in a picture of 8 bits: of the type's, or of the bits that the
    camera has where no value needs more. Only a picture of low range is stretched: one that spans
    several shades, but less than a sixteenth of them, and is not simply white.
    """
    low, high = np.inf, -np.inf
    for _, strip in _strips(image, stop):
        values = np.asarray(strip)
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        return _Shades(0.0, 1.0)
    if low < 0:
        return _Shades(low, high)
    depths = DEPTHS if image.mode == "F" else DEPTHS[1:]
    white = next((depth for depth in depths if high <= depth), high)
    if image.mode.startswith("I;16") and low == high:
        white = 2.0**16 - 1
    span = (high - low) / white
    if NOISE <= span < LOW_RANGE and high < SATURATED * white:
        return _Shades(low, high)
    return _Shades(0.0, white)


def _strips(
    image: Image.Image, stop: threading.Event | None = None, factor: int = 1
) -> Iterator[tuple[int, Image.Image]]:
    """(top, strip) of all of `image`; heights are multiples of `factor` but for the last one."""
    rows = max(1, STRIP_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        if stop is not None and stop.is_set():
            raise stopped_error()
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _reduced(strip: Image.Image, factor: int) -> Image.Image:
    if factor == 1:
        return strip
    if strip.mode == "RGBA":  # colours of transparent pixels must not bleed into their neighbours
        return strip.convert("RGBa").reduce(factor).convert("RGBA")
    return strip.reduce(factor)


# ---------------------------------------------------------------- ground


def _ground(layer: Image.Image) -> str:
    """The first of GROUNDS that what is drawn stands out from, where it borders on it; the best
    one where it does from none."""
    colours = _border_colours(layer)
    if not len(colours):
        return "white"
    light = _luminance(colours)
    unreadable = {
        name: float(np.mean(_contrast(light, _luminance(np.full(3, grey))) < LEAST_CONTRAST))
        for name, grey in GROUNDS.items()
    }
    good = (name for name, share in unreadable.items() if share <= MOST_UNREADABLE)
    return next(good, min(unreadable, key=lambda name: unreadable[name]))


def _border_colours(layer: Image.Image) -> NDArray[np.uint8]:
    """Colours of visible pixels beside transparent ones, shape (n, 3): all of them, or every so
    many-th where there are more than BORDER_PIXELS."""
    alpha = layer.getchannel("A")
    least = alpha.filter(ImageFilter.MinFilter(5))
    found = (np.asarray(alpha) >= VISIBLE) & (np.asarray(least) < TRANSPARENT)
    step = max(1, -(-int(np.count_nonzero(found)) // BORDER_PIXELS))
    colours, passed = [np.empty((0, 3), np.uint8)], 0
    for top, strip in _strips(layer):
        places = np.flatnonzero(found[top : top + strip.height])
        chosen = places[-passed % step :: step]
        passed += len(places)
        if len(chosen):
            colours.append(np.asarray(strip).reshape(-1, 4)[chosen, :3])
    return np.concatenate(colours)


def _linear_light() -> NDArray[np.float64]:
    share = np.arange(256) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


LINEAR_LIGHT = _linear_light()
"""Of each of the 256 values of a channel in sRGB."""


def _luminance(colours: NDArray[Any]) -> NDArray[np.float64]:
    """Relative luminance of sRGB colours in 8 bits, shape (..., 3) to (...) (WCAG 2.2)."""
    light: NDArray[np.float64] = LINEAR_LIGHT[colours] @ np.array([0.2126, 0.7152, 0.0722])
    return light


def _contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    lighter, darker = np.maximum(one, other), np.minimum(one, other)
    return (lighter + 0.05) / (darker + 0.05)
