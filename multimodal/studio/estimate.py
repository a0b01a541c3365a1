"""What a job takes of the device and of the disk, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from multimodal.catalog.architectures import (
    IMAGE_CLASSIFIER,
    PIXEL_UNET,
    WORD_UNET,
    ModelPart,
    ModulesArchitecture,
    speech_seq2seq,
)
from multimodal.catalog.cards import ModelCard
from multimodal.memory.estimate.caption_training import caption_bytes, language_part
from multimodal.memory.estimate.classifier_training import (
    ClassifierStep,
    classifier_bytes,
    denoising_bytes,
)
from multimodal.memory.estimate.classifier_training import trained_parameters as trained_weights
from multimodal.memory.estimate.footprint import footprint
from multimodal.memory.estimate.pipeline_training import PipelineStep, pipeline_bytes
from multimodal.memory.estimate.pipeline_training import trained_parameters as trained_adapter
from multimodal.memory.estimate.speech_training import SpeechStep, speech_bytes
from multimodal.memory.estimate.speech_training import trained_parameters as trained_speech
from multimodal.memory.estimate.training import (
    Method,
    Optimizer,
    Precision,
    TrainingBytes,
    TrainingStep,
    text_part,
    trained_parameters,
    training_bytes,
)
from multimodal.studio.checkpoints import KEPT
from multimodal.studio.settings import JobSettings

Device = Literal["cpu", "cuda"]
NeededBytes = Callable[[JobSettings], int]

USUAL_SIDE = 224
"""Pixels on a side of classifiers that say nothing of it."""
PIPELINE_SIDE = 512
"""The same of pipelines."""
TRAINED_BYTES = 4 + 8
"""Of a parameter and AdamW's two moments of it, as a checkpoint holds them."""
GRADIENT_BYTES = 4
"""Of a parameter: its gradient once more, in the buckets by which processes exchange them."""
RUNTIME_BYTES = 300_000_000
"""Python, PyTorch and the trainer in a process of their own, on the CPU; a card's are in its
reserve."""
PAIRED = frozenset({"dpo", "kto", "reward"})
"""A sample of these is two rows: chosen and rejected, or one and another for the KL term."""


def classifier_part(card: ModelCard) -> ModelPart | None:
    """The classifier of transformers that `card` consists of; None for what is none."""
    parts = card.architecture.parts.values()
    return next((part for part in parts if part.model == IMAGE_CLASSIFIER), None)


def picture_side(card: ModelCard) -> int:
    """Pixels on a side of the pictures that a classifier reads."""
    shape, part = card.architecture, classifier_part(card)
    stated = shape.picture_side if isinstance(shape, ModulesArchitecture) else None
    return stated or int((part.config if part else {}).get("image_size") or USUAL_SIDE)


def drawing_part(card: ModelCard) -> ModelPart | None:
    """The U-Net of pixels that `card` consists of; None for what is none."""
    parts = card.architecture.parts.values()
    return next((part for part in parts if part.model == PIXEL_UNET), None)


def drawing_side(card: ModelCard, settings: JobSettings) -> int:
    """Pixels on a side of what a job teaches to draw."""
    part = drawing_part(card)
    return settings.resolution or int((part.config if part else {}).get("sample_size") or 32)


def unet_part(card: ModelCard) -> ModelPart | None:
    """The U-Net that reads words and denoises latents, of a pipeline; None for what has none."""
    parts = card.architecture.parts.values()
    return next((part for part in parts if part.model == WORD_UNET), None)


def style_side(card: ModelCard, settings: JobSettings) -> int:
    """Pixels on a side of the squares that a pipeline learns a style from."""
    shape = card.architecture
    stated = shape.picture_side if isinstance(shape, ModulesArchitecture) else None
    return settings.resolution or stated or PIPELINE_SIDE


def speech_part(card: ModelCard) -> ModelPart | None:
    """The recognizer of `card` as transformers builds it; None where only sizes are known."""
    part = next(iter(card.architecture.parts.values()), None)
    if part is None or part.library != "whisper":
        return part
    dims = part.config
    return speech_seq2seq(
        {
            "model_type": "whisper",
            "num_mel_bins": dims["n_mels"],
            "vocab_size": dims["n_vocab"],
            "d_model": dims["n_text_state"],
            "encoder_layers": dims["n_audio_layer"],
            "decoder_layers": dims["n_text_layer"],
            "encoder_attention_heads": dims["n_audio_head"],
            "decoder_attention_heads": dims["n_text_head"],
            "encoder_ffn_dim": 4 * dims["n_audio_state"],
            "decoder_ffn_dim": 4 * dims["n_text_state"],
        }
    )


def job_bytes(card: ModelCard, settings: JobSettings, device: Device = "cuda") -> int:
    """Bytes that the job takes of each card it computes on, or of host memory. Builds the model
    without weights, which takes seconds the first time.

    0 for a model whose shape is not known.
    """
    found = _process_bytes(card, settings, device)
    if found is None:
        return 0
    size = found.total
    if settings.devices > 1:
        size += GRADIENT_BYTES * _trained_parameters(card, settings)
    return (size + RUNTIME_BYTES) * settings.devices if device == "cpu" else size


