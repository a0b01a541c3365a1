"""The Whisper model that is exported, what it makes of some recordings, and the comparison of an
export with that.

The recordings are made here: a voice without words, a sweep, noise, of several lengths. What is
compared is how a recording is prepared, what the encoder makes of it, what the decoder holds for
likely behind a fixed text and writes itself, and which tokens are no words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, EncoderDecoderCache

from multimodal.backends.hf.prefix_cache import CACHE_ARGUMENT
from multimodal.backends.onnx.whisper import log_mel
from multimodal.backends.onnx.whisper_tokens import Read, WhisperTokens, write_tokens
from multimodal.catalog.cards import ModelCard
from multimodal.media.audio import SAMPLE_RATE
from multimodal.studio.context import JobContext
from multimodal.studio.evaluation.forgetting import plain_text
from multimodal.studio.export.certificate import UNDECIDED, check_probabilities
from multimodal.studio.export.onnx_graph import key_values
from multimodal.studio.export.plan import Check, Latency
from multimodal.studio.export.timing import fastest
from multimodal.studio.recipes.speech_model import Samples
from multimodal.studio.recipes.whisper_model import WINDOW_S, load_whisper

SECONDS = (5.0, 1.3, WINDOW_S)
"""Of the recordings."""
SAMPLED = 25
"""One position of so many is compared of what the encoder makes."""
TEXT_TOKENS, GREEDY_TOKENS, TIMED_TOKENS = 48, 32, 24
"""Of the fixed text; that are written at most; of a recording that is timed."""
FURTHEST: Mapping[str, float] = {"f32": 1e-3, "f16": 0.03}
"""By which keys and values may differ, as a share of the largest of their layer."""
NEAR_TIES: Mapping[str, float] = {"f32": 1e-3, "f16": UNDECIDED}
"""In nats, between two tokens of which either may be written."""


class OpenedWhisper(Protocol):
    """Whisper that was loaded back; the source itself is asked the same."""

    @property
    def known(self) -> WhisperTokens: ...

    def features(self, samples: Samples) -> NDArray[np.float32]:
        """The spectrum (mels, frames), filled up to 30 s."""

    def encode(self, features: NDArray[np.float32]) -> Any:
        """What `reader` and `key_values` take."""

    def key_values(self, sound: Any) -> list[NDArray[np.float32]]:
        """Of every layer of the decoder, each of shape (1, heads, positions, dimensions)."""

    def reader(self, sound: Any) -> Read:
        """Reads tokens behind one another, about that sound."""

    def tokenize(self, text: str) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int]) -> str: ...

    def close(self) -> None: ...


class SpeechSource:
    """As `OpenedWhisper` says, by transformers' model, in fp32, on the CPU."""

    stored = "f32"

    def __init__(self, model: Any, tokenizer: Any, extractor: Any, card: ModelCard) -> None:
        self.model, self.tokenizer, self.extractor, self.card = model, tokenizer, extractor, card
        self.known = WhisperTokens.of(model.generation_config)

    @property
    def config(self) -> Any:
        return self.model.config

    def features(self, samples: Samples) -> NDArray[np.float32]:
        return log_mel(self.extractor, samples)

    @torch.no_grad()
    def encode(self, features: NDArray[np.float32]) -> torch.Tensor:
        """Hidden states of shape (1, positions, width)."""
        found: torch.Tensor = self.model.get_encoder()(torch.from_numpy(features[None]))[0]
        return found

    @torch.no_grad()
    def key_values(self, sound: torch.Tensor) -> list[NDArray[np.float32]]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._read([self.known.start], sound, cache)
        return [it.numpy() for pair in key_values(cache.cross_attention_cache) for it in pair]

    def reader(self, sound: torch.Tensor) -> Read:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return lambda tokens: self._read(tokens, sound, cache)

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens)))

    def close(self) -> None:
        """It goes with what holds it."""

    @torch.no_grad()
    def _read(self, tokens: Sequence[int], sound: torch.Tensor, cache: Any) -> torch.Tensor:
        told = self.model(
            encoder_outputs=(sound,),
            decoder_input_ids=torch.tensor([list(tokens)]),
            use_cache=True,
            **{CACHE_ARGUMENT: cache},
        )
        found: torch.Tensor = told.logits[0].float()
        return found


