"""Adapters on the disk, as PEFT saves them: which of them can be used, and what is wrong with one.

Low-rank adapters (LoRA, Hu et al., 2021, https://arxiv.org/abs/2106.09685) of linear layers only,
from safetensors only. What changes the model itself, such as biases, whole layers that were saved
beside it or an initialisation that alters its weights, would outlast the adapter, and is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal.backends.damaged_files import find_damage
from multimodal.catalog.cards import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelCard
from multimodal.errors import BackendError

CHANGES_MORE = (
    *("modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters"),
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
"""Fields of PEFT's LoraConfig with which a layer computes more than W x + s B A x, or other layers
than linear ones are changed."""
PLAIN_INITS: tuple[Any, ...] = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the weights of the base alone."""
PREFIX = "base_model.model."
"""Before the name of a base's module, in the names of an adapter's tensors."""
PARTS = {"lora_A.weight": "a", "lora_B.weight": "b"}


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """`scale` is s of W x + s B A x; `is_uniform`: all layers have the same rank and scale."""

    rank: int
    scale: float
    is_uniform: bool


def read_facts(folder: Path) -> LoraFacts:
    """What adapter_config.json says. Raises ValueError, the end of a sentence, where it is not
    there, is damaged, or asks for what is not done here."""
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        kind = config["peft_type"]
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except FileNotFoundError as error:
        raise ValueError(f"there is no {ADAPTER_CONFIG} in {folder}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no configuration of an adapter.") from error
    if kind != "LORA":
        raise ValueError(f"{path} is of the kind {kind}; only LoRA can be used.")
    if (more := next((name for name in CHANGES_MORE if config.get(name)), None)) is not None:
        raise ValueError(f"{path} has '{more}', which changes more than linear layers by LoRA.")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{path} has 'bias', which would change the model that it is put on.")
    if (init := config.get("init_lora_weights")) not in PLAIN_INITS:
        raise ValueError(f"{path} has 'init_lora_weights' = {init!r}, which alters the model.")
    if rank < 1:
        raise ValueError(f"{path} has a rank of {rank}.")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    is_uniform = not (config.get("rank_pattern") or config.get("alpha_pattern"))
    return LoraFacts(rank, scale, is_uniform)


def find_adapter_fault(folder: Path) -> str | None:
    """Why the adapter in that folder cannot be used, as the end of a sentence; None where nothing
    is wrong with it. Its tensors are not read."""
    if not folder.is_dir():
        return f"its adapter should be in {folder}, which is gone."
    try:
        read_facts(folder)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            return f"there is no {ADAPTER_WEIGHTS} in {folder}."
        return find_damage(folder / ADAPTER_WEIGHTS)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror or error})."


def check_adapter(card: ModelCard) -> tuple[Path, LoraFacts]:
    """The folder of the card's adapter, and its facts. Raises BackendError where it cannot be
    used."""
    if card.adapter is None:
        raise BackendError(f"{card.title} has no adapter.")
    if (fault := find_adapter_fault(card.adapter)) is not None:
        raise BackendError(f"{card.title} cannot be used: {fault}")
    return card.adapter, read_facts(card.adapter)


def split_name(card: ModelCard, name: str) -> tuple[str, str]:
    """The base's module that a tensor of the adapter belongs to, and "a" or "b". Raises
    BackendError for a tensor of another kind."""
    for ending, part in PARTS.items():
        if name.startswith(PREFIX) and name.endswith(f".{ending}"):
            return name[len(PREFIX) : -len(ending) - 1], part
    raise BackendError(
        f"{card.title} cannot be used: its adapter holds '{name}', which is no part of a LoRA of a "
        "linear layer."
    )


def mismatch(card: ModelCard, module: str, base: str, has: str, needs: str) -> BackendError:
    """For an adapter of another model: what its tensors are made for, and what the base has."""
    return BackendError(
        f"{card.title} cannot be used: its adapter was made for another model than {base}. At "
        f"{module} it is made for {needs}, and {base} has {has}."
    )


def adapter_digest(folder: Path) -> str:
    """A name for what an adapter holds, by the sizes and times of its files: what was computed with
    it belongs to no other."""
    states = [(folder / name).stat() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    told = " ".join(f"{state.st_size} {state.st_mtime_ns}" for state in states)
    return f"{folder} {told}"
