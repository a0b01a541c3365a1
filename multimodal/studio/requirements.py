"""What jobs need of the program, and what a job needs before it is made: what is lacking is refused
in a sentence, and nothing is written."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from multimodal.catalog.cards import ModelCard
from multimodal.errors import CapacityError, JobError
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Task
from multimodal.sizes import download_size, gigabytes
from multimodal.studio.estimate import Device, disk_bytes, fitting_batch, job_bytes, unet_part
from multimodal.studio.recipes import check_libraries
from multimodal.studio.settings import SHARED_METHODS, JobSettings, Method
from multimodal.weights import ReportFetch

if TYPE_CHECKING:
    from multimodal.studio.data.captions import CaptionPreview
    from multimodal.studio.data.pictures import PicturePreview
    from multimodal.studio.data.recordings import RecordingPreview

    FilePreview = PicturePreview | CaptionPreview | RecordingPreview

SPARE_DISK_BYTES = 200_000_000
LARGEST_PIXELS = 256
"""On a side, of what a model of pixels draws."""
SMALLEST_SQUARE, GRAIN = 64, 8
"""Pixels on a side of what a pipeline learns from, at least, and what they are multiples of."""

Fetch = Callable[[ModelCard, ReportFetch, threading.Event], Path]
Prepare = Callable[[JobSettings, Any, Path], tuple[str, ...]]
"""Reads and checks the data of a job, writes its rows into a folder, and returns what is to be told
of them. Raises DataError."""
ReadFiles = Callable[[JobSettings, Path], "FilePreview"]
"""As `Prepare`, of a folder of files; what there is of them."""
Estimate = Callable[[ModelCard, JobSettings, Device], int]


def _read_pictures(settings: JobSettings, folder: Path) -> FilePreview:
    from multimodal.studio.data.pictures import preview_pictures

    return preview_pictures(settings, folder)


def _read_recordings(settings: JobSettings, folder: Path) -> FilePreview:
    from multimodal.studio.data.recordings import preview_recordings

    return preview_recordings(settings, folder)


def _read_captions(settings: JobSettings, folder: Path) -> FilePreview:
    from multimodal.studio.data.captions import preview_captions

    return preview_captions(settings, folder)


@dataclass(frozen=True, slots=True)
class Teachable:
    """What a method teaches: models of a task whose families it reads. `title` names one,
    `read_files` reads and checks a folder of files and writes its rows, None where the data is
    text; the ways are what to do where memory or the disk is too small."""

    task: Task
    families: frozenset[str]
    title: str
    read_files: ReadFiles | None
    memory_way: str
    disk_way: str

    def includes(self, card: ModelCard) -> bool:
        return card.task is self.task and card.family in self.families


TEXT_MODEL = Teachable(
    Task.TEXT,
    frozenset({"causal_lm", "llama_cpp"}),  # transformers reads GGUF files, too
    "text model on transformers or llama.cpp",
    None,
    "Choose a smaller max_length, qlora, or a smaller model; `multimodal fit` says what can be "
    "taught.",
    "teach an adapter instead of the full model, or choose another disk with --data-folder.",
)
CLASSIFIER = Teachable(
    Task.IMAGE,
    frozenset({"image_classifier"}),
    "picture classifier",
    _read_pictures,
    "Choose a smaller model.",
    "take a smaller model, or choose another disk with --data-folder.",
)
DRAWING_MODEL = Teachable(
    Task.DRAW,
    frozenset({"class_diffusion"}),
    "small diffusion model",
    _read_pictures,
    "Choose a smaller resolution, or a smaller model.",
    "take a smaller model, or choose another disk with --data-folder.",
)
PIPELINE = Teachable(
    Task.DRAW,
    frozenset({"diffusion"}),
    "diffusion pipeline",
    _read_captions,
    "Choose a smaller resolution, or a smaller model.",
    "choose a smaller lora_rank, or another disk with --data-folder.",
)
WHISPER = frozenset({"faster_whisper", "openai_whisper"})
"""Families of Whisper, whose results are heard with by CTranslate2, whatever they began with."""
RECOGNIZER = Teachable(
    Task.SPEECH,
    WHISPER | {"wav2vec2", "seamless"},
    "speech recognizer",
    _read_recordings,
    "Train the decoder or an adapter alone (trained_weights), or choose a smaller model.",
    "train an adapter, take a smaller model, or choose another disk with --data-folder.",
)
SEEING_MODEL = Teachable(
    Task.IMAGE,
    frozenset({"image_text"}),
    "model that sees and talks, on transformers",
    _read_captions,
    "Choose a smaller max_length, four_bits, or a smaller model.",
    "choose a smaller lora_rank, or another disk with --data-folder.",
)
TEACHABLE: dict[Method, Teachable] = {
    **dict.fromkeys(get_args(Method), TEXT_MODEL),
    "classify": CLASSIFIER,
    "diffusion": DRAWING_MODEL,
    "style": PIPELINE,
    "transcribe": RECOGNIZER,
    "describe": SEEING_MODEL,
}
"""By method."""


def prepare(settings: JobSettings, feedback_rows: Any, folder: Path) -> tuple[str, ...]:
    """The data of a job by `studio.data`. Raises DataError."""
    if (read_files := TEACHABLE[settings.method].read_files) is not None:
        return read_files(settings, folder).notices
    from multimodal.studio.data.prepare import prepare_data, write_data

    prepared = prepare_data(settings, feedback_rows)
    write_data(prepared, folder)
    return tuple(prepared.notices)


def count_cards() -> int:
    import torch

    return int(torch.cuda.device_count())


@dataclass(frozen=True)
class JobDependencies:
    """What `Jobs` works with. `find_card` raises UnknownModelError; `recipe` is “module:Class” of
    one that takes the place of every method's; `python` runs the jobs."""

    memory: MemoryManager[Any]
    find_card: Callable[[str], ModelCard]
    fetch: Fetch
    prepare: Prepare = prepare
    estimate: Estimate = job_bytes
    check_extra: Callable[[], None] = check_libraries
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    card_count: Callable[[], int] = count_cards
    recipe: str = ""
    python: str = sys.executable

    @property
    def device(self) -> Device:
        return "cuda" if self.memory.device.engine == "cuda" else "cpu"

    def base(self, settings: JobSettings) -> tuple[ModelCard, Path | None]:
        """The card whose weights are loaded, and the adapter of an earlier result. Raises
        UnknownModelError."""
        found = self.find_card(settings.model)
        base, adapter = found.base_model, found.adapter
        is_whole = base is None or adapter is None  # what was taught as a whole has its own weights
        card = found if is_whole else self.find_card(str(base))
        return card.model_copy(update={"name": card.base}), None if is_whole else adapter

    def fitting(self, card: ModelCard, settings: JobSettings) -> tuple[int, int]:
        """How many samples are computed at once so that the job fits the budget, and its bytes
        then; takes seconds. Raises CapacityError where not even one does."""
        budget = self.memory.budget_bytes
        batch, needed = fitting_batch(
            settings, budget, lambda changed: self.estimate(card, changed, self.device)
        )
        if needed > budget:
            raise CapacityError(
                f"Teaching {card.title} by {settings.method} takes {gigabytes(needed)}, and the "
                f"budget is {gigabytes(budget)}. {TEACHABLE[settings.method].memory_way}"
            )
        return batch, needed


