"""A card's modules built without weights, on PyTorch's meta device, and what they consist of."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from multimodal.catalog.architectures import GgufArchitecture, ModelPart, ModulesArchitecture
from multimodal.errors import CardError

SHALLOW_LAYERS = 2
# diffusers imports it, and it then warns that an optional kernel for the CPU is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# It warns of how it builds its own layers.
logging.getLogger("transformers.models.seamless_m4t_v2").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or buffer. `linear`: a weight that quantization packs. `wide`: transformers
    keeps it in fp32 where the model is in fp16."""

    name: str
    shape: tuple[int, ...]
    linear: bool
    parameter: bool
    wide: bool = False


def tensors(architecture: ModulesArchitecture | GgufArchitecture) -> tuple[Tensor, ...]:
    """Every tensor that is stored once, a tied one under its first name."""
    return tuple(
        replace(tensor, name=f"{name}.{tensor.name}")
        for name, part in architecture.parts.items()
        for tensor in _tensors(part.model_dump_json())
    )


def text_config(part: ModelPart) -> Any | None:
    """The transformers configuration of the part's text model; None where it writes no text."""
    module: Any = build_meta_module(part)
    writes = hasattr(module, "can_generate") and module.can_generate()
    return module.config.get_text_config(decoder=True) if writes else None


def build_meta_module(part: ModelPart, shallow: bool = False) -> nn.Module:
    """The module of `part` on the meta device, in bfloat16, for inference. `shallow`: with two
    layers of text, since all are alike. Raises CardError."""
    with _building:
        return _built(part.model_dump_json(), shallow)


_building = threading.Lock()
"""Libraries import a model's module at first use and set the default dtype of the whole program
while they make one; two threads that do so fail, or make another model than was asked for."""


@lru_cache(maxsize=64)
def _built(part_json: str, shallow: bool) -> nn.Module:
    with torch.device("meta"), _Dense():
        module = instantiate_module(ModelPart.model_validate_json(part_json), shallow)
    # Not the libraries' own `to`, which warns of layers that a real load would keep in fp32.
    return nn.Module.to(module, torch.bfloat16).eval().requires_grad_(False)


def instantiate_module(part: ModelPart, shallow: bool = False) -> nn.Module:
    """The module of `part` as its library makes it, on PyTorch's default device. Raises
    CardError."""
    with _card_errors(part):
        module: nn.Module = _BUILDERS[part.library](part, shallow)
    return module


def instantiate_layers(part: ModelPart, layers: int, attention: str) -> nn.Module:
    """A model of transformers with so many layers of text, that computes attention by the
    implementation of that name. Raises CardError."""
    with _building, _card_errors(part):
        module: nn.Module = _transformers(part, layers=layers, attn_implementation=attention)
    return module


@contextmanager
def _card_errors(part: ModelPart) -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, ValueError, KeyError, ImportError) as error:
        raise CardError(
            f"{part.library} cannot build a {part.model} from its card ({error}). "
            "Compare its [architecture] with the model's config.json."
        ) from error


def _transformers(
    part: ModelPart, shallow: bool = False, layers: int | None = None, **more: Any
) -> Any:
    import transformers

    automatic = part.model.startswith("Auto")
    if automatic:
        cls = getattr(transformers, part.model)
        config: Any = transformers.AutoConfig.for_model(**part.config)
    else:
        cls = _class(part, transformers, transformers.PreTrainedModel)
        config = cls.config_class(**{k: v for k, v in part.config.items() if k != "model_type"})
    if layers is None and shallow:
        layers = SHALLOW_LAYERS
    if layers is not None:
        text = config.get_text_config(decoder=True)
    if layers is not None and hasattr(text, "num_hidden_layers"):  # ResNet counts otherwise
        text.num_hidden_layers = min(layers, text.num_hidden_layers)
        if (kinds := getattr(text, "layer_types", None)) is not None:
            text.layer_types = kinds[:layers]
    return cls.from_config(config, **more) if automatic else cls(config)


def _diffusers(part: ModelPart, _shallow: bool) -> Any:
    import diffusers

    return _class(part, diffusers, diffusers.ModelMixin).from_config(dict(part.config))


def _whisper(part: ModelPart, _shallow: bool) -> Any:
    import whisper.model

    dims = whisper.model.ModelDimensions(**part.config)
    return _class(part, whisper.model, nn.Module)(dims)


class _Dense(TorchFunctionMode):
    """Leaves out `to_sparse`, which the meta device does not know."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.to_sparse else func(*args, **(kwargs or {}))


def _class(part: ModelPart, library: Any, base: type) -> Any:
    cls = getattr(library, part.model)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise AttributeError(f"{part.model} is no model of {part.library}")
    return cls


_BUILDERS: dict[str, Callable[[ModelPart, bool], Any]] = {
    "transformers": _transformers,
    "diffusers": _diffusers,
    "whisper": _whisper,
    "torch": lambda part, _shallow: _class(part, nn, nn.Module)(**part.config),
}


@lru_cache(maxsize=64)
def _tensors(part_json: str) -> tuple[Tensor, ...]:
    part = ModelPart.model_validate_json(part_json)
    module = build_meta_module(part)
    layers = quantizable(module, part.keeps_fp32) if part.quantized else ()
    packed = {f"{name}.weight" for name in layers}
    found: dict[int, Tensor] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if id(tensor) in found:
            continue
        linear = name in packed
        shape = tuple(tensor.shape)
        if linear and type(module.get_submodule(name.removesuffix(".weight"))) is not nn.Linear:
            shape = shape[::-1]  # GPT-2's Conv1D stores what a Linear would, turned round
        wide = any(re.search(rf"(^|\.){kept}(\.|$)", name) for kept in part.keeps_fp32)
        is_parameter = isinstance(tensor, nn.Parameter)
        found[id(tensor)] = Tensor(name, shape, linear, is_parameter, wide)
    return tuple(found.values())


def quantizable(module: nn.Module, keeps_fp32: Sequence[str] = ()) -> Iterator[str]:
    """Names of the layers that bitsandbytes replaces: for a transformers model, those that its own
    quantizer picks (all but the output layer, what is tied and `keeps_fp32`); else every linear
    layer."""
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = None
    if isinstance(module, PreTrainedModel):
        skipped = HfQuantizer.get_modules_to_not_convert(module, None, list(keeps_fp32))
    for name, layer in module.named_modules():
        if type(layer) in (nn.Linear, Conv1D) and should_convert_module(name, skipped):
            yield name
