"""Judges words that were made to keep a pattern busy, and prints the processor time of the worst.

Run as a program of its own: `re` lets no other thread run, so a pattern that never ends could not
be stopped from within. The system ends this one after LIMIT_S of processor time; its last line then
names what it was doing.
"""

from __future__ import annotations

import re
import resource
import time
import tomllib
import typing
from collections.abc import Callable, Iterator
from inspect import getmembers, isfunction
from pathlib import Path
from typing import Any

from multimodal.turn import image_prompts, intents, picture_references

MODULES = (intents, picture_references, image_prompts)
LIMIT_S = 120
LONGEST = 400_000
"""What one message may hold."""
SHORT = 250
"""Of a repeated word behind words that a pattern knows: exponential time shows at 30 already."""
SENTENCES = Path(__file__).with_name("sentences.toml")
SIGNS = ("?", "-", " ", "\n", "a ", "? ", "- ", ".\n", "'", "?a ", "é", "Ab it ", "so, ")


def judges() -> dict[str, Callable[[str], Any]]:
    """Every public function of the modules that is asked about words alone."""
    return {
        f"{module.__name__}.{name}": function
        for module in MODULES
        for name, function in getmembers(module, isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and list(typing.get_type_hints(function).items())[:1] == [("words", str)]
    }


def patterns() -> dict[str, re.Pattern[str]]:
    """Every compiled pattern of the modules, by its name."""
    return {
        f"{module.__name__}.{name}[{at}]": pattern
        for module in MODULES
        for name, value in vars(module).items()
        for at, pattern in enumerate(_patterns(value))
    }


def _patterns(value: Any) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _patterns(item)


def searched() -> set[str]:
    """The names of patterns that are looked for anywhere in words; the others at their beginning.
    `order in ORDERS if order.search(...)` searches for those in ORDERS."""
    found: set[str] = set()
    for module in MODULES:
        source = Path(str(module.__file__)).read_text("utf-8")
        found |= set(re.findall(r"\b([A-Z_]+)\.search\(", source))
        found |= {name for _, name in re.findall(r"(\w+) in ([A-Z_]+) if \1\.search\(", source)}
    return found


def literal_words(pattern: re.Pattern[str]) -> list[str]:
    plain = re.sub(r"\\.|\(\?[=!:<>]+", " ", pattern.pattern)
    return sorted(set(re.findall(r"[^\W\d_][\w'’-]*", plain)))


def beginnings(pattern: re.Pattern[str], said: list[str]) -> list[str]:
    """What brings a matcher to the inside of `pattern`: sentences that it knows, without their
    punctuation, and their first words."""
    known = [sentence for sentence in said if pattern.search(sentence)][::7][:6]
    stems = {sentence.rstrip(" ?!.") for sentence in known}
    return sorted(stems | {" ".join(stem.split()[:3]) for stem in stems})


def _lines(table: Any) -> Iterator[str]:
    if isinstance(table, str):
        yield from filter(None, map(str.strip, table.splitlines()))
    else:
        for part in table.values():
            yield from _lines(part)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    said = list(_lines(tomllib.loads(SENTENCES.read_text("utf-8"))))
    worst = (0.0, "nothing")

    def timed(what: str, work: Callable[[str], Any], words: str) -> None:
        nonlocal worst
        print(what, flush=True)
        started = time.process_time()
        work(words)
        worst = max(worst, (time.process_time() - started, what))

    sought = searched()
    repeated: set[str] = set()
    for name, pattern in patterns().items():
        try_it = pattern.search if name.split(".")[-1].split("[")[0] in sought else pattern.match
        own = literal_words(pattern)
        repeated |= set(own)
        for stem in beginnings(pattern, said):
            for piece in (*own, *(sign.strip() for sign in SIGNS if sign.strip())):
                many = f" {piece}" * (SHORT // (len(piece) + 1))
                timed(f"{name} of {stem!r} and {piece!r}", try_it, f"{stem}{many} x")
    families = [("", f"{word} ", "") for word in sorted(repeated)]
    families += [
        (opening, sign, end)
        for sign in SIGNS
        for opening, end in (("", ""), ("a", "a"), ("read it", "?a"), ("what", " shows x"))
    ]
    for opening, piece, end in families:
        words = opening + piece * ((LONGEST - len(opening) - len(end)) // len(piece)) + end
        for name, judge in judges().items():
            timed(f"{name} of {opening!r}, {piece!r} and {end!r}", judge, words)
    print(f"{worst[0]:.3f} {worst[1]}")


if __name__ == "__main__":
    main()
