"""Whisper as it is taught: transformers' model of what CTranslate2 or OpenAI's own package reads.

Whisper's authors fill every recording up to 30 s. The engine of the chat gives a short one less
(`backends/speech/faster_whisper.py`: at least 10 s, and 5 s of silence behind it), and so does the
training, which then takes a third of the time: the encoder's positions are cut to that window,
which leaves those of its beginning as they are, and are whole again before the model is saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from multimodal.backends.speech.faster_whisper import SHORTEST_S, SILENCE_S
from multimodal.backends.tokenizer_files import LOCAL, restore_published_pipeline
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, DataError, JobError
from multimodal.media.audio import SAMPLE_RATE
from multimodal.studio.recipes.speech_model import (
    Item,
    Samples,
    bare,
    most_tokens,
    pad_written,
    written,
)
from multimodal.studio.recipes.whisper_weights import (
    WhisperWeights,
    read_ctranslate2,
    read_openai,
)

WINDOW_S = 30.0
BATCH = 8
"""Recordings that are transcribed at once; all have the same window, so none is padded."""
SPECIAL = {
    "decoder_start_token_id": "<|startoftranscript|>",
    "eos_token_id": "<|endoftext|>",
    "bos_token_id": "<|endoftext|>",
    "pad_token_id": "<|endoftext|>",
    "no_timestamps_token_id": "<|notimestamps|>",
    "prev_sot_token_id": "<|startofprev|>",
}


def load_whisper(
    card: ModelCard, files: Path, language: str | None, longest_s: float
) -> WhisperSpeech:
    """Raises BackendError, and JobError for a language that it does not know."""
    if card.family == "faster_whisper":
        weights = read_ctranslate2(files / "model.bin")
        tokenizer: Any = WhisperTokenizer.from_pretrained(files, **LOCAL)
        restore_published_pipeline(tokenizer, files)
        told = _engine_config(files / "config.json")
    else:
        from multimodal.studio.recipes.whisper_tokenizer import openai_tokenizer

        found = [files] if files.is_file() else sorted(files.glob("*.pt"))
        if not found:
            raise BackendError(f"{card.title}: there is no .pt file in {files}.")
        weights = read_openai(found[0])
        tokenizer, told = openai_tokenizer(int(weights.config["vocab_size"]))
    model = _model(card, weights, _generation(card, tokenizer, told))
    return WhisperSpeech(card.title, model, tokenizer, language, longest_s)


def _engine_config(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(f"{path} cannot be read ({error}). Fetch the model again.") from error
    return found


def _generation(card: ModelCard, tokenizer: Any, told: Mapping[str, Any]) -> GenerationConfig:
    """What the published generation_config.json says, from the vocabulary and what CTranslate2
    keeps of it (`lang_ids`, `suppress_ids`, `suppress_ids_begin`, `alignment_heads`)."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if missing := set(SPECIAL.values()) - vocabulary.keys():
        raise BackendError(f"{card.title}: its tokenizer knows no {min(missing)}. Fetch it again.")
    numbers = {number: token for token, number in vocabulary.items()}
    languages = {numbers[number]: number for number in told.get("lang_ids") or ()}
    more = {"alignment_heads": told["alignment_heads"]} if told.get("alignment_heads") else {}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        **{name: vocabulary[token] for name, token in SPECIAL.items()},
        is_multilingual=len(languages) > 1,
        lang_to_id=languages,
        task_to_id={task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")},
        suppress_tokens=list(told.get("suppress_ids") or ()),
        begin_suppress_tokens=list(told.get("suppress_ids_begin") or ()),
        max_initial_timestamp_index=50,
        return_timestamps=False,
        **more,
    )


def _model(card: ModelCard, weights: WhisperWeights, generation: GenerationConfig) -> Any:
    names = ("decoder_start_token_id", "eos_token_id", "bos_token_id", "pad_token_id")
    config = WhisperConfig(**weights.config, **{name: getattr(generation, name) for name in names})
    model: Any = WhisperForConditionalGeneration(config)
    try:
        found = model.load_state_dict(weights.state, strict=False)
    except RuntimeError as error:
        raise BackendError(f"{card.title}: its weights do not fit together ({error}).") from error
    if missing := [*set(found.missing_keys) - {"proj_out.weight"}, *found.unexpected_keys]:
        raise BackendError(
            f"{card.title}: {min(missing)} is missing, or none of Whisper's weights."
        )
    model.tie_weights()
    model.generation_config = generation
    return model.eval()