@dataclass(frozen=True, slots=True)
class HeardRecording:
    """`sound`: keys and values at one position of SAMPLED; `log_probabilities` of shape (tokens,
    vocabulary): what follows each token of `prompt` and of the fixed text, in nats; `written`: the
    likeliest tokens behind `prompt`, with the end where it came."""

    samples: Samples
    features: NDArray[np.float32]
    sound: tuple[NDArray[np.float32], ...]
    prompt: tuple[int, ...]
    log_probabilities: torch.Tensor
    written: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SpeechReference:
    """`text`: tokens of the fixed text; `encoded`: token ids by text, `decoded`: what those say;
    `recording_ms`: of the first recording with `TIMED_TOKENS` tokens."""

    known: WhisperTokens
    heard: tuple[HeardRecording, ...]
    text: tuple[int, ...]
    encoded: Mapping[str, tuple[int, ...]]
    decoded: tuple[str, ...]
    recording_ms: float


def load_speech_source(job: JobContext, card: ModelCard) -> SpeechSource:
    """The weights of `job.start`, with the encoder's whole window. Raises BackendError."""
    found = load_whisper(job.start.card, job.start.files, None, WINDOW_S)
    found.restore()
    processor = found.processor
    return SpeechSource(found.model.eval(), processor.tokenizer, processor.feature_extractor, card)


def recordings() -> list[Samples]:
    """The same ones each time: a voice, a sweep, noise that comes and goes."""
    random = np.random.default_rng(11)
    voice, sweep, noise = (np.arange(int(it * SAMPLE_RATE)) / SAMPLE_RATE for it in SECONDS)
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * voice)) / SAMPLE_RATE
    spoken = sum(np.sin(at * phase) / at for at in range(1, 30)) * np.sin(np.pi * 3 * voice) ** 2
    made = [
        0.1 * spoken,
        0.3 * np.sin(2 * np.pi * (100 + 1500 * sweep) * sweep),
        random.normal(0, 0.05, len(noise)) * (1 + np.sin(2 * np.pi * noise / 7)),
    ]
    return [np.asarray(it, np.float32) for it in made]


def measure_speech(source: SpeechSource) -> SpeechReference:
    """Run the source; takes seconds to minutes."""
    text = tuple(source.tokenizer("\n\n".join(plain_text()), add_special_tokens=False)["input_ids"])
    text = text[:TEXT_TOKENS]
    heard = tuple(
        _hear(source, it, prompt, text)
        for it, prompt in zip(recordings(), _prompts(source.known), strict=True)
    )
    first = heard[0]
    seconds = fastest(lambda: _hear_again(source, first, text))
    encoded = {it: tuple(source.tokenize(it)) for it in plain_text()}
    decoded = tuple(map(source.detokenize, encoded.values()))
    return SpeechReference(source.known, heard, text, encoded, decoded, seconds * 1000)


def compare_speech(
    opened: OpenedWhisper, reference: SpeechReference, quantization: str, file: str
) -> Iterator[Check]:
    """Every check of a Whisper model that was loaded back."""
    heard = reference.heard
    prepared = [opened.features(it.samples) for it in heard]
    equal = sum(map(np.array_equal, prepared, (it.features for it in heard)))
    yield Check(
        "spectra",
        file,
        equal == len(heard),
        f"{equal} of {len(heard)} recordings",
        "all",
        "the numbers that the model reads of a recording",
    )
    sounds = [opened.encode(it.features) for it in heard]
    pairs = list(zip(heard, sounds, strict=True))
    yield _same_sound(opened, pairs, quantization, file)
    rows = [_forced(opened.reader(sound), it.prompt, reference.text) for it, sound in pairs]
    yield from _close_probabilities(rows, heard, quantization, file)
    yield _same_tokens(opened, pairs, quantization, file)
    is_same = opened.known == reference.known
    yield Check(
        "tokens that are no words",
        file,
        is_same,
        "the same" if is_same else "others",
        "the same",
        "of languages, tasks, times, beginning and end, and those that are never written",
    )
    yield _same_encoding(opened, reference, file)


def speech_latency(opened: OpenedWhisper, reference: SpeechReference, file: str) -> Latency:
    """Milliseconds of the first recording, its spectrum counted in."""
    seconds = fastest(lambda: _hear_again(opened, reference.heard[0], reference.text))
    unit = f"recording of {SECONDS[0]:g} s with {TIMED_TOKENS} tokens"
    return Latency(file, unit, reference.recording_ms, seconds * 1000)


# ------------------------------------------------------------ of the source


