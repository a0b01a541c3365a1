"""SeamlessM4T v2 as it is taught to write what it hears; what it reads and speaks with stays as it
is, and is saved with it, so that the result does all that the model did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoFeatureExtractor,
    GenerationMixin,
    SeamlessM4TProcessor,
    SeamlessM4Tv2Model,
)

from multimodal.backends.checkpoints import check_folder
from multimodal.backends.speech.seamless import WRITES, match_code
from multimodal.backends.tokenizer_files import LOCAL, check_vocabulary, load_tokenizer
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, JobError
from multimodal.media.audio import SAMPLE_RATE
from multimodal.studio.recipes.speech_model import (
    Item,
    Samples,
    bare,
    most_tokens,
    pad_written,
    written,
)
from multimodal.studio.recipes.wide_checkpoint import load_wide

OTHERS = ("text_encoder.", "t2u_model.", "vocoder.")
"""What reads and speaks."""


def load_seamless(card: ModelCard, files: Path, language: str | None) -> SeamlessSpeech:
    """Raises BackendError, and JobError for a language that it does not write."""
    check_folder(card, files)
    extractor: Any = AutoFeatureExtractor.from_pretrained(files, **LOCAL)  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(files)
    model = load_wide(SeamlessM4Tv2Model, card, files)
    check_vocabulary(card, tokenizer, model)
    codes = getattr(model.generation_config, WRITES, None)
    if not codes:
        raise BackendError(f"{card.title}: its generation_config.json names no languages.")
    asked = language or str(card.engine.get("language") or "en")
    if (code := match_code(asked, codes)) is None:
        raise JobError(f"{card.title} does not write “{asked[:20]}”; name another --language.")
    return SeamlessSpeech(model, extractor, tokenizer, codes[code])


class SeamlessSpeech:
    """As `speech_model.SpeechModel` says. `sign`: the token of the language that is written."""

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, sign: int) -> None:
        model.set_modality("speech")
        self.model, self._extractor, self._tokenizer = model, extractor, tokenizer
        self.processor: Any = SeamlessM4TProcessor(extractor, tokenizer)  # type: ignore[no-untyped-call]
        self._sign = sign

    def item(self, samples: Samples, text: str) -> Item:
        made = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        tokens = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        config = bare(self.model).config
        prompt = [config.decoder_start_token_id, self._sign]
        return {
            "input_features": made["input_features"][0],
            "attention_mask": made["attention_mask"][0],
            **written(prompt, tokens, config.eos_token_id),
        }

    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            name: pad([item[name] for item in items], batch_first=True)
            for name in ("input_features", "attention_mask")
        } | pad_written(items, bare(self.model).config.pad_token_id)

    def transcribe(self, recordings: Sequence[Samples]) -> list[str]:
        model, found = bare(self.model), list[str]()
        for samples in recordings:
            encoded = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            made = GenerationMixin.generate(
                model,
                input_features=encoded["input_features"].to(model.device),
                attention_mask=encoded["attention_mask"].to(model.device),
                decoder_input_ids=torch.tensor([[self._sign]], device=model.device),
                num_beams=1,
                do_sample=False,
                max_new_tokens=most_tokens(len(samples) / SAMPLE_RATE),
            )
            found.append(str(self._tokenizer.decode(made[0], skip_special_tokens=True)).strip())
        return found

    def freeze(self, trains_encoder: bool) -> None:
        for name, parameter in self.model.named_parameters():
            if name.startswith(OTHERS) or (
                name.startswith("speech_encoder.") and not trains_encoder
            ):
                parameter.requires_grad_(False)

    def adapted_modules(self) -> str:
        attention = r"text_decoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
        heard = r"speech_encoder\..*\.(linear_q|linear_k|linear_v|linear_out|output_dense)"
        return f"({attention}|{heard})"

    def restore(self) -> None:
        """Nothing was changed."""