class WhisperSpeech:
    """As `speech_model.SpeechModel` says. `language`: ISO 639, or None where the model is to find
    out, which only `transcribe` can."""

    def __init__(
        self, title: str, model: Any, tokenizer: Any, language: str | None, longest_s: float
    ) -> None:
        self.model, self._title, self._tokenizer = model, title, tokenizer
        config = model.config
        extractor: Any = WhisperFeatureExtractor(feature_size=config.num_mel_bins)  # type: ignore[no-untyped-call]
        self._extractor = extractor
        self.processor: Any = WhisperProcessor(extractor, tokenizer)  # type: ignore[no-untyped-call]
        self._positions, self._language = model.model.encoder.embed_positions, language
        self._prompt = self._prompt_of(model.generation_config)
        self._most = int(config.max_target_positions)
        whole = int(config.max_source_positions)
        window_s = min(WINDOW_S, max(SHORTEST_S, longest_s + SILENCE_S))
        self._cut(min(whole, int(whole * window_s / WINDOW_S)))

    def item(self, samples: Samples, text: str) -> Item:
        tokens = self._tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        if len(self._prompt) + len(tokens) > self._most:
            raise DataError(
                f"“{text[:40]}...” has more than the {self._most - len(self._prompt)} tokens that "
                f"{self._title} writes of one recording; cut the recording into parts."
            )
        end = self._tokenizer.convert_tokens_to_ids(SPECIAL["eos_token_id"])
        return {
            "input_features": self._features([samples])[0],
            **written(self._prompt, tokens, end),
        }

    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        features = torch.stack([item["input_features"] for item in items])
        padding = self.model.config.pad_token_id
        return {"input_features": features, **pad_written(items, padding)}

    def transcribe(self, recordings: Sequence[Samples]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(recordings), BATCH):
            found += self._transcribe(recordings[start : start + BATCH])
        return found

    def freeze(self, trains_encoder: bool) -> None:
        encoder = self.model.model.encoder
        encoder.embed_positions.requires_grad_(
            False
        )  # sines, which Whisper's authors never trained
        if not trains_encoder:
            encoder.requires_grad_(False)

    def adapted_modules(self) -> str:
        return r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"

    def restore(self) -> None:
        encoder = bare(self.model).model.encoder
        self._positions.to(encoder.conv1.weight.device)
        encoder.embed_positions = self._positions
        bare(self.model).config.max_source_positions = self._positions.num_embeddings

    def _prompt_of(self, generation: Any) -> list[int]:
        """Raises JobError for a language that the model does not know."""
        found = [generation.decoder_start_token_id]
        if generation.is_multilingual and self._language is not None:
            token = f"<|{self._language}|>"
            if token not in generation.lang_to_id:
                raise JobError(
                    f"{self._title} knows no language “{self._language[:20]}”; name it as ISO 639 "
                    "does, such as en."
                )
            found += [generation.lang_to_id[token], generation.task_to_id["transcribe"]]
        return [*found, generation.no_timestamps_token_id]

    def _cut(self, positions: int) -> None:
        kept = self._positions.weight[:positions].detach().clone()
        embedding: Any = nn.Embedding
        self.model.model.encoder.embed_positions = embedding.from_pretrained(kept, freeze=True)
        self.model.config.max_source_positions = positions

    def _features(self, recordings: Sequence[Samples]) -> torch.Tensor:
        """Log-mel spectra (recordings, mels, frames) of the window."""
        positions = bare(self.model).config.max_source_positions
        made = self._extractor(
            list(recordings),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            padding="max_length",
            max_length=2 * positions * self._extractor.hop_length,
            truncation=True,
        )
        features: torch.Tensor = made["input_features"]
        return features

    def _transcribe(self, recordings: Sequence[Samples]) -> list[str]:
        model = bare(self.model)
        features = self._features(recordings).to(model.device)
        longest_s = max(map(len, recordings)) / SAMPLE_RATE
        named = {"language": self._language, "task": "transcribe"}
        made = model.generate(
            features,
            attention_mask=torch.ones(features.shape[::2], dtype=torch.long, device=model.device),
            num_beams=1,
            do_sample=False,
            max_new_tokens=min(most_tokens(longest_s), self._most - len(self._prompt) - 1),
            **(named if model.generation_config.is_multilingual else {}),
        )
        found: list[str] = self._tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in found]
