"""A finished job as one file, so that what ran on a larger machine comes back.

A zip of the job's settings, what it said, its report and its result: weights as safetensors, and
the text files of tokenizer and configuration. Data and checkpoints stay where they are. A bundle
comes from somebody else: names are compared with what a bundle holds, never used as paths; sizes
are bounded before anything is unpacked; weights are stored as they are, so that no small file
becomes a large one; and nothing in it names code to run.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from multimodal.errors import JobError, SettingsError
from multimodal.sizes import download_size
from multimodal.studio.folder import JobFolder
from multimodal.studio.job import Job
from multimodal.studio.jobs import Jobs
from multimodal.studio.records import JobNotice, Metric, Report, Sample, Status
from multimodal.studio.settings import JobSettings, job_settings
from multimodal.studio.stacked_adapters import adapter_folder

T = TypeVar("T")

SETTINGS, STATUS, REPORT = "job.toml", "status.json", "report.json"
LINES: dict[str, TypeAdapter[Any]] = {
    "metrics.jsonl": TypeAdapter(Metric),
    "samples.jsonl": TypeAdapter(Sample),
    "notices.jsonl": TypeAdapter(JobNotice),
}
RESULT = "result/"
WEIGHTS = ".safetensors"
RESULT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|json|txt|jinja|model)")
MOST_FILES = 500
MOST_TEXT_BYTES = 100_000_000
"""Of one text file; the largest tokenizers have 40 MB."""
CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "auto_mapping"})
"""In a configuration, these name Python files or classes to import."""
CHUNK_BYTES = 1 << 20
MOMENT = (1980, 1, 1, 0, 0, 0)
"""Of every file, so that the same job makes the same bundle."""


def export_bundle(job: Job, path: Path) -> Path:
    """Write the bundle of a job that is done to `path`, in one step. An earlier adapter that it
    began with goes into its own. Raises JobError."""
    if job.status.state != "done":
        raise JobError(f"The job {job.id} is not done, so there is no result to export.")
    fresh = path.with_name(f".{path.name}.new")
    try:
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, file in _members(job.folder):
                _write(bundle, name, file)
        fresh.replace(path)
    except OSError as error:
        raise JobError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        fresh.unlink(missing_ok=True)
    return path


def import_bundle(path: Path, jobs: Jobs) -> Job:
    """The job in that file, as one of `jobs`. Raises JobError saying what is wrong with the file,
    and CapacityError where the disk has no room; nothing is written then."""
    try:
        with zipfile.ZipFile(path) as bundle:
            return _imported(bundle, jobs)
    except _Fault as fault:
        raise JobError(f"{path.name} is no bundle of a finished job: {fault}.") from fault
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise JobError(
            f"{path.name} is damaged, or no zip file ({error}); export the job again."
        ) from error
    except OSError as error:
        raise JobError(f"{path} cannot be read ({error.strerror or error}).") from error


class _Fault(Exception):  # noqa: N818
    """What is wrong with a bundle, in a clause."""


def _imported(bundle: zipfile.ZipFile, jobs: Jobs) -> Job:
    members = bundle.infolist()
    _check_names(members)
    _check_sizes(members)
    settings = _settings(_text(bundle, SETTINGS))
    status = _parsed(TypeAdapter(Status), _text(bundle, STATUS), STATUS)
    report = _parsed(TypeAdapter(Report), _text(bundle, REPORT), REPORT)
    jobs.check_room(sum(member.file_size for member in members))
    with jobs.new_folder(settings.name) as folder:
        done = replace(status, state="done", doing="", error=None, pid=None)
        folder.create(settings, replace(done, process_created_s=None))
        folder.write_report(report)
        folder.result.mkdir()
        for member in members:
            if member.filename in LINES or member.filename.startswith(RESULT):
                _copy(bundle, member, folder.path / member.filename)
        _check_lines(folder)
        _check_result(folder)
    return jobs.get(settings.name)


def _members(folder: JobFolder) -> Iterator[tuple[str, Path]]:
    """What of a job goes into a bundle. Model cards that libraries write do not."""
    for name in (SETTINGS, STATUS, REPORT, *LINES):
        if (folder.path / name).is_file():
            yield name, folder.path / name
    whole = adapter_folder(folder) if folder.settings().is_adapter else folder.result
    for path in sorted(folder.result.iterdir()):
        if path.is_file() and RESULT_NAME.fullmatch(path.name):
            changed = whole / path.name
            yield f"{RESULT}{path.name}", changed if changed.is_file() else path


def _write(bundle: zipfile.ZipFile, name: str, file: Path) -> None:
    member = zipfile.ZipInfo(name, MOMENT)
    is_packed = not name.endswith(WEIGHTS)
    member.compress_type = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
    member.file_size = file.stat().st_size  # beyond 2 GiB, zipfile has to know before
    with file.open("rb") as source, bundle.open(member, "w") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)


def _check_names(members: list[zipfile.ZipInfo]) -> None:
    names = [member.orig_filename for member in members]
    if len(names) > MOST_FILES:
        raise _Fault(f"it holds {len(names)} files")
    counts = Counter(name.lower() for name in names)
    if twice := [name for name in names if counts[name.lower()] > 1]:
        raise _Fault(f"it holds {twice[0]!r} twice")
    for name in names:
        is_result = name.startswith(RESULT) and RESULT_NAME.fullmatch(name.removeprefix(RESULT))
        if name not in {SETTINGS, STATUS, REPORT, *LINES} and not is_result:
            raise _Fault(f"it holds {name[:80]!r}, which belongs to no bundle")
    if missing := {SETTINGS, STATUS, REPORT} - set(names):
        raise _Fault(f"{min(missing)} is missing")
    if not any(name.endswith(WEIGHTS) for name in names):
        raise _Fault("it holds no weights")


def _check_sizes(members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        name, size = member.filename, member.file_size
        if member.flag_bits & 1:
            raise _Fault(f"{name} is encrypted")
        if name.endswith(WEIGHTS):
            if member.compress_type != zipfile.ZIP_STORED or size != member.compress_size:
                raise _Fault(f"{name} is compressed, which weights never are")
        elif size > MOST_TEXT_BYTES:
            raise _Fault(f"{name} would have {download_size(size)}")


def _text(bundle: zipfile.ZipFile, name: str) -> bytes:
    with bundle.open(name) as file:
        found = file.read(MOST_TEXT_BYTES + 1)
    if len(found) > MOST_TEXT_BYTES:
        raise _Fault(f"{name} is larger than it says")
    return found


def _settings(text: bytes) -> JobSettings:
    try:
        return job_settings(tomllib.loads(text.decode("utf-8")))
    except (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _Fault(f"{SETTINGS}: {error}".rstrip(".")) from error


def _parsed(adapter: TypeAdapter[T], text: bytes, name: str) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise _Fault(f"{name} cannot be read ({error.errors()[0]['msg']})") from error


def _copy(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """zipfile reads no more than the size that was checked, and compares the checksum."""
    with bundle.open(member) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)


def _check_lines(folder: JobFolder) -> None:
    for name, adapter in LINES.items():
        path = folder.path / name
        lines = path.read_bytes().splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            _parsed(adapter, line, f"{name}, line {number},")


def _check_result(folder: JobFolder) -> None:
    for path in folder.result.iterdir():
        if path.suffix == WEIGHTS:
            _check_weights(path)
        elif path.suffix == ".json":
            _check_configuration(path)


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="np") as tensors:
            is_empty = not tensors.keys()
    except (SafetensorError, OSError) as error:
        raise _Fault(f"{path.name} is no safetensors file ({error})") from error
    if is_empty:
        raise _Fault(f"{path.name} holds no tensors")


def _check_configuration(path: Path) -> None:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _Fault(f"{path.name} is not valid JSON") from error
    named = CODE_KEYS & found.keys() if isinstance(found, dict) else set()
    if any(found[key] for key in named):
        raise _Fault(f"{path.name} names code to run ({min(named)})")
