"""Sentences of an answer that is still being written, each once it is whole, as they are said."""

from __future__ import annotations

import re

from multimodal.backends.speech.sentences import segment, sentences
from multimodal.backends.speech.spoken_text import spoken_text

FIRST_CLAUSE = 24
"""Letters that the first clause of an answer has at least where it is said before the rest of its
sentence: the sooner something is heard, the better."""
_CLAUSE_END = re.compile(r"[,;:–—]\s|[，、；：]")


class GrowingText:
    """Keeps what was handed out. `language` (ISO 639) is that of the text."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._handed_out = 0
        self._read = 0
        """Letters whose sentences were looked for: most calls bring one word and no sentence."""
        self._begun = ""
        """What was handed out of a sentence that was not whole then."""

    def next_sentences(self, markdown: str, is_whole: bool) -> list[str]:
        """What can be said by now and was not handed out yet. `markdown`: the answer until now,
        which only grows; `is_whole`: whether that is all of it."""
        stable = len(markdown) if is_whole else len(markdown) - len(segment(markdown).rest)
        is_first = not (self._handed_out or self._begun)
        new: list[str] = []
        if stable > self._read:
            found = sentences(spoken_text(markdown[:stable], self._language))
            new = list(found[self._handed_out :])
            self._read, self._handed_out = stable, max(self._handed_out, len(found))
        if new and self._begun:
            new[0] = new[0].removeprefix(self._begun).strip()
            self._begun = ""
        elif new and is_first:
            new[:1] = _clauses(new[0])
        if not (self._handed_out or is_whole or self._begun):
            new = self._first_clause(markdown)
        return [sentence for sentence in new if re.search(r"\w", sentence)]

    def _first_clause(self, markdown: str) -> list[str]:
        ends = [match.end() for match in _CLAUSE_END.finditer(markdown)]
        if not ends or ends[-1] < FIRST_CLAUSE:
            return []
        said = spoken_text(markdown, self._language)
        cut = [match.end() for match in _CLAUSE_END.finditer(said)]
        if not cut or cut[-1] < FIRST_CLAUSE:
            return []
        self._begun = said[: cut[-1]].strip()
        return [self._begun]


def _clauses(sentence: str) -> list[str]:
    """Its first clause and the rest, where it has one that is long enough."""
    for match in _CLAUSE_END.finditer(sentence):
        if match.end() >= FIRST_CLAUSE:
            return [sentence[: match.end()].strip(), sentence[match.end() :].strip()]
    return [sentence]
