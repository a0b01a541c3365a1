"""The voices of a model for speech, as its card states them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import StringConstraints

from multimodal.catalog.architectures import StrictModel


class Voice(StrictModel):
    """A voice of a model for speech. `language`: the one it was recorded in, as BCP 47 (en-US);
    `also`: others that it speaks intelligibly, with an accent."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][A-Za-z]+)?$")]
    also: tuple[str, ...] = ()
    file: str = ""
    """Where a voice is a table of its own: the file that holds it, below the card's folder."""

    @property
    def languages(self) -> tuple[str, ...]:
        """By ISO 639 codes, its own first."""
        return (self.language.partition("-")[0], *self.also)


def best_voice(voices: Iterable[Voice], language: str) -> Voice | None:
    """The first of those recorded in that language (ISO 639), else the first that speaks it."""
    able = [voice for voice in voices if language in voice.languages]
    return min(able, key=lambda voice: voice.languages.index(language) > 0, default=None)
