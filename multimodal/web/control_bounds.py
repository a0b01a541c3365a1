"""What may be set on the side of the page: checked with the message that it is for, so that what is
out of bounds is told in a sentence and the message is kept."""

from __future__ import annotations

from dataclasses import dataclass

from multimodal.backends.sampling import MAX_SEED
from multimodal.errors import RequestError


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a number, both ends included; an empty field leaves it to the model."""

    name: str
    low: float
    high: float

    def checked(self, value: float | None) -> float | None:
        """Raises RequestError."""
        if value is None or (isinstance(value, int | float) and self.low <= value <= self.high):
            return value
        raise RequestError(
            f"{str(value)[:20]} cannot be used as the {self.name}. Give a number from "
            f"{self.low:,} to {self.high:,}, or leave it empty for the model's own."
        )

    def whole(self, value: float | None) -> int | None:
        """Raises RequestError."""
        return None if (number := self.checked(value)) is None else int(number)

    def nearest(self, value: float) -> int:
        """Itself, or the end that it is beyond."""
        return int(min(max(value, self.low), self.high))


@dataclass(frozen=True, slots=True)
class Length:
    """Of a text, in characters."""

    name: str
    most: int

    def checked(self, text: str | None) -> str:
        """The text without what surrounds it. Raises RequestError."""
        words = (text or "").strip()
        if len(words) > self.most:
            raise RequestError(
                f"The {self.name} are {len(words):,} characters long and at most {self.most:,} can "
                "be used. Shorten them."
            )
        return words


INSTRUCTIONS = Length("instructions", 4000)
NEGATIVE_PROMPT = Length("words of what a picture should not show", 2000)
TEMPERATURE = Bounds("temperature", 0, 2)
TOP_P = Bounds("top p", 0.05, 1)
PENALTY = Bounds("repetition penalty", 1, 2)
TOKENS = Bounds("longest answer", 16, 2048)
SEED = Bounds("seed", 0, MAX_SEED - 1)
STEPS = Bounds("steps", 1, 200)
GUIDANCE = Bounds("guidance", 0, 30)
WIDTH = Bounds("width", 64, 16_384)
HEIGHT = Bounds("height", 64, 16_384)
