"""What fine-tuning a text model takes, by method, before anything is loaded.

One step is planned for (`TrainingStep`): weights as they are held, gradients and the optimizer's
state of what is trained, and what the step keeps for its backward pass, which is traced on the meta
device (`backward.py`). AdamW keeps two moments of 4 bytes for a trained parameter (Rajbhandari et
al. 2020, ZeRO, section 3.1), in 8 bits two of 1 byte (Dettmers et al. 2022); paged ones lie in host
memory. What is trained is kept in 32 bits.

The loss is TRL's: logarithms of probabilities from tiles of at most 4,096 tokens and 32,768 words,
so that no step holds the logits of all its tokens. On a card its kernels work within one tile; on
the CPU, where PyTorch's operators do the same, they were counted at 29 bytes for each number of a
tile beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from multimodal.catalog.architectures import ModelPart, ModulesArchitecture
from multimodal.catalog.cards import ModelCard
from multimodal.memory.estimate.quantization import torch_bytes
from multimodal.messages import Task

if TYPE_CHECKING:
    from multimodal.memory.estimate.modules import Tensor

Method = Literal["qlora", "lora", "full"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
Precision = Literal["fp32", "bf16", "fp16"]

TrainedWeights = Literal["all", "decoder", "adapter"]
"""Of a speech recognizer."""
TRAINED_BYTES = GRADIENT_BYTES = 4
STATE_BYTES: dict[Optimizer, int] = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 0}
"""Of AdamW's two moments of a parameter, on the device."""
TILE_TOKENS, TILE_WORDS = 4096, 32768
CPU_TILE_BYTES = 29
LORA_RANK = 16
LENGTHS = (8192, 4096, 2048, 1024, 512, 256)
"""Tokens of an example that are tried, as far as the model reads so many."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """How a model is taught; `tokens` of each of the `batch` samples that are computed at once.
    `accumulates`: gradients are kept while the next samples are read."""

    method: Method
    batch: int = 1
    tokens: int = 512
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    gradient_checkpointing: bool = True
    accumulates: bool = True
    lora_rank: int = LORA_RANK
    on_cpu: bool = False


@dataclass(frozen=True, slots=True)
class TrainingBytes:
    """All sizes in bytes. `states`: gradients and the optimizer's."""

    weights: int
    states: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.states + self.activations


@dataclass(frozen=True, slots=True)
class Training(TrainingBytes):
    """One way of fine-tuning, at a batch of one. `tokens` is the length of an example that `total`
    is for, the longest tried that fits, or the shortest where none does."""

    method: str
    tokens: int
    fits: bool


METHODS: dict[str, tuple[Method, Optimizer]] = {
    "QLoRA": ("qlora", "adamw"),
    "LoRA": ("lora", "adamw"),
    "full, 8-bit AdamW": ("full", "adamw_8bit"),
    "full, AdamW": ("full", "adamw"),
}


def text_part(card: ModelCard) -> ModelPart | None:
    """The text model of `card` as transformers builds it; None for what is none, such as what hears
    and writes down, or of which only sizes are known."""
    from multimodal.memory.estimate.modules import text_config

    if card.task is Task.SPEECH:
        return None
    parts = card.architecture.parts.values()
    found = (part for part in parts if text_config(part) is not None)
    return next(found, None)


def plan_training(card: ModelCard, budget_bytes: int) -> Iterator[Training]:
    """Every method for `card` under a budget for the model alone; none for what is no text model,
    or of an unknown shape."""
    from multimodal.memory.estimate.modules import text_config

    if (part := text_part(card)) is not None:
        config = text_config(part)
        yield from (_longest(name, part, config, budget_bytes) for name in METHODS)


def _longest(name: str, part: ModelPart, config: Any, budget_bytes: int) -> Training:
    method, optimizer = METHODS[name]
    positions = int(getattr(config, "max_position_embeddings", None) or LENGTHS[0])
    lengths = [tokens for tokens in LENGTHS if tokens <= positions] or [positions]
    for tokens in lengths:
        step = TrainingStep(method, tokens=tokens, optimizer=optimizer)
        size = training_bytes(part, step)
        fits = size.total <= budget_bytes
        if fits or tokens == lengths[-1]:
            break
    return Training(size.weights, size.states, size.activations, name, tokens, fits)


