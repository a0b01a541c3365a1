"""The card of a model that was exported in ONNX, which lies beside it. Imports no PyTorch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from multimodal.backends.onnx.layout import MODEL
from multimodal.catalog.cards import ModelCard, first_fault
from multimodal.errors import JobError

CARD = "card.toml"
FAMILIES = frozenset({"onnx_text", "onnx_classifier", "onnx_whisper"})
ENDING = "-onnx"
"""What is added to the name of the source."""
KINDS: Mapping[str, str] = {"f32": "fp32", "f16": "fp16"}
"""How cards call the types of weights."""


def write_card(folder: Path, card: ModelCard, kind: str, facts: Mapping[str, Any]) -> None:
    """Write the card of the model in `folder`, exported from that of `card`, with those `facts` of
    its family and architecture. Raises OSError."""
    kept = card.model_dump(
        mode="json",
        exclude_defaults=True,
        exclude_none=True,
        include={*("summary", "languages", "translates", "limits"), "system_prompt", "sampling"},
    )
    made = ModelCard.model_validate(
        {
            **kept,
            "name": f"{card.base}{ENDING}",
            "title": f"{card.title} (ONNX)",
            "task": card.task,
            "license": card.license,
            "source": {"kind": "folder", "path": "."},
            "quantization": [KINDS[kind]],
            "base_model": card.base_model or card.base,
            **facts,
        }
    )
    told = made.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    (folder / CARD).write_text(tomli_w.dumps(told), "utf-8")


def read_exported_card(folder: Path) -> ModelCard:
    """The card of the export in `folder`, with that folder as where its weights are. Raises
    JobError where there is none, or it is damaged."""
    place = folder.expanduser().absolute()
    try:
        told = tomllib.loads((place / CARD).read_text("utf-8"))
        card = ModelCard.model_validate({**told, "source": {"kind": "folder", "path": str(place)}})
    except FileNotFoundError as error:
        raise JobError(
            f"There is no {CARD} in {place}. Name a folder of multimodal export --to onnx."
        ) from error
    except ValidationError as error:
        raise JobError(f"{place / CARD}: {first_fault(error, ModelCard)}") from error
    except (OSError, ValueError) as error:
        raise JobError(f"{place / CARD} cannot be read ({error}).") from error
    if card.family not in FAMILIES or not (place / MODEL).is_file():
        raise JobError(f"{place} holds no model in ONNX. Export it again by --to onnx.")
    return card
