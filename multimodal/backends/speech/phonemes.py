"""How a text is pronounced: phonemes in the International Phonetic Alphabet, as espeak-ng writes
them, since the voices were trained on that.

Which library says so is chosen by the language (`ENGINES`); docs/decisions/0024 has the figures.
English needs nothing beyond what the program is installed with. A library that may be missing is
asked for by the sentence of `missing`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from multimodal.errors import BackendError, RequestError
from multimodal.languages import language_name

BREAKS = {"|": ",", "‖": "."}
"""gruut's signs of a short and of a long pause, for marks it has no better sign for."""
MARKS = ".?!;:,"
_ACRONYMS = re.compile(r"\b([A-Z]{2,6})s\b")
_WITHOUT_VOWEL = re.compile(
    r"(?<![\w'’])(?!(?:[Mm]rs?|[Dd]r|[Hh]m+|[Ss]h+|[Pp]st|nth)\b)[b-df-hj-np-tv-xz]{2,6}(?![\w'’])"
)
_CLAUSE = re.compile(r"(.+?)([.,;:!?…]+(?=[\s\"'”’»)]|$)|$)", re.DOTALL)


class Phonemizer(ABC):
    """Pronounces one language. `phonemes` may be called from any thread."""

    @abstractmethod
    def phonemes(self, text: str) -> str:
        """IPA, words apart by spaces, with the marks of the sentence."""

    def close(self) -> None:  # noqa: B027
        """What is shared by the whole process stays; it takes about a megabyte."""


class GruutPhonemizer(Phonemizer):
    """gruut: a lexicon, parts of speech that tell homographs apart, and a model for other words.

    It reads numbers, dates, money and abbreviations out itself. What it has loaded belongs to one
    thread, so one thread does all its work.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="phonemes")
        self._thread.submit(self._said, "one").result()  # what it loads is loaded with the voice

    def phonemes(self, text: str) -> str:
        return self._thread.submit(self._said, text).result()

    def close(self) -> None:
        self._thread.shutdown()

    def _said(self, text: str) -> str:
        from gruut import sentences

        spelled = _ACRONYMS.sub(lambda found: f"{' '.join(found[1])}'s", text)
        spelled = _WITHOUT_VOWEL.sub(lambda found: found[0].upper(), spelled)
        said = ""
        for sentence in sentences(spelled, lang=self._language, espeak=True):
            for word in sentence:
                if word.is_major_break or word.is_minor_break:
                    mark = word.text if word.text in MARKS else BREAKS[word.phonemes[0]]
                    said = said.rstrip(MARKS) + mark
                elif word.phonemes:
                    said += f" {''.join(word.phonemes)}"
        return said.strip()


class EspeakPhonemizer(Phonemizer):
    """espeak-ng by its C interface (espeak-ng/speak_lib.h), one call at a time: it has one voice
    for the whole process."""

    _lock = Lock()
    _library: ctypes.CDLL | None = None

    def __init__(self, language: str) -> None:
        self._language = language
        with self._lock:
            self._select(self._loaded())

    def phonemes(self, text: str) -> str:
        with self._lock:
            library = self._loaded()
            self._select(library)
            clauses = (
                self._clause(library, words) + (mark[0] if mark else "")
                for words, mark in _CLAUSE.findall(text)
            )
            return " ".join(filter(None, clauses)).replace("…", ".")

    @classmethod
    def _loaded(cls) -> ctypes.CDLL:
        if cls._library is None:
            import espeakng_loader

            library = ctypes.CDLL(espeakng_loader.get_library_path())
            library.espeak_TextToPhonemes.restype = ctypes.c_char_p
            data = espeakng_loader.get_data_path().encode()
            if library.espeak_Initialize(2, 0, data, 0) < 0:  # 2: sound is not asked for
                raise BackendError("espeak-ng could not read its data. Install it again.")
            cls._library = library
        return cls._library

    def _select(self, library: ctypes.CDLL) -> None:
        """Few languages of espeak-ng have a voice a region: "pt-br" is one, "fr-fr" is "fr"."""
        names = (self._language.lower(), self._language.partition("-")[0])
        if all(library.espeak_SetVoiceByName(name.encode()) for name in names):
            raise RequestError(f"espeak-ng does not pronounce {self._language!r}.")

    @staticmethod
    def _clause(library: ctypes.CDLL, words: str) -> str:
        left = ctypes.c_char_p(words.strip().encode())
        said: list[str] = []
        while left.value:
            found = library.espeak_TextToPhonemes(ctypes.byref(left), 1, 2)  # UTF-8 in, IPA out
            said.append((found or b"").decode())
        return re.sub(r"\([a-z-]+\)", "", " ".join(said)).strip()  # “(en)”: a foreign word begins


class JapanesePhonemizer(Phonemizer):
    """Open JTalk: the reading of every word, kana by kana, in the alphabet of Kokoro's voices."""

    _lock = Lock()

    def phonemes(self, text: str) -> str:
        import pyopenjtalk

        said = ""
        with self._lock:
            for piece, mark in re.findall(r"([^。、！？!?.,，．…]*)([。、！？!?.,，．…]*)", text):
                if piece.strip():
                    sounds = str(pyopenjtalk.g2p(piece)).split()
                    said += "".join(JAPANESE.get(sound, sound) for sound in sounds)
                if mark and said:
                    said += JAPANESE_MARKS.get(mark[0], mark[0]) + " "
        return said.strip()