def _prompts(known: WhisperTokens) -> list[tuple[int, ...]]:
    """For each recording, in several languages where it knows them."""
    names: Sequence[str | None] = list(known.languages) or [None]
    asked = (("transcribe", 0), ("translate", len(names) // 2), ("transcribe", len(names) - 1))
    return [tuple(known.prompt(task, names[at])) for task, at in asked]


def _hear(
    source: SpeechSource, samples: Samples, prompt: tuple[int, ...], text: tuple[int, ...]
) -> HeardRecording:
    features = source.features(samples)
    sound = source.encode(features)
    rows = torch.log_softmax(source.reader(sound)([*prompt, *text]), -1)
    told = write_tokens(source.reader(sound), source.known, prompt, GREEDY_TOKENS)
    has_ended = len(told.tokens) < GREEDY_TOKENS
    written = (*told.tokens, source.known.end) if has_ended else told.tokens
    kept = tuple(_sampled(source.key_values(sound)))
    return HeardRecording(samples, features, kept, prompt, rows, written)


def _hear_again(opened: OpenedWhisper, heard: HeardRecording, text: Sequence[int]) -> None:
    """A fixed number of tokens, so that nothing depends on which are the likeliest."""
    read = opened.reader(opened.encode(opened.features(heard.samples)))
    read(heard.prompt)
    for token in text[:TIMED_TOKENS]:
        read([token])


def _sampled(tensors: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    return [np.array(it[:, :, ::SAMPLED], np.float32) for it in tensors]


# ------------------------------------------------------------ of the export


def _same_sound(
    opened: OpenedWhisper,
    pairs: Sequence[tuple[HeardRecording, Any]],
    quantization: str,
    file: str,
) -> Check:
    allowed = FURTHEST[quantization]
    furthest = max(
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for it, sound in pairs
        for ours, theirs in zip(_sampled(opened.key_values(sound)), it.sound, strict=True)
    )
    return Check(
        "keys and values of the sound",
        file,
        furthest <= allowed,
        f"{furthest:.2g} apart",
        f"at most {allowed:g}",
        f"the largest difference as a share of the largest number of its layer, at one position of "
        f"{SAMPLED} in {len(pairs)} recordings",
    )


def _forced(read: Read, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """Log-probabilities behind each token: the prompt at once, the text by turns in pieces of one
    token and of five, each behind the cache of those before."""
    rows, at = [read(prompt)], 0
    while at < len(text):
        size = 5 if len(rows) % 2 else 1
        rows.append(read(text[at : at + size]))
        at += size
    return torch.log_softmax(torch.cat(rows), -1)


def _close_probabilities(
    rows: Sequence[torch.Tensor], heard: Sequence[HeardRecording], quantization: str, file: str
) -> Iterator[Check]:
    ours = torch.cat(list(rows)).double()
    theirs = torch.cat([it.log_probabilities for it in heard]).double()
    divergence = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    best = theirs.gather(-1, ours.argmax(-1, keepdim=True))[:, 0]
    agreement = fmean((theirs.max(-1).values - best <= UNDECIDED).tolist())
    where = f"{len(ours)} positions of a fixed text, about {len(heard)} recordings"
    yield from check_probabilities(divergence, agreement, quantization, where, file)


def _same_tokens(
    opened: OpenedWhisper,
    pairs: Sequence[tuple[HeardRecording, Any]],
    quantization: str,
    file: str,
) -> Check:
    near_tie = NEAR_TIES[quantization]
    found = [_agreeing(opened, it, sound, near_tie) for it, sound in pairs]
    wanted = sum(len(it.written) for it, _ in pairs)
    same = sum(agreed for agreed, _ in found)
    ties = sum(tied for _, tied in found)
    return Check(
        "written tokens",
        file,
        same == wanted,
        f"{same} of {wanted} tokens" + (f", {ties} of them near ties" if ties else ""),
        f"all, or within {near_tie:g} nats of the likeliest",
        f"what is written of {len(pairs)} recordings, with times, by the likeliest token at a time",
    )


@torch.no_grad()
def _agreeing(
    opened: OpenedWhisper, heard: HeardRecording, sound: Any, near_tie: float
) -> tuple[int, int]:
    """How many of the source's tokens the export writes as well, up to the first that it does not,
    and how many of them are near ties."""
    read, apply = opened.reader(sound), opened.known.rules(len(heard.prompt))
    said, new, ties = list(heard.prompt), list(heard.prompt), 0
    for at, token in enumerate(heard.written):
        likely = torch.log_softmax(apply(said, read(new)[-1]), -1)
        if float(likely.max() - likely[token]) > near_tie:
            return at, ties
        ties += int(likely.argmax()) != token
        said, new = [*said, token], [token]
    return len(heard.written), ties


def _same_encoding(opened: OpenedWhisper, reference: SpeechReference, file: str) -> Check:
    texts = reference.encoded
    same = sum(
        opened.tokenize(text) == list(ids) and opened.detokenize(ids) == decoded
        for (text, ids), decoded in zip(texts.items(), reference.decoded, strict=True)
    )
    return Check(
        "tokens of texts",
        file,
        same == len(texts),
        f"{same} of {len(texts)} texts",
        "all",
        "the token ids of texts, and the texts of those",
    )