def check_requirements(needs: JobDependencies, settings: JobSettings, folder: Path) -> None:
    """See that the libraries are there, the model can be taught, and memory and the disk of
    `folder` hold it. Raises ConfigurationError, UnknownModelError, JobError and CapacityError."""
    needs.check_extra()
    _check_rewards(settings)
    card, _ = needs.base(settings)
    check_card(card, TEACHABLE[settings.method])
    _check_devices(needs, card, settings)
    _check_language(card, settings)
    _check_resolution(card, settings)
    needs.fitting(card, settings)
    needed = disk_bytes(card, settings)
    if not has_room(needs.free_bytes(folder), needed):
        raise CapacityError(
            f"Checkpoints and the result take about {download_size(needed)}, and only "
            f"{download_size(needs.free_bytes(folder))} are free in {folder}. Free some space, "
            f"{TEACHABLE[settings.method].disk_way}"
        )


def has_room(free_bytes: int, needed_bytes: int) -> bool:
    """Whether a disk takes so much and is not full then."""
    return free_bytes >= needed_bytes + SPARE_DISK_BYTES


def kind_of(card: ModelCard) -> Teachable | None:
    """Which of them that model is."""
    return next((kind for kind in dict.fromkeys(TEACHABLE.values()) if kind.includes(card)), None)


