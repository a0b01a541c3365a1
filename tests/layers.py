"""Reads a source tree and says what in it breaks the layering.

A floor belongs to a dotted prefix, and a module is on the floor of the longest prefix that it
begins with. Modules of one prefix may import each other, as long as that makes no circle; all other
imports go down.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

FLOORS: dict[str, float] = {
    "catalog.architectures": 0,
    "distributions": 0,
    "errors": 0,
    "json_file": 0,
    "languages": 0,
    "messages": 0,
    "paths": 0,
    "private_files": 0,
    "sizes": 0,
    "turn.vocabulary": 0.5,
    "access": 1,
    "backends.registry": 1,
    "catalog.sources": 1,
    "events": 1,
    "limits": 1,
    "requests": 1,
    "settings": 1,
    "turn.intents": 1,
    "catalog": 2,
    "data_folder": 2,
    "turn.image_prompts": 2,
    "media": 3,
    "turn.references": 3,
    "weights": 3,
    "memory.estimate": 3.1,
    "memory.devices.base": 3.15,
    "memory.calibration.record": 3.2,
    "memory.headroom": 3.2,
    "memory.devices": 3.3,
    "memory.calibration": 3.4,
    "memory": 3.5,
    "backends": 4,
    "backends.compute_device": 4.6,
    "backends.probes": 4.6,
    "fetching": 4,
    "backends.classifier": 4.5,
    "backends.describer": 4.5,
    "backends.diffusion": 4.5,
    "backends.hf": 4.5,
    "backends.llama_cpp": 4.5,
    "backends.onnx": 4.55,
    "backends.speech": 4.5,
    "oom_fallbacks": 4.6,
    "runner": 4.7,
    "speeds": 5,
    "turn": 5,
    "chats": 6,
    "upgrades": 6,
    "studio": 7,
    "build": 8,
    "studio.results": 8.5,
    "chats.service": 8,
    "hands_free": 8,
    "api": 9,
    "calibrate": 9,
    "cli": 9,
    "doctor": 9,
    "fit": 9,
    "model_tiers": 9,
    "web": 9,
}
# The command line starts the page and prints the doctor's findings; the page serves the HTTP
# interface on its port, and shows what the doctor says of a card that is not used. Nothing else may
# go sideways, and each of these must be in use.
ALLOWED_SIDEWAYS = {
    ("cli", "web"),
    ("cli", "doctor"),
    ("cli", "fit"),
    ("cli", "calibrate"),
    ("web", "api"),
    ("web", "fit"),
    ("web", "doctor"),
    ("web", "model_tiers"),
    ("web", "calibrate"),
}
HEAVY = {
    "torch",
    "transformers",
    "diffusers",
    "xllamacpp",
    "faster_whisper",
    "whisper",
    "rapidocr",
    "cv2",
    "efficientnet_lite_pytorch",
    "accelerate",
    "bitsandbytes",
    "ctranslate2",
    "onnxruntime",
    "datasets",
    "peft",
    "trl",
}
HEAVY_PACKAGES = {"backends", "memory", "studio"}
MODEL_CLASS = re.compile(
    r"(Whisper|UNet|Autoencoder|Seamless|Llama|Llava|Mistral|CLIP|Blip|GPT2|Wav2Vec)\w*$"
    r"|[A-Z]\w*(Model|For[A-Z]\w*)$"
)
BASE_CLASSES = {"BaseModel", "PreTrainedModel", "PlannedModel", "RandomModel"}
VAGUE = {"utils.py", "common.py", "helpers.py"}


def imported(source: str) -> Iterator[str]:
    """Every module a source imports, inside functions and type-checking blocks too. A relative
    one keeps its dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_of(path: str) -> str:
    """Below multimodal/: "memory.lease" for memory/lease.py, "memory" for memory/__init__.py."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str | None:
    """The longest prefix of `module` that has a floor."""
    while module not in FLOORS:
        module, dot, _ = module.rpartition(".")
        if not dot:
            return None
    return module


def faults(sources: Mapping[str, str]) -> list[str]:
    """All breaches in `sources`: path below multimodal/ -> text."""
    found: list[str] = []
    modules = {module_of(path) for path in sources}
    for path, source in sources.items():
        if not source.strip() or path == "__init__.py":
            continue
        unit = unit_of(module_of(path))
        if unit is None:
            found.append(f"{path}: is on no floor")
            continue
        if Path(path).name in VAGUE:
            found.append(f"{path}: says nothing by its name")
        found += _import_faults(path, unit, source, modules)
    return found + cycles(sources)


def _import_faults(path: str, unit: str, source: str, modules: set[str]) -> Iterator[str]:
    for name in sorted(set(imported(source))):
        if name.split(".")[0] in HEAVY and path.split("/")[0] not in HEAVY_PACKAGES:
            yield f"{path}: heavy import {name}"
        if name.startswith("."):
            yield f"{path}: relative import {name}"
    for other in sorted(units_imported(source, modules) - {unit}):
        if (unit, other) in ALLOWED_SIDEWAYS:
            continue
        if FLOORS[other] > FLOORS[unit]:
            yield f"{path}: imports {other}, which is above"
        elif FLOORS[other] == FLOORS[unit]:
            yield f"{path}: imports {other}, which is on the same floor"


def units_imported(source: str, modules: set[str]) -> set[str]:
    """The units whose modules `source` imports; of a package only its own `__init__` counts."""
    names = {name.removeprefix("multimodal.") for name in imported(source) if _is_ours(name)}
    # `from package import module` names the package as well.
    names = {name for name in names if not any(it.startswith(f"{name}.") for it in names)}
    units = (unit_of(_existing(name, modules)) for name in names)
    return {unit for unit in units if unit is not None}


def _is_ours(name: str) -> bool:
    return name.startswith("multimodal.")


def _existing(name: str, modules: set[str]) -> str:
    """The module of that name, or the one that the thing of that name is imported from."""
    return name if name in modules else name.rpartition(".")[0] or name


def cycles(sources: Mapping[str, str]) -> list[str]:
    """Import cycles between the modules themselves."""
    modules = {f"multimodal.{module_of(path)}".rstrip("."): text for path, text in sources.items()}
    graph = {
        name: {i for i in imported(text) if i in modules and i != name}
        for name, text in modules.items()
    }
    found: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append("cycle: " + " -> ".join((*trail[trail.index(name) :], name)))
        elif name in graph:
            targets, graph_rest = graph.pop(name), (*trail, name)
            for target in sorted(targets):
                visit(target, graph_rest)

    for name in sorted(modules):
        visit(name, ())
    return found


def model_names(source: str) -> set[str]:
    """What looks like the class of a model, in code and in strings: of a kind that libraries have
    (`SomethingForCausalLM`, `SomethingModel`) or of a well-known family."""
    tree, found = ast.parse(source), set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.alias(name=text):
                found.update(text.split("."))
            case ast.Constant(value=str(text)):
                found.update(re.findall(r"\w+", text))
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return {name for name in found if MODEL_CLASS.match(name)} - ours - BASE_CLASSES
