"""Reads the imports of a source tree and says which of them break the layering."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

FLOORS = {
    "messages": 0,
    "errors": 0,
    "sizes": 0,
    "paths": 0,
    "json_file": 0,
    "private_files": 0,
    "standard_streams": 0,
    "languages": 0,
    "vocabulary": 0,
    "architectures": 0,
    "events": 1,
    "sources": 1,
    "card_faults": 1,
    "voices": 1,
    "settings": 1,
    "access": 1,
    "limits": 1,
    "claims": 1,
    "titles": 1,
    "drafts": 2,
    "decode_queue": 1,
    "loudness": 1,
    "pixels": 2,
    "sound": 2,
    "audio_encoder": 2,
    "intents": 1,
    "downloads": 1,
    "cards": 2,
    "package_index": 2,
    "prompts": 2,
    "picture_references": 2,
    "meaning": 3,
    "defaults": 3,
    "media_files": 2,
    "data_folder": 2,
    "database": 2,
    "rows": 3,
    "media": 3,
    "weights": 3,
    "memory": 3,
    "backends": 4,
    "router": 5,
    "shrinking": 5,
    "drawing": 5,
    "asking": 6,
    "store": 6,
    "assistant": 7,
    "speeds": 5,
    "fetching": 4,
    "upgrades": 6,
    "build": 8,
    "chats": 8,
    "hands_free": 8,
    "api": 9,
    "web": 9,
    "doctor": 9,
    "fit": 9,
    "calibrate": 9,
    "ladder": 9,
    "terminal": 9,
    "cli": 9,
}
# The command line starts the page and prints the doctor's findings; the page serves the HTTP
# interface on its port, and shows what the doctor says of a card that is not used. Nothing else may
# go sideways, and each of these must be in use.
ALLOWED_SIDEWAYS = {
    ("cli", "web"),
    ("cli", "doctor"),
    ("cli", "fit"),
    ("cli", "calibrate"),
    ("cli", "terminal"),
    ("web", "api"),
    ("web", "fit"),
    ("web", "doctor"),
    ("web", "ladder"),
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
}
HEAVY_UNITS = {"backends", "memory"}
MAX_LINES = 600
MAX_FUNCTION_LINES = 45
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


def unit_of(path: str) -> str:
    """The unit a module is on a floor with: "memory" for memory/lease.py."""
    return path.split("/")[0].removesuffix(".py")


def faults(sources: Mapping[str, str]) -> list[str]:
    """All breaches in `sources`: path below multimodal/ -> text."""
    found: list[str] = []
    for path, source in sources.items():
        unit = unit_of(path)
        if unit == "__init__":
            continue
        if unit not in FLOORS:
            found.append(f"{path}: is on no floor")
            continue
        found += _import_faults(path, unit, source)
        found += _size_faults(path, source)
    return found + cycles(sources)


def _import_faults(path: str, unit: str, source: str) -> Iterator[str]:
    for name in sorted(set(imported(source))):
        if name.split(".")[0] in HEAVY and unit not in HEAVY_UNITS:
            yield f"{path}: heavy import {name}"
        if name.startswith("."):
            yield f"{path}: relative import {name}"
        if not name.startswith("multimodal."):
            continue
        other = name.split(".")[1]
        if other not in FLOORS or other == unit or (unit, other) in ALLOWED_SIDEWAYS:
            continue
        if FLOORS[other] > FLOORS[unit]:
            yield f"{path}: imports {other}, which is above"
        elif FLOORS[other] == FLOORS[unit]:
            yield f"{path}: imports {other}, which is on the same floor"


def _size_faults(path: str, source: str) -> Iterator[str]:
    if Path(path).name in VAGUE:
        yield f"{path}: says nothing by its name"
    if source.count("\n") > MAX_LINES:
        yield f"{path}: has {source.count(chr(10))} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{path}: {node.name} has {lines} lines"


def _module(path: str) -> str:
    name = path.removesuffix(".py").removesuffix("__init__").strip("/")
    return f"multimodal.{name.replace('/', '.')}".rstrip(".")


def cycles(sources: Mapping[str, str]) -> list[str]:
    """Import cycles between the modules themselves."""
    modules = {_module(path): source for path, source in sources.items()}
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
