"""Several pictures in one, as a job's page shows them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


def contact_sheet(pictures: Sequence[Image.Image], rows: int) -> Image.Image:
    """All in one, column by column, `rows` in each; all are of one size."""
    width, height = pictures[0].size
    columns = -(-len(pictures) // rows)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for at, picture in enumerate(pictures):
        sheet.paste(picture, (at // rows * width, at % rows * height))
    return sheet
