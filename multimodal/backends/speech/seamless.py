"""SeamlessM4T v2: hears and speaks many languages, and translates between them.

It is told in which language to write and does not find out which one it hears. So the language is
the one asked for, else the card's (`engine.language`, English unless it says otherwise), and what
is said in another language comes out translated into it. Languages are matched to the checkpoint's
own three-letter codes by langcodes.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from langcodes import closest_supported_match, standardize_tag
from langcodes.tag_parser import LanguageTagError
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call
from transformers import (
    AutoFeatureExtractor,
    GenerationMixin,
    SeamlessM4Tv2Model,
    StoppingCriteria,
    StoppingCriteriaList,
)

from multimodal.backends.base import Backend
from multimodal.backends.checkpoints import check_folder, from_folder
from multimodal.backends.engine_options import parse_options
from multimodal.backends.speech.options import SeamlessOptions
from multimodal.backends.speech.recognizer import (
    ENGLISH,
    SpeechRecognizer,
    TranscribeOptions,
    unknown_language,
)
from multimodal.backends.speech.sentences import clauses, sentences
from multimodal.backends.speech.synthesizer import speak
from multimodal.backends.speech.voice_activity import Window
from multimodal.backends.tokenizer_files import LOCAL, check_vocabulary, load_tokenizer
from multimodal.backends.worker import Emit, Stopped
from multimodal.catalog.cards import ModelCard, truncate
from multimodal.errors import BackendError, CardError, PromptError, RequestError
from multimodal.events import EngineEvent, Segment
from multimodal.media.audio import SAMPLE_RATE, at_speed
from multimodal.requests import TranscriptionRequest, TTSRequest

NEAR = 3
"""A dialect is this near to its language at most; a neighbour that most of its speakers know is
farther away."""
SENTENCE_CHARACTERS = 300
"""A longer one would not be spoken to its end."""
PAUSE_S = 0.2
VOICE_DIGITS = 6

WRITES, SPEAKS = "text_decoder_lang_to_code_id", "vocoder_lang_code_to_id"


def load(card: ModelCard, files: Path, device: str) -> Backend:
    """Load the model, the feature extractor and the tokenizer of the folder `files`."""
    check_folder(card, files)
    extractor: Any = AutoFeatureExtractor.from_pretrained(files, **LOCAL)  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(files)
    model = from_folder(SeamlessM4Tv2Model, card, files, device)
    check_vocabulary(card, tokenizer, model)
    if device == "cpu" and model.dtype is not torch.float32:
        model.vocoder.hifi_gan = Float32Wrapper(model.vocoder.hifi_gan)
    return Seamless(card, model, extractor, tokenizer)


class Float32Wrapper(nn.Module):
    """Computes a module in fp32 and leaves its weights as they are; they are copied for each call.

    On a processor with AMX, oneDNN keeps what a convolution in 16 bits works in for every length
    that it ever met: gigabytes for a vocoder, which is also several times slower than in fp32.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weights = {name: weight.float() for name, weight in self.module.named_parameters()}
        made: torch.Tensor = functional_call(self.module, weights, (features.float(),))
        return made


