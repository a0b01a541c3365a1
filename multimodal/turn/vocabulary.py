"""The patterns by which words are understood: a file for each language in `languages/`.

A third language is a file beside the others. It has every pattern and ordinal of en.toml, with an
empty list where the language needs none, and all languages are looked for at once.

    [words]     what <NAME> in a pattern of the same file stands for; a list: any of these
    [patterns]  lists of regular expressions, any of which may match, in upper or lower case
    [manners]   patterns, by the words for a prompt
    [ordinals], [numbers]   what <ORDER> stands for in patterns about the order of pictures
    [objects]   names of what is found in pictures

<END> is the end of a sentence, and <OBJECT> an object in any language. No two ways through a
repeated group may match the same words: as many times as such a word is written, Python's `re`
would try both.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from multimodal.errors import ConfigurationError

FOLDER = Path(__file__).with_name("languages")
REFERENCE = "en"
WORD = re.compile("<([A-Z_]+)>")


class Language(BaseModel):
    """What one file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    words: dict[str, str | tuple[str, ...]]
    patterns: dict[str, tuple[str, ...]]
    manners: dict[str, str]
    ordinals: dict[int, str]
    numbers: dict[int, str]
    objects: dict[str, str]

    def expand(self, pattern: str, **words: str) -> str:
        """`pattern` with what each <WORD> stands for. Raises ConfigurationError for an unknown
        one."""
        known = {"END": r"\W*$", **self.words, **words}

        def expand_word(found: re.Match[str]) -> str:
            if (word := known.get(found[1])) is None:
                raise ConfigurationError(f"{self.file}: {found[0]} is not among its words")
            return self.expand(word if isinstance(word, str) else f"(?:{'|'.join(word)})", **words)

        return WORD.sub(expand_word, pattern)

    def alternatives(self, name: str, **words: str) -> list[str]:
        """Those of a pattern."""
        return [self.expand(pattern, OBJECT=OBJECT, **words) for pattern in self.patterns[name]]


def read_languages(folder: Path) -> dict[str, Language]:
    """By ISO 639 code, the name of the file. Raises ConfigurationError naming file and key."""
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.toml"))}
    reference = found[REFERENCE]
    for language in found.values():
        for table, known, is_whole in (
            ("patterns", reference.patterns, True),
            ("ordinals", reference.ordinals, True),
            ("numbers", reference.ordinals, False),
            ("objects", reference.objects, False),
        ):
            keys = getattr(language, table).keys()
            missing = known.keys() - keys if is_whole else ()
            for fault, names in (("is missing", missing), ("is unknown", keys - known.keys())):
                for name in names:
                    told = f"{language.file}: {table}.{name} {fault}; compare {reference.file}"
                    raise ConfigurationError(told)
    return found


def _read(path: Path) -> Language:
    try:
        return Language(file=path.name, **tomllib.loads(path.read_text("utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path.name}: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigurationError(f"{path.name}: {place}: {fault['msg']}") from error


LANGUAGES = read_languages(FOLDER)
OBJECTS = {
    name: "|".join(each.objects[name] for each in LANGUAGES.values() if name in each.objects)
    for name in LANGUAGES[REFERENCE].objects
}
"""What people call each object, in any language."""
OBJECT = rf"(?:{'|'.join(OBJECTS.values())})\b"
Orders = tuple[tuple[int, re.Pattern[str]], ...]


def compile_any(name: str) -> re.Pattern[str]:
    """The pattern of that name, in any language."""
    return _compile(p for each in LANGUAGES.values() for p in each.alternatives(name))


def compile_each(name: str) -> tuple[re.Pattern[str], ...]:
    """The alternatives of that pattern, one by one, as their groups are read."""
    return tuple(_compile([p]) for each in LANGUAGES.values() for p in each.alternatives(name))


def compile_drawing_styles() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of ways to draw, and the words for each in a prompt."""
    return tuple(
        (_compile([each.expand(pattern)]), prompt)
        for each in LANGUAGES.values()
        for prompt, pattern in each.manners.items()
    )


def compile_ordinals(name: str, table: Literal["ordinals", "numbers"]) -> Orders:
    """The pattern of that name for each index of a picture in `table`, in any language."""
    found: dict[int, list[str]] = {index: [] for index in LANGUAGES[REFERENCE].ordinals}
    for each in LANGUAGES.values():
        for index, order in getattr(each, table).items():
            found[index] += each.alternatives(name, ORDER=order)
    return tuple((index, _compile(patterns)) for index, patterns in found.items() if patterns)


def _compile(patterns: Iterable[str]) -> re.Pattern[str]:
    pattern = "|".join(f"(?:{pattern})" for pattern in patterns)
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigurationError(f"A pattern of {FOLDER}: {error}: {pattern}") from error
