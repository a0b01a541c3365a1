"""Turns of a person who speaks without pressing anything, from the sound of a microphone.

While somebody speaks, what was said until now is recognized again and again, one recognition at a
time: that gives captions, and the words that end a turn are there when the silence is. A turn ends
after a short silence where the sentence sounds complete, after a longer one where it does not. What
has no words (a cough, a door) and what is the program's own voice is no turn.

While an answer is spoken, sound alone only lowers it (`SPEECH`); words interrupt it
(`INTERRUPTION`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum

from multimodal.errors import MultimodalError
from multimodal.events import Transcription
from multimodal.hands_free.echoes import is_echo
from multimodal.hands_free.turn_detection import Samples, TurnDetector

PAUSE_S = 0.2
"""Of quiet, after which the words are recognized: the turn may have ended."""
COMPLETE_S, INCOMPLETE_S = 0.6, 1.5
"""Of quiet that ends a turn, by whether its sentence sounds complete; between two sentences of one
turn there is up to half a second."""
FIRST_CAPTION_S, CAPTION_EVERY_S = 0.6, 1.0
"""Of speech, until it is recognized while it goes on."""
CAPTION_SHARE = 0.2
"""Of a long utterance, what must be new before all of it is recognized again."""
SHORTEST_S = 0.25
"""Of speech; what is shorter is a noise, and recognizers invent words for it."""
LONGEST_S = 60.0
"""Of one turn; what was said until then is one, and what follows another."""
_FULL_STOPS = ".!?…。！？"
_CLOSING = "\"'”’»)]」』"
_ENGLISH = (
    "a an and are as at because but by for from i if in my of on or so than that the their then to "
    "was were when which while who with your"
)
_FRENCH = (
    "au aux avec car ce ces dans de des du elle en est et il la le les mais mon ou où par parce "
    "pour que qui sa si son sur un une vos votre"
)
_GERMAN = (
    "aber auf das dass dem den der die ein eine einen für ich im in mit oder und von weil wenn zu"
)
_SPANISH = "al como con cuando de del el en la las los o para pero por porque que si un una y"
UNFINISHED = frozenset(" ".join((_ENGLISH, _FRENCH, _GERMAN, _SPANISH)).split())
"""Words that no sentence ends with, though recognizers like to put a full stop behind them
(English, French, German, Spanish)."""


class HeardKind(StrEnum):
    SPEECH = "speech"
    """Somebody, or something, began to make a sound like speech."""
    CAPTION = "caption"
    """What was said until now; it may change."""
    INTERRUPTION = "interruption"
    """Words were said while an answer was spoken."""
    NOISE = "noise"
    """What began was no speech to the program."""
    TURN = "turn"
    """The whole of what was said."""
    FAULT = "fault"
    """The recognizer failed; `words` says why."""


@dataclass(frozen=True, slots=True)
class HeardEvent:
    kind: HeardKind
    words: str = ""
    language: str | None = None
    """In which it was said (ISO 639-1), where that is known."""


NOTHING = Transcription("", None)
Recognize = Callable[[Samples], "Future[Transcription]"]
"""Begins to recognize an utterance (mono, 16 kHz)."""


@dataclass(frozen=True, slots=True)
class _Asked:
    future: Future[Transcription]
    samples: int
    voiced: int


class Listener:
    """One microphone. For one thread at a time."""

    def __init__(self, detector: TurnDetector, recognize: Recognize) -> None:
        self._detector = detector
        self._recognize = recognize
        self._asked: _Asked | None = None
        self._known = NOTHING
        self._known_samples = self._known_voiced = 0
        self._is_told = False
        self._has_interrupted = False

    def feed(self, samples: Samples, spoken: str | None = None) -> list[HeardEvent]:
        """Take in the next sound and say what it came to. `spoken`: what an answer says that is
        being spoken, around this moment; None while none is."""
        self._detector.feed(samples)
        return [*self._begun(), *self._recognized(spoken), *self._ended(spoken)]

    @property
    def is_hearing(self) -> bool:
        """Whether somebody speaks, or may go on to."""
        return self._detector.is_begun

    def close(self) -> None:
        if self._asked is not None:
            self._asked.future.cancel()

    def _begun(self) -> Iterator[HeardEvent]:
        if self._detector.is_begun and not self._is_told:
            self._is_told = True
            yield HeardEvent(HeardKind.SPEECH)

    def _recognized(self, spoken: str | None) -> Iterator[HeardEvent]:
        """Take what the recognizer is done with, and ask it again where there is more."""
        if self._asked is not None and self._asked.future.done():
            asked, self._asked = self._asked, None
            try:
                found = asked.future.result()
            except MultimodalError as error:
                self._reset()
                yield HeardEvent(HeardKind.FAULT, str(error))
                return
            self._known, self._known_voiced = found, asked.voiced
            self._known_samples = asked.samples
            if not _is_nothing(found.text, spoken):
                yield HeardEvent(HeardKind.CAPTION, found.text, found.language)
                if spoken is not None and not self._has_interrupted:
                    self._has_interrupted = True
                    yield HeardEvent(HeardKind.INTERRUPTION, found.text, found.language)
        if self._asked is None and self._is_due():
            utterance = self._detector.utterance
            self._asked = _Asked(self._recognize(utterance), len(utterance), self._detector.voiced)

    def _is_due(self) -> bool:
        detector = self._detector
        new = detector.voiced - self._known_voiced
        if not detector.is_begun or new <= 0 or detector.voiced_s < SHORTEST_S:
            return False
        if detector.quiet_s >= PAUSE_S:
            return True
        new_s = detector.voiced_s * new / detector.voiced
        wanted_s = CAPTION_EVERY_S if self._known_voiced else FIRST_CAPTION_S
        return new_s >= max(wanted_s, CAPTION_SHARE * detector.voiced_s)

    def _ended(self, spoken: str | None) -> Iterator[HeardEvent]:
        detector, known = self._detector, self._known
        if not detector.is_begun:
            return
        is_short = detector.voiced_s < SHORTEST_S
        is_known = self._asked is None and self._known_voiced == detector.voiced
        if detector.voiced_s >= LONGEST_S and not _is_nothing(known.text, spoken):
            self._asked = None  # what is being recognized has the words once more
            detector.drop(self._known_samples, self._known_voiced)
            self._forget()
            yield HeardEvent(HeardKind.TURN, known.text, known.language)
        if detector.quiet_s < COMPLETE_S:
            return
        if is_short or (is_known and _is_nothing(known.text, spoken)):
            self._reset()
            yield HeardEvent(HeardKind.NOISE)
        elif is_known and (is_complete(known.text) or detector.quiet_s >= INCOMPLETE_S):
            self._reset()
            yield HeardEvent(HeardKind.TURN, known.text, known.language)

    def _forget(self) -> None:
        self._known, self._known_samples, self._known_voiced = NOTHING, 0, 0

    def _reset(self) -> None:
        self._detector.reset()
        self._forget()
        self._is_told = self._has_interrupted = False


def _is_nothing(words: str, spoken: str | None) -> bool:
    """Whether that is no word of the person's."""
    return not words or bool(spoken and is_echo(words, spoken))


def is_complete(words: str) -> bool:
    """Whether a sentence may end there, as far as its marks and its last word tell."""
    bare = words.rstrip().rstrip(_CLOSING)
    if not bare.endswith(tuple(_FULL_STOPS)) or bare.endswith(("...", "…")):
        return False
    if bare.endswith(("?", "!", "？", "！")):
        return True
    said = bare.rstrip(_FULL_STOPS).split()
    return not said or said[-1].casefold() not in UNFINISHED
