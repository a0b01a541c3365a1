"""What a job taught as one adapter of its base, also where it began with an earlier one.

Several adapters of one model become one: for each layer B A = B1 A1 + B2 A2, by putting the rows of
A and the columns of B side by side, each B times its own scale.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multimodal.backends.adapters import PARTS, PREFIX, read_facts
from multimodal.catalog.cards import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from multimodal.errors import JobError
from multimodal.private_files import make_private_folder
from multimodal.studio.context import read_start
from multimodal.studio.folder import JobFolder

if TYPE_CHECKING:
    import torch

STACKED = "adapter"
"""In a job's folder, of a job that began with an earlier adapter: that one and its own in one."""


@dataclass(frozen=True)
class _Adapter:
    """`pairs`: A of shape (rank, inputs) and B of shape (outputs, rank) of each layer, by name; the
    scale is in B."""

    rank: int
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def stack_adapters(folders: Sequence[Path], target: Path) -> None:
    """Write into `target` the adapter that does what those in `folders` do together; a layer that
    one of them leaves alone has zeros for it. What is there is replaced in one step.

    Raises ValueError, the end of a sentence, for one that cannot be read, and OSError.
    """
    import torch
    from safetensors.torch import save_file

    adapters = [_read(folder) for folder in folders]
    tensors: dict[str, torch.Tensor] = {}
    for layer in sorted(_layers(adapters)):
        known = next(a.pairs[layer] for a in adapters if layer in a.pairs)
        pairs = [a.pairs.get(layer, _zeros(a.rank, known)) for a in adapters]
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = torch.cat([a for a, _ in pairs]).contiguous()
        stacked = torch.cat([b for _, b in pairs], dim=1)
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = stacked.contiguous()
    rank = sum(adapter.rank for adapter in adapters)
    config = json.loads((folders[-1] / ADAPTER_CONFIG).read_text("utf-8"))
    config |= {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "target_modules": sorted(_layers(adapters)),
        "layers_to_transform": None,
        "exclude_modules": None,
    }
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    make_private_folder(fresh)
    save_file(tensors, fresh / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (fresh / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)


def _layers(adapters: Sequence[_Adapter]) -> set[str]:
    return {name for adapter in adapters for name in adapter.pairs}


def _zeros(rank: int, like: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = like
    return a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)


def _read(folder: Path) -> _Adapter:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = read_facts(folder)
    if not facts.is_uniform:
        raise ValueError("its layers have ranks or scales of their own.")
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{ADAPTER_WEIGHTS} is damaged ({error}).") from error
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        ending = next((it for it in PARTS if name.endswith(f".{it}")), None)
        if ending is None or not name.startswith(PREFIX):
            raise ValueError(f"'{name}' is no part of a LoRA of a linear layer.")
        found.setdefault(name[len(PREFIX) : -len(ending) - 1], {})[PARTS[ending]] = tensor.float()
    return _Adapter(
        facts.rank, {layer: (it["a"], it["b"] * facts.scale) for layer, it in found.items()}
    )


def adapter_folder(job_folder: JobFolder) -> Path:
    """Where the adapter lies that turns the base into what that job made. Raises JobError where an
    earlier one belongs to it and cannot be added."""
    start_file = job_folder.start_file
    earlier = read_start(job_folder).adapter if start_file.is_file() else None
    if earlier is None:
        return job_folder.result
    stacked = job_folder.path / STACKED
    try:
        stack_adapters([earlier, job_folder.result], stacked)
    except (OSError, ValueError) as error:
        raise JobError(f"The earlier adapter in {earlier} cannot be added: {error}") from error
    return stacked