def check_card(card: ModelCard, kind: Teachable) -> None:
    """Raise JobError for what is none of that kind, or cannot be loaded for training."""
    if kind.includes(card):
        return
    if (other := kind_of(card)) is not None:
        methods = [method for method, one in TEACHABLE.items() if one is other]
        raise JobError(
            f"{card.title} is a {other.title}, and this method teaches a {kind.title}. Choose one, "
            f"or teach by {', '.join(methods)}."
        )
    what = f"answers {card.task}" if card.task is not kind.task else f"is of {card.family}"
    raise JobError(
        f"{card.title} {what} and cannot be taught here. Choose a {kind.title}; "
        "`multimodal models` lists them."
    )


def _check_language(card: ModelCard, settings: JobSettings) -> None:
    """A text is written in one language; only Seamless has a usual one of several."""
    if settings.method != "transcribe" or not card.languages or card.family == "seamless":
        return
    asked = settings.language
    if asked is None and len(card.languages) > 1:
        raise JobError(
            f"{card.title} hears {len(card.languages)} languages: say which one is spoken with "
            "--language, such as en."
        )
    if asked is not None and asked not in card.languages:
        raise JobError(
            f"{card.title} hears no language “{asked[:20]}”; name one as ISO 639 does, such as "
            f"{card.languages[0]}."
        )


def _check_resolution(card: ModelCard, settings: JobSettings) -> None:
    side = settings.resolution
    if settings.method == "diffusion" and side is not None and side > LARGEST_PIXELS:
        raise JobError(
            f"{card.title} learns every pixel, and {side} on a side are too many: choose a "
            f"resolution of at most {LARGEST_PIXELS}, or teach a diffusion pipeline by style."
        )
    if settings.method != "style":
        return
    if unet_part(card) is None:
        raise JobError(
            f"{card.title} is no pipeline with a U-Net that reads words, and no other can be "
            "taught by style. Choose one of Stable Diffusion 1 or 2, SDXL or LCM."
        )
    if side is not None and (side < SMALLEST_SQUARE or side % GRAIN):
        near = max(SMALLEST_SQUARE, side // GRAIN * GRAIN)
        raise JobError(
            f"{card.title} draws pictures of at least {SMALLEST_SQUARE} pixels on a side, in "
            f"multiples of {GRAIN}; choose a resolution of {near}, not {side}."
        )


def _check_devices(needs: JobDependencies, card: ModelCard, settings: JobSettings) -> None:
    devices = settings.devices
    if devices == 1:
        return
    if settings.method not in SHARED_METHODS:
        raise JobError(
            f"Several devices share the batches of {', '.join(sorted(SHARED_METHODS))}; teach by "
            f"{settings.method} on one."
        )
    if settings.method == "transcribe" and card.family not in WHISPER:
        raise JobError(
            f"Several devices share the batches of Whisper alone of what hears; teach {card.title} "
            "on one."
        )
    if settings.accumulation % devices:
        raise JobError(
            f"{devices} devices compute the {settings.accumulation} batches of an update: choose "
            f"an accumulation that is a multiple of {devices}."
        )
    if needs.device == "cuda" and devices > (there := needs.card_count()):
        raise JobError(
            f"There {'is one graphics card' if there == 1 else f'are {there} graphics cards'} in "
            f"this machine, not {devices}. Choose fewer devices."
        )


def _check_rewards(settings: JobSettings) -> None:
    if settings.method != "grpo":
        return
    if not settings.rewards and settings.reward_file is None:
        raise JobError("GRPO needs a reward: give --rewards (format, length ...) or --reward-file.")
    if settings.batch * settings.accumulation % settings.generations:
        raise JobError(
            f"An update sees {settings.batch} x {settings.accumulation} answers, which is no whole "
            f"number of groups of {settings.generations}: choose batch, accumulation or "
            "generations so that it is."
        )
    if settings.reward_file is not None and not settings.reward_file.is_file():
        raise JobError(f"The reward file {settings.reward_file} does not exist.")