class Seamless(SpeechRecognizer[Any]):
    def __init__(self, card: ModelCard, model: Any, extractor: Any, tokenizer: Any) -> None:
        options = parse_options(card, SeamlessOptions)
        super().__init__(card, model, options.beam_size, options.language)
        self._extractor = extractor
        self._tokenizer = tokenizer
        try:
            self._code(None, WRITES)
        except RequestError as error:
            raise CardError(f"{card.name}: engine.language: {error}") from error

    def run(
        self, request: TranscriptionRequest | TTSRequest, stop: threading.Event
    ) -> Generator[EngineEvent, None, None]:
        """Hear a recording, or speak a text: then a SentenceSpoken and Progress a sentence, and one
        SpeechGenerated."""
        if isinstance(request, TTSRequest):
            self._check_speakable(request)
            return self._worker.stream(
                lambda emit, stopped: self._speak(request, emit, stopped), stop
            )
        return super().run(request, stop)

    # ------------------------------------------------------------ hearing

    def check_language(self, language: str | None) -> None:
        self._code(language, WRITES)

    def segments(self, window: Window, manner: TranscribeOptions) -> Iterator[Segment]:
        into = manner.into if manner.task == "translate" else manner.language
        if text := self._written(window.samples, self._code(into, WRITES), manner):
            yield window.whole(text)

    @torch.inference_mode()
    def _written(self, samples: NDArray[np.float32], target: str, manner: TranscribeOptions) -> str:
        model = self._model
        encoded = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        features = encoded["input_features"].to(model.device, model.dtype)
        first = self._codes(WRITES)[target]
        model.set_modality("speech")
        # Its own `generate` would keep the scores of all 256,000 words for every word written.
        made = GenerationMixin.generate(
            model,
            input_features=features,
            attention_mask=encoded["attention_mask"].to(model.device),
            decoder_input_ids=torch.tensor([[first]], device=model.device),
            num_beams=manner.beams or self._beams,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([_Stop(manner.stopped)]),
        )
        return str(self._tokenizer.decode(made[0], skip_special_tokens=True)).strip()

    # ------------------------------------------------------------ speaking

    def _check_speakable(self, request: TTSRequest) -> None:
        self._code(request.language, SPEAKS)
        self._code(request.text_language or request.language, WRITES)
        speakers = int(self._model.config.vocoder_num_spkrs)
        voice = request.voice or "0"
        if not (voice.isdecimal() and len(voice) <= VOICE_DIGITS and int(voice) < speakers):
            raise RequestError(
                f"{self._card.title} has no voice {truncate(voice)}; take one from 0 to "
                f"{speakers - 1}."
            )
        if not sentences(request.text):
            raise PromptError("There is no word in the text to speak. Write some.")

    def _speak(self, request: TTSRequest, emit: Emit, stopped: Stopped) -> None:
        spoken = self._code(request.language, SPEAKS)
        written = self._code(request.text_language or request.language, WRITES)
        said = [p for s in sentences(request.text) for p in clauses(s, SENTENCE_CHARACTERS)]

        def make(sentence: str) -> NDArray[np.float32]:
            made = self._spoken(sentence, written, spoken, int(request.voice or 0))
            return at_speed(made, SAMPLE_RATE, request.speed)

        speak(self._card.title, said, make, PAUSE_S, SAMPLE_RATE, emit, stopped)

    @torch.inference_mode()
    def _spoken(
        self, sentence: str, written: str, spoken: str, speaker: int
    ) -> NDArray[np.float32]:
        model = self._model
        encoded = self._tokenizer(sentence, src_lang=written, return_tensors="pt")
        waveform, _ = model.generate(
            input_ids=encoded["input_ids"].to(model.device),
            attention_mask=encoded["attention_mask"].to(model.device),
            tgt_lang=spoken,
            speaker_id=speaker,
            text_do_sample=False,
            text_min_new_tokens=1,  # of no words at all it cannot make a sound
        )
        samples: NDArray[np.float32] = waveform[0].float().cpu().numpy()
        return samples

    # ------------------------------------------------------------ languages

    def _codes(self, ability: str) -> Mapping[str, int]:
        """The checkpoint's codes of the languages it `WRITES` or `SPEAKS`."""
        codes: Mapping[str, int] | None = getattr(self._model.generation_config, ability, None)
        if not codes:
            raise BackendError(
                f"{self._card.title}: its generation_config.json names no languages ({ability}). "
                "Fetch the checkpoint again."
            )
        return codes

    def _code(self, language: str | None, ability: str) -> str:
        """The checkpoint's code of a language given as ISO 639-1 or -3, of the card's own where
        none is. Raises RequestError."""
        language = language or self._default or ENGLISH
        codes = self._codes(ability)
        if (found := match_code(language, codes)) is None:
            known = sorted(standardize_tag(_as_tag(code), macro=True) for code in codes)
            raise unknown_language(self._card, language, known)
        return found


def match_code(language: str, codes: Iterable[str]) -> str | None:
    """Which of a checkpoint's `codes` stands for a language given as ISO 639-1 or -3; None where
    none does."""
    own = {_as_tag(code): code for code in codes}
    try:
        found = closest_supported_match(language, list(own), NEAR)
    except LanguageTagError:
        return None
    return None if found is None else own[found]


def _as_tag(code: str) -> str:
    return code.replace("_", "-")


class _Stop(StoppingCriteria):
    def __init__(self, stopped: Stopped) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self._stopped(), device=input_ids.device)