def _process_bytes(card: ModelCard, settings: JobSettings, device: Device) -> TrainingBytes | None:
    if settings.method == "classify":
        part, step = classifier_part(card), _classifier_step(settings, device)
        found = classifier_bytes(part, picture_side(card), step) if part is not None else None
    elif settings.method == "diffusion":
        part, step = drawing_part(card), _classifier_step(settings, device)
        side = drawing_side(card, settings)
        found = denoising_bytes(part, side, step) if part is not None else None
    elif settings.method == "style":
        found = _style_bytes(card, settings, device)
    elif settings.method == "transcribe":
        part = speech_part(card)
        found = speech_bytes(part, _speech_step(settings, device)) if part is not None else None
    elif settings.method == "describe":
        part = text_part(card)
        found = caption_bytes(part, _step(settings, device)) if part is not None else None
    else:
        part = text_part(card)
        found = training_bytes(part, _step(settings, device)) if part is not None else None
    return found


def fitting_batch(settings: JobSettings, budget_bytes: int, needed: NeededBytes) -> tuple[int, int]:
    """How many samples of a batch can be computed at once, a divisor of it, and the bytes the job
    takes then; 1 and its bytes where not even one fits. `needed`: what a job of some settings
    takes."""
    batch = settings.batch
    while True:
        size = needed(settings.model_copy(update={"batch": batch}))
        if size <= budget_bytes or batch == 1:
            return batch, size
        batch = next(part for part in range(batch // 2, 0, -1) if settings.batch % part == 0)


def disk_bytes(card: ModelCard, settings: JobSettings) -> int:
    """Bytes of the checkpoints that are kept, with the best and the one that is being written, and
    of the result."""
    trained = _trained_parameters(card, settings)
    return trained * ((KEPT + 2) * TRAINED_BYTES + TRAINED_BYTES // 3)


def _trained_parameters(card: ModelCard, settings: JobSettings) -> int:
    trained = 0
    if settings.method == "classify":
        trained = trained_weights(part) if (part := classifier_part(card)) is not None else 0
    elif settings.method == "diffusion":
        trained = trained_weights(part) if (part := drawing_part(card)) is not None else 0
    elif settings.method == "style":
        part = unet_part(card)
        trained = trained_adapter(part, settings.lora_rank) if part is not None else 0
    elif settings.method == "transcribe":
        part = speech_part(card)
        trained = trained_speech(part, _speech_step(settings, "cpu")) if part is not None else 0
    elif settings.method == "describe":
        part = text_part(card)
        step = _step(settings, "cpu")
        trained = trained_parameters(language_part(part), step) if part is not None else 0
    elif (part := text_part(card)) is not None:
        trained = trained_parameters(part, _step(settings, "cpu"))
    return trained


def _classifier_step(settings: JobSettings, device: Device) -> ClassifierStep:
    is_wide = _is_wide(settings, device)
    return ClassifierStep(settings.batch, _optimizer(settings), settings.accumulation > 1, is_wide)


def _style_bytes(card: ModelCard, settings: JobSettings, device: Device) -> TrainingBytes | None:
    """Of a step, or of a drawing between two, whichever takes more beside the weights."""
    shape, unet = card.architecture, unet_part(card)
    if unet is None or not isinstance(shape, ModulesArchitecture):
        return None
    side, is_wide = style_side(card, settings), _is_wide(settings, device)
    step = PipelineStep(
        settings.batch,
        settings.lora_rank,
        _optimizer(settings),
        is_wide,
        _recomputes(settings, device),
        device == "cpu",
    )
    found = pipeline_bytes(unet, shape.parts, side, step)
    drawn = card.model_copy(
        update={"architecture": shape.model_copy(update={"picture_side": side})}
    )
    drawing = footprint(drawn, "fp32" if is_wide else "bf16").runtime
    return replace(found, activations=max(found.activations, drawing))


def _optimizer(settings: JobSettings) -> Optimizer:
    return "adamw" if settings.optimizer == "auto" else settings.optimizer


def _recomputes(settings: JobSettings, device: Device) -> bool:
    asked = settings.gradient_checkpointing
    return device != "cpu" if asked is None else asked


def _is_wide(settings: JobSettings, device: Device) -> bool:
    return settings.precision == "fp32" or (settings.precision == "auto" and device == "cpu")


def _speech_step(settings: JobSettings, device: Device) -> SpeechStep:
    return SpeechStep(
        settings.batch,
        settings.trained_weights,
        settings.lora_rank,
        _optimizer(settings),
        _is_wide(settings, device),
    )


def _step(settings: JobSettings, device: Device) -> TrainingStep:
    """What the job's recipe computes at once. A sample of a preference is two rows."""
    on_cpu = device == "cpu"
    usual: Precision = "fp32" if on_cpu else "bf16"
    precision: Precision = usual if settings.precision == "auto" else settings.precision
    method: Method = "full" if settings.method == "full" else "lora"
    return TrainingStep(
        "qlora" if settings.is_packed else method,
        settings.batch * (2 if settings.method in PAIRED else 1),
        settings.max_length + (settings.answer_tokens if settings.method == "grpo" else 0),
        precision,
        _optimizer(settings),
        _recomputes(settings, device),
        settings.accumulation > 1,
        settings.lora_rank,
        on_cpu,
    )
