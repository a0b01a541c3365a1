"""The model that is exported, as transformers holds it: merged, in full width, on the CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from multimodal.backends.checkpoints import is_quantized
from multimodal.backends.llama_cpp.gguf_files import gguf_files
from multimodal.catalog.cards import ModelCard
from multimodal.errors import JobError
from multimodal.studio.context import JobContext
from multimodal.studio.export.gguf_ends import declared_ends
from multimodal.studio.recipes.base_model import GGUF, load_base

WIDTHS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Source:
    """`gguf`: the file of a base that came as GGUF; `stored`: in which type (f32, f16, bf16) no
    weight loses anything. `end_ids`: the tokens that end an answer, the tokenizer's own first."""

    model: Any
    tokenizer: Any
    card: ModelCard
    gguf: Path | None
    stored: str
    end_ids: tuple[int, ...]

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def is_tied(self) -> bool:
        """Whether the output layer is the embedding itself."""
        return bool(self.config.tie_word_embeddings)


def load_source(job: JobContext, card: ModelCard) -> Source:
    """The weights of `job.start` with its adapter merged. `card`: that of the model as it is
    called. Raises what `load_base` raises, and JobError for weights of few bits."""
    start = job.start
    is_gguf = start.card.family == GGUF
    if not is_gguf and (start.files / "config.json").is_file() and is_quantized(start.files):
        raise JobError(
            f"{start.card.title} was published in few bits, from which no full-width model can be "
            "made; export the original model instead."
        )
    base = load_base(job)
    path = gguf_files(start.card, start.files).language if is_gguf else None
    model = base.model.eval()
    ends = _end_ids(model, base.tokenizer)
    if path is not None:
        ends = tuple(dict.fromkeys((*ends, *sorted(declared_ends(GGUFReader(path))))))
    stored = "f32" if is_gguf or start.adapter is not None else _stored_type(start.files)
    loaded = WIDTHS[str(model.dtype).removeprefix("torch.")]
    stored = loaded if loaded != "f32" else stored
    return Source(model, base.tokenizer, card, path, stored, ends)


def _stored_type(files: Path) -> str:
    """Of a checkpoint, by its config.json, where releases of transformers before 5 said
    torch_dtype; f32 where it does not say."""
    told = json.loads((files / "config.json").read_text("utf-8"))
    return WIDTHS.get(str(told.get("dtype") or told.get("torch_dtype")), "f32")


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    told = model.generation_config.eos_token_id
    listed = told if isinstance(told, list) else [told]
    found = [number for number in (tokenizer.eos_token_id, *listed) if number is not None]
    return tuple(dict.fromkeys(int(number) for number in found))
