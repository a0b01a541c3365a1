"""What a job made, as a model in the chat: a card in the data folder, written and removed while the
program runs.

An adapter's card is its base's with a name of its own; weights, memory and engine stay those of the
base (`catalog.cards.BASE_FACTS`). A model of which every weight was trained has a card of its own,
with the job's folder as its source. Nothing of a job is removed: uninstalling and installing again
lose nothing.

A job that began with an earlier adapter trained beside it (`recipes.base_model` merges it into the
weights first). Its result is therefore both, stacked into one adapter of the base.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tomli_w

from multimodal.backends.adapters import find_adapter_fault
from multimodal.backends.damaged_files import find_damage
from multimodal.catalog.architectures import IMAGE_CLASSIFIER, PIXEL_UNET
from multimodal.catalog.cards import Catalog, ModelCard, ModelName
from multimodal.errors import JobError, UnknownModelError, WeightsError
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Task
from multimodal.private_files import make_private_folder
from multimodal.studio.estimate import picture_side, speech_part
from multimodal.studio.export.onnx_card import FAMILIES as EXPORTED
from multimodal.studio.export.onnx_card import read_exported_card
from multimodal.studio.folder import JobFolder
from multimodal.studio.requirements import TEACHABLE, WHISPER, JobDependencies
from multimodal.studio.settings import JobSettings
from multimodal.studio.stacked_adapters import adapter_folder
from multimodal.studio.whisper_conversion import ENGINE_FOLDER, write_engine_folder

if TYPE_CHECKING:
    from multimodal.build import Program

_changing = threading.Lock()
NO_FACTS = (
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
    "quantization_config",
)
"""Of a config.json, what does not describe the model."""


CLASSES = ("id2label", "label2id")
"""The names of a classifier's classes, of which a card needs the number alone."""


class _Model(NamedTuple):
    """What a model of which every weight was trained is loaded by: the family of its card, the name
    of its part and the class of transformers."""

    family: str
    part: str
    name: str


_MODELS = {
    Task.TEXT: _Model("causal_lm", "text", "AutoModelForCausalLM"),
    Task.IMAGE: _Model("image_classifier", "model", IMAGE_CLASSIFIER),
    Task.DRAW: _Model("class_diffusion", "unet", PIXEL_UNET),
}


def install(program: Program, job_folder: JobFolder) -> ModelCard:
    """Offer what that job made in the chat, at once and after every start; the card as it is
    offered. Once more for the same job does no harm.

    Raises JobError where there is no whole result, it is none to chat with, or its name is
    taken; SettingsError where the job's settings cannot be read; nothing is written then.
    """
    settings = job_folder.settings()
    return _offer(program, _card(program.catalog, settings, job_folder))


def install_export(program: Program, folder: Path) -> ModelCard:
    """Offer the model that was exported in ONNX into `folder`, here or on another machine, in the
    chat, at once and after every start; the card as it is offered. It takes the place of an earlier
    export of that name.

    Raises JobError where there is no such export, or its name is taken; nothing is written then.
    """
    return _offer(program, read_exported_card(folder))


def _offer(program: Program, card: ModelCard) -> ModelCard:
    with _changing:
        _check_name(program, card)
        if not _unload(program, card.name):
            raise JobError(
                f"An earlier {card.title} is answering at the moment. Try again once it is done."
            )
        _write(_path(program, card), card)
        program.catalog.add(card)
        if (fault := program.offer.faults.get(card.name)) is not None:
            program.catalog.remove(card.name)
            _path(program, card).unlink(missing_ok=True)
            raise JobError(fault)
    return program.card(card.name)


def uninstall(program: Program, name: str) -> None:
    """Take a fine-tuned model of that name, in any of its quantizations, out of the chat; the job's
    folder stays. Conversations that used it go on with the router's choice.

    Raises JobError where there is none, or a profile lists it.
    """
    base = ModelName.parse(name).base
    with _changing:
        card = next((card for card in program.catalog.finetuned if card.name == base), None)
        if card is None:
            raise JobError(f"No fine-tuned model called '{base}' is installed.")
        if not (path := _path(program, card)).is_file():
            raise JobError(
                f"'{base}' was not installed by the studio: its card lies in another folder. "
                "Remove the card there, and start again."
            )
        if base in {ModelName.parse(listed).base for listed in program.profile.names}:
            raise JobError(
                f"The profile {program.profile.name} lists '{base}'. Take it out there, and start "
                "again."
            )
        path.unlink(missing_ok=True)
        program.catalog.remove(base)
        _unload(program, base)
        with suppress(WeightsError):
            program.weights.quantized.remove(base)


def installed(program: Program) -> list[ModelCard]:
    """The fine-tuned models that are installed, by name, also those that cannot be offered at the
    moment (`program.offer.faults` says why)."""
    return sorted(program.catalog.finetuned, key=lambda card: card.name)


def result_folder(card: ModelCard) -> Path | None:
    """Where the files of a fine-tuned model lie: in the folder of the job that made it."""
    if card.adapter is not None:
        return card.adapter
    return card.source.path if card.source.kind == "folder" else None


def export_dependencies(program: Program) -> JobDependencies:
    """What an export works with: it finds the results of jobs by their names, too, also those that
    are not offered in the chat."""
    return JobDependencies(
        program.memory, lambda name: _find_card(program, name), program.weights.ensure
    )


# ------------------------------------------------------------ the card


def _find_card(program: Program, name: str) -> ModelCard:
    """Raises UnknownModelError where there is neither a card nor a job of that name, and JobError
    where the job has no result to chat with."""
    try:
        return program.catalog.card(name)
    except UnknownModelError:
        if not any(job.id == name for job in program.jobs.all()):
            raise
    folder = program.jobs.get(name).folder
    return _card(program.catalog, folder.settings(), folder)


