"""HTML of the studio: Jinja templates that escape whatever they are given."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from multimodal.sizes import gigabytes
from multimodal.web.studio import words
from multimodal.web.studio.curves import Axis, Band, Point

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1000.0, 300.0
"""Of a plot, in units of its own: it is stretched to its place, and words stand beside it."""

_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    return _templates.get_template(f"{template}.html").render(**values)


def path_of(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """A curve as the data of an SVG path."""
    placed = (f"{WIDTH * x.share(at):.1f} {HEIGHT * (1 - y.share(v)):.1f}" for at, v in points)
    return "M" + "L".join(placed)


def band_of(band: Band, y: Axis) -> tuple[float, float]:
    """Top and height of a band on the axis, in units of the plot."""
    top = 0.0 if band.high is None else HEIGHT * (1 - y.share(band.high))
    bottom = HEIGHT if band.low is None else HEIGHT * (1 - y.share(band.low))
    return top, bottom - top


def group_tokens(tokens: Iterable[tuple[str, bool]]) -> Iterator[tuple[bool, str]]:
    """Neighbouring tokens that are trained alike, together."""
    for is_trained, found in groupby(tokens, key=itemgetter(1)):
        yield is_trained, "".join(text for text, _ in found)


def picture_address(data: bytes, kind: str) -> str:
    """A picture inside its own address; `kind`: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_templates.globals |= {"path_of": path_of, "band_of": band_of, "words": words}
_templates.globals |= {"plot_width": WIDTH, "plot_height": HEIGHT}
_templates.filters |= {"gigabytes": gigabytes, "group_tokens": group_tokens}
_templates.filters |= {"picture_address": picture_address}
