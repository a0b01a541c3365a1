"""The GGUF files of a model: which of a folder's files is which, and what is wrong with one that
llama.cpp refuses.

A model that sees comes as two files: the language model, and a projector with the vision tower,
which the field calls mmproj and names so. A language model may be split into numbered parts, of
which llama.cpp finds the others by the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError
from multimodal.messages import Task

PROJECTOR = "mmproj"
VISION = "clip"
"""What a projector's header gives as its architecture, whatever its vision tower is."""
LATER_PART = re.compile(r"-(?!0*1-of-)\d+-of-\d+\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """`projector`: only for a model that sees."""

    language: Path
    projector: Path | None = None


def gguf_files(card: ModelCard, files: Path) -> GgufFiles:
    """The files of `card`: those in the folder `files`, or the language model `files` itself and
    what lies beside it. Raises BackendError unless there is one of each kind that the card needs;
    a text model leaves a projector beside it alone."""
    folder = files.parent if files.is_file() else files
    found = sorted(path for path in folder.glob("*.gguf") if not LATER_PART.search(path.name))
    projectors = [path for path in found if PROJECTOR in path.name.lower()]
    others = [files] if files.is_file() else [path for path in found if path not in projectors]
    language = _the_one(card, folder, others, "")
    if card.task is not Task.IMAGE:
        return GgufFiles(language)
    return GgufFiles(language, _the_one(card, folder, projectors, f"{PROJECTOR}*"))


def _the_one(card: ModelCard, folder: Path, paths: list[Path], kind: str) -> Path:
    if len(paths) == 1:
        return paths[0]
    if not paths:
        what = f"no {kind}.gguf file, the projector it sees with," if kind else "no .gguf file"
        raise BackendError(f"{card.title}: there is {what} in {folder}")
    names = ", ".join(path.name for path in paths)
    raise BackendError(
        f"{card.title}: {folder} has several models ({names}). "
        "Leave the one to use, or name it in the card: as its path, or in 'files'."
    )


def find_unsupported_reason(files: GgufFiles) -> str:
    """Why llama.cpp, which only says that it failed, did not take these files."""
    language = _header(files.language)
    if language is None:
        return _damaged(files.language)
    if language.architecture == VISION:
        return f"{files.language.name} is a projector ({PROJECTOR}), not a language model"
    unknown = f"this llama.cpp cannot run {files.language.name} ({language.architecture})"
    if files.projector is None:
        return unknown
    projector = _header(files.projector)
    if projector is None:
        return _damaged(files.projector)
    if projector.architecture != VISION:
        return (
            f"{files.projector.name} is no projector ({PROJECTOR}): it holds a model of the "
            f"kind '{projector.architecture}'"
        )
    if language.width not in projector.widths:
        return (
            f"{files.projector.name} belongs to another model: {files.language.name} reads "
            f"{language.width:,} values a token, and no layer of it makes so many"
        )
    return f"{unknown} together with {files.projector.name}"


def _damaged(path: Path) -> str:
    return f"{path.name} is damaged or no GGUF file. Delete it, so that it is fetched again"


@dataclass(frozen=True, slots=True)
class _Header:
    """`width`: values a token; `widths`: all sizes that occur in the tensors."""

    architecture: str
    width: int
    widths: frozenset[int]


def _header(path: Path) -> _Header | None:
    """None for a file that is no whole GGUF file."""
    try:
        reader = GGUFReader(path)
        architecture = str(_value(reader, "general.architecture"))
        width = int(_value(reader, f"{architecture}.embedding_length") or 0)
        widths = frozenset(int(size) for tensor in reader.tensors for size in tensor.shape)
    except Exception:  # whatever a damaged file makes the reader stumble over
        return None
    return _Header(architecture, width, widths)


def _value(reader: GGUFReader, name: str) -> str | int | None:
    field = reader.get_field(name)
    found: str | int | None = field.contents() if field is not None else None
    return found