def _card(catalog: Catalog, settings: JobSettings, job_folder: JobFolder) -> ModelCard:
    if settings.method == "reward":
        raise JobError(
            f"'{settings.name}' is a reward model: it judges answers and writes none, so there is "
            "nothing to chat with."
        )
    base = catalog.card(settings.model)
    if base.adapter is not None:
        base = catalog.card(str(base.base_model))
    kind = TEACHABLE[settings.method]
    if not kind.includes(base):
        raise JobError(f"{base.title} is no {kind.title}, so what was made of it is not offered.")
    facts = {
        **base.model_dump(mode="json", exclude_defaults=True, exclude_none=True),
        "name": settings.name,
        "title": f"{catalog.card(base.base).title} + {settings.name}",
        "summary": f"{base.title}, fine-tuned here ({settings.method}).",
        "base_model": base.name,
    }
    result = job_folder.result
    fault = find_adapter_fault(result) if settings.is_adapter else _model_fault(result)
    if fault is not None:
        raise JobError(f"'{settings.name}' has no whole result yet: {fault}")
    if settings.is_adapter:
        facts["adapter"] = str(adapter_folder(job_folder))
    elif base.family in WHISPER:
        facts |= _facts_of_whisper(base, job_folder)
    elif base.task is Task.SPEECH:
        facts["source"] = {"kind": "folder", "path": str(result)}
    else:
        facts |= _facts_of_model(base, result)
    return ModelCard.model_validate(facts)


def _model_fault(result: Path) -> str | None:
    if not (result / "config.json").is_file() or not any(result.glob("*.safetensors")):
        return f"there is no model in {result}."
    return find_damage(result)


def _facts_of_model(base: ModelCard, result: Path) -> dict[str, Any]:
    """Where the model was in another format before, as a GGUF file, what its engine was told there
    means nothing any more."""
    try:
        config = json.loads((result / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"{result / 'config.json'} is damaged.") from error
    config = {k: v for k, v in config.items() if k not in NO_FACTS and v is not None}
    model = _MODELS[base.task]
    shape: dict[str, Any] = {"kind": "modules"}
    if base.task is Task.IMAGE:
        config["num_labels"] = len(config.get("id2label", {}))
        shape["picture_side"] = picture_side(base)
    config = {name: value for name, value in config.items() if name not in CLASSES}
    library = "transformers"
    if base.task is Task.DRAW:
        library, shape["picture_side"] = "diffusers", config["sample_size"]
        config = {name: value for name, value in config.items() if not name.startswith("_")}
    part = {"library": library, "model": model.name, "config": config}
    shape["parts"] = {model.part: part}
    source = {"kind": "folder", "path": str(result)}
    facts: dict[str, Any] = {"family": model.family, "source": source, "architecture": shape}
    if base.family != model.family:
        facts |= {"quantization": ["bf16", "int8", "nf4-double"], "engine": {}, "concurrency": 1}
    return facts


def _facts_of_whisper(base: ModelCard, job_folder: JobFolder) -> dict[str, Any]:
    """Written for the engine the first time. The shape is that of the base, which the next job
    plans with."""
    folder = job_folder.path / ENGINE_FOLDER
    write_engine_folder(job_folder.result, folder)
    part = speech_part(base)
    shape = {
        "kind": "measured",
        "weights_bytes": (folder / "model.bin").stat().st_size,
        "runtime_bytes": footprint(base).runtime,
        **({"model": part.model, "config": dict(part.config)} if part is not None else {}),
    }
    facts = {"source": {"kind": "folder", "path": str(folder)}, "architecture": shape}
    if base.family == "faster_whisper":
        return facts
    engine = {"compute_type": "int8", "beam_size": 5}  # as the embedded Whisper
    return facts | {"family": "faster_whisper", "quantization": ["int8"], "engine": engine}


# ------------------------------------------------------------ the data folder


def _path(program: Program, card: ModelCard) -> Path:
    folder = program.settings.data / "models" / "cards" / str(card.task)
    return folder / f"{card.name}.toml"


def _check_name(program: Program, card: ModelCard) -> None:
    known = next((one for one in program.catalog.cards if one.name == card.name), None)
    if known is None:
        if _path(program, card).exists():
            raise JobError(
                f"{_path(program, card)} is there already and is no card of a fine-tuned "
                "model. Choose another name for the job, or move that file."
            )
    elif known.base_model is None:
        raise JobError(
            f"'{card.name}' is the name of {known.title}, which a fine-tuned model cannot replace. "
            "Choose another name for the job."
        )
    elif {known.family, card.family} <= EXPORTED:
        return
    elif result_folder(known) != result_folder(card):
        raise JobError(
            f"Another job's result is installed as '{card.name}'. Uninstall that one first, or "
            "choose another name for the job."
        )


def _write(path: Path, card: ModelCard) -> None:
    """In one step, so that a program that starts meanwhile reads a whole card or none."""
    told = card.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    fresh = path.with_suffix(".new")
    try:
        make_private_folder(path.parent)
        fresh.write_text(tomli_w.dumps(told), "utf-8")
        fresh.replace(path)
    except OSError as error:
        raise JobError(f"{path} cannot be written ({error.strerror or error}).") from error


def _unload(program: Program, name: str) -> bool:
    """Close what is in memory under that name, on the device or beside it, since another model may
    be called so next; whether nothing is left."""
    snapshot = program.memory.snapshot()
    names = {held.card for held in snapshot.held} | {kept.card for kept in snapshot.mirrored}
    mine = [it for it in names if ModelName.parse(it).base == name]
    left = [it for it in mine if not program.memory.unload(it)]
    return not left