JAPANESE_MARKS = {"。": ".", "、": ",", "！": "!", "？": "?", "，": ",", "．": ".", "…": "."}
JAPANESE = {
    "pau": ",",
    "N": "ɴ",
    "cl": "ʔ",
    "sh": "ɕ",
    "ch": "ʨ",
    "ts": "ʦ",
    "j": "ʥ",
    "y": "j",
    "r": "ɾ",
    "f": "ɸ",
    "g": "ɡ",
    "U": "u",
    "I": "i",
    "A": "a",
    "E": "e",
    "O": "o",
    "u": "ɯ",
    "ky": "kʲ",
    "gy": "ɡʲ",
    "ny": "ɲ",
    "hy": "ç",
    "by": "bʲ",
    "py": "pʲ",
    "my": "mʲ",
    "ry": "ɾʲ",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A library that pronounces, the module it needs, and how it is installed."""

    module: str
    install: str
    make: Callable[[str], Phonemizer]

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


EXTRA = "pip install 'multimodal-chat[voices]'"
ESPEAK = Engine("espeakng_loader", EXTRA, EspeakPhonemizer)
ENGINES: dict[str, tuple[Engine, ...]] = {
    "en": (Engine("gruut_lang_en", "pip install gruut", GruutPhonemizer), ESPEAK),
    "fr": (ESPEAK,),
    "ja": (Engine("pyopenjtalk", EXTRA, lambda language: JapanesePhonemizer()),),
    "es": (ESPEAK,),
    "it": (ESPEAK,),
    "pt": (ESPEAK,),
    "hi": (ESPEAK,),
}
"""By language, what may pronounce it; the first that is installed does."""


def can_pronounce(language: str) -> bool:
    """Whether a library that pronounces that language (BCP 47) is installed."""
    return _engine(language) is not None


def explain_missing_phonemizer(language: str) -> str:
    """What to do so that it can be pronounced, as a sentence."""
    name = language_name(language.partition("-")[0])
    engines = ENGINES.get(language.partition("-")[0], ())
    if not engines:
        return f"Nothing here pronounces {name}."
    return (
        f"How {name} is pronounced is told by a library that is not installed: {engines[0].install}"
    )


def phonemizer(language: str) -> Phonemizer:
    """The best one installed for a language, such as en-US. Raises RequestError."""
    if (engine := _engine(language)) is None:
        raise RequestError(explain_missing_phonemizer(language))
    return engine.make(language)


def _engine(language: str) -> Engine | None:
    engines = ENGINES.get(language.partition("-")[0], ())
    return next((engine for engine in engines if engine.is_installed), None)
