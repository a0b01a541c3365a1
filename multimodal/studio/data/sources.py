"""Records of what `settings.data` names: a file, a folder of them, or a data set on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from multimodal.errors import DataError
from multimodal.studio.data.hub import LoadDataset, load_dataset, read_hub
from multimodal.studio.data.json_files import read_json, read_json_lines
from multimodal.studio.data.records import Record, Split
from multimodal.studio.data.tables import read_csv, read_parquet
from multimodal.studio.data.text_lines import read_lines
from multimodal.studio.settings import HUB

_NAMES: dict[Split, re.Pattern[str]] = {
    "train": re.compile(r"train(ing)?([-_. ]|$)", re.IGNORECASE),
    "test": re.compile(r"(test|val(id(ation)?)?|dev|eval(uation)?)([-_. ]|$)", re.IGNORECASE),
}


def read_text(path: Path, name: str) -> Iterator[Record]:
    """A sample a line. Raises DataError."""
    for number, line in read_lines(path, name):
        text = line.rstrip("\r\n")
        yield Record({"text": text} if text.strip() else {}, name, number)


Reader = Callable[[Path, str], Iterator[Record]]
"""Of a file, and what it is called in errors."""
READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
}


def read_source(
    data: str, load: LoadDataset = load_dataset, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Record]:
    """Every record, one at a time; `load` fetches a data set of the hub, and `tell` is given
    sentences on what is left out. Raises DataError."""
    if data.startswith(HUB):
        yield from read_hub(data.removeprefix(HUB), load, tell)
        return
    path = Path(data).expanduser()
    if path.is_dir():
        yield from _read_folder(path)
    elif not path.is_file():
        raise DataError(
            f"{data} is no file that exists; give a file, a folder, hub:OWNER/NAME, or chats for "
            "your own."
        )
    else:
        yield from _read_file(path)


def _read_file(path: Path) -> Iterator[Record]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        kind = f"a {path.suffix} file" if path.suffix else "a file without an ending"
        raise DataError(f"{path.name}: {kind} is not read; give {_endings()}.")
    yield from reader(path, path.name)


def _read_folder(folder: Path) -> Iterator[Record]:
    """The files in the order of their names, of subfolders too. Where there are some for training
    and some for testing by name (or in folders of such names), they stay apart."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in READERS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"{folder} holds no file that is read; put {_endings()} into it.")
    splits = {path: split_of(path.relative_to(folder)) for path in files}
    is_split = {"train", "test"} <= set(splits.values())
    for path in files:
        name = path.relative_to(folder).as_posix()
        split: Split | None = (splits[path] or "train") if is_split else None
        for record in READERS[path.suffix.lower()](path, name):
            yield replace(record, split=split)


def split_of(path: Path) -> Split | None:
    """What the name of a file, or of the folders it lies in, says that it is for."""
    for part in reversed(path.parts):
        for split, pattern in _NAMES.items():
            if pattern.match(part):
                return split
    return None


def _endings() -> str:
    *most, last = READERS
    return f"{', '.join(most)} or {last}"