def training_bytes(part: ModelPart, step: TrainingStep, loss: int | None = None) -> TrainingBytes:
    """What one step takes of the text model `part`. `loss`: bytes that the loss takes beside its
    inputs; those of TRL's unless given. Raises CardError where it cannot be built."""
    from multimodal.memory.estimate.backward import TrainingConfig, token_bytes
    from multimodal.memory.estimate.modules import text_config

    config: Any = text_config(part)
    rank = 0 if step.method == "full" else step.lora_rank
    how = TrainingConfig(step.precision, rank, step.method == "qlora", step.gradient_checkpointing)
    held = token_bytes(part.model_dump_json(), how)
    tokens, layers = step.batch * step.tokens, int(config.num_hidden_layers)
    if loss is None:
        loss = loss_bytes(int(config.vocab_size), tokens, step)
    weights, trained, unpacked = _weights(part, step)
    if step.gradient_checkpointing:  # a layer is recomputed once the loss is behind it
        kept = held.of(tokens, layers, 0) + max(held.of(tokens, 0, 1) + unpacked, loss)
    else:
        kept = held.of(tokens, layers, 1) + max(loss, unpacked)
    gradients = trained * GRADIENT_BYTES
    states = trained * STATE_BYTES[step.optimizer]
    if step.accumulates:
        return TrainingBytes(weights, states + gradients, kept)
    # Activations go as gradients come: only one of the two is there as a whole.
    return TrainingBytes(weights, states + gradients, max(0, kept - gradients))


def trained_parameters(part: ModelPart, step: TrainingStep) -> int:
    """How many parameters are trained."""
    return _weights(part, step)[1]


def loss_bytes(words: int, tokens: int, step: TrainingStep) -> int:
    """What TRL's loss takes beside its inputs, for so many tokens at once."""
    rows = min(tokens, TILE_TOKENS)
    tile = rows * TILE_WORDS * (4 if step.precision == "fp32" else 2)
    return tile + (rows * min(words, TILE_WORDS) * CPU_TILE_BYTES if step.on_cpu else 0)


def held_bytes(found: Iterable[Tensor], step: TrainingStep) -> int:
    """Bytes of the tensors of a model as that step holds them."""
    wide = step.precision == "fp32" or step.method == "full"
    size = 0
    for tensor in found:
        packs = step.method == "qlora" and tensor.linear
        kind = "nf4-double" if packs else "fp32" if wide and tensor.parameter else "bf16"
        size += torch_bytes(tensor.shape, kind, tensor.linear)
    return size


def _weights(part: ModelPart, step: TrainingStep) -> tuple[int, int, int]:
    """Bytes of the weights, the adapter's among them; how many parameters are trained; bytes of the
    largest packed layer once it is unpacked to be multiplied by. LoRA trains rank x (in + out)
    parameters beside every linear layer but the output's."""
    from multimodal.memory.estimate.modules import tensors

    found = tensors(ModulesArchitecture(kind="modules", parts={"model": part}))
    linear = [tensor for tensor in found if tensor.linear]
    numbers = 4 if step.precision == "fp32" else 2
    weights = held_bytes(found, step)
    if step.method == "full":
        trained = sum(math.prod(tensor.shape) for tensor in found if tensor.parameter)
        # Autocast keeps a copy in 16 bits of every weight that it multiplied by.
        copies = 0 if step.precision == "fp32" else sum(2 * math.prod(t.shape) for t in linear)
        return weights + copies, trained, 0
    trained = sum(step.lora_rank * sum(tensor.shape) for tensor in linear)
    largest = max((math.prod(tensor.shape) for tensor in linear), default=0)
    unpacked = numbers * largest if step.method == "qlora" else 0
    return weights + trained * TRAINED_BYTES, trained, unpacked
