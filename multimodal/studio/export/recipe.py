"""The export of one model, in a process of its own.

A recipe that teaches nothing: `studio/process.py` runs it as it runs a job, so that it is ended,
and its errors are told, in the same way.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from transformers import AutoConfig

from multimodal.backends.llama_cpp.gguf_files import gguf_files
from multimodal.backends.tokenizer_files import LOCAL
from multimodal.catalog.cards import ModelCard
from multimodal.messages import Task
from multimodal.studio.context import JobContext
from multimodal.studio.export.certificate import compare, digests, latency, versions
from multimodal.studio.export.classifier_source import (
    classifier_latency,
    compare_classifier,
    load_classifier_source,
    measure_classifier,
)
from multimodal.studio.export.formats import FORMATS, WrittenFile
from multimodal.studio.export.plan import (
    Certificate,
    Check,
    Latency,
    read_plan,
    write_certificate,
)
from multimodal.studio.export.reference import measure
from multimodal.studio.export.source import load_source
from multimodal.studio.export.speech_source import (
    compare_speech,
    load_speech_source,
    measure_speech,
    speech_latency,
)
from multimodal.studio.recipes.base_model import GGUF
from multimodal.studio.records import Report


@dataclass(frozen=True, slots=True)
class _Kind:
    """How models of a task are loaded, measured, compared and timed; what one returns the next
    takes."""

    load: Callable[[JobContext, ModelCard], Any]
    measure: Callable[[Any], Any]
    compare: Callable[[Any, Any, str, str], Iterable[Check]]
    latency: Callable[[Any, Any, str], Latency]


KINDS = {
    Task.TEXT: _Kind(load_source, measure, compare, latency),
    Task.IMAGE: _Kind(
        load_classifier_source, measure_classifier, compare_classifier, classifier_latency
    ),
    Task.SPEECH: _Kind(load_speech_source, measure_speech, compare_speech, speech_latency),
}


class ExportRecipe:
    """As `studio.context.Recipe` says."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._plan = read_plan(job.folder.path)
        task = job.start.card.task
        self.exporter = FORMATS[self._plan.format].make(task)
        self._kind = KINDS[task]
        self._latencies: list[Latency] = []
        self._written: list[WrittenFile] = []
        self._checks: list[Check] = []
        self._notices: list[str] = []

    def setup(self) -> None:
        """See that the format can hold the model, before its weights are read."""
        self.exporter.check(*_architecture(self._job))

    def train(self) -> None:
        """Writes and compares; nothing is trained."""
        reference = self._write()
        gc.collect()  # the source is gone before what was made of it is loaded
        for written in self._written:
            if self._job.stop.is_set():
                return
            self._job.tell(doing=f"Comparing {self._name(written)} with its source")
            self._compare(written, reference)
            gc.collect()

    def save(self) -> Report:
        folder, plan, start = self._plan.folder, self._plan, self._job.start
        self._job.tell(doing="Writing the certificate")
        certificate = Certificate(
            plan.card.name,
            start.card.name,
            "" if start.adapter is None else start.adapter.name,
            plan.format,
            tuple(it.quantization for it in self._written),
            all(check.is_passed for check in self._checks),
            tuple(self._checks),
            digests(folder),
            versions(),
            (*self._notices, *(notice.text for notice in self._job.folder.notices())),
            tuple(self._latencies),
        )
        write_certificate(folder, certificate)
        return Report(certificate.is_passed, certificate.verdict)

    def cleanup(self) -> None:
        """Nothing is kept."""

    def _write(self) -> Any:
        plan = self._plan
        self._job.tell(doing=f"Loading {plan.card.title}")
        source = self._kind.load(self._job, plan.card)
        self.exporter.check(source.config.model_type, source.config)
        self._job.tell(doing=f"Measuring {plan.card.title}")
        reference = self._kind.measure(source)
        self._written = list(self._files(source))
        self._notices += self.exporter.finish(source, plan.card, self._written)
        return reference

    def _files(self, source: Any) -> Iterator[WrittenFile]:
        for kind in self._plan.quantizations:
            self._job.tell(doing=f"Writing {self._plan.card.title} as {self._plan.format}, {kind}")
            yield self.exporter.write(source, kind, self._plan.folder, self._plan.card.base)

    def _compare(self, written: WrittenFile, reference: Any) -> None:
        name = self._name(written)
        opened = self.exporter.open(written)
        try:
            self._checks += self._kind.compare(opened, reference, written.quantization, name)
            self._latencies.append(self._kind.latency(opened, reference, name))
        finally:
            opened.close()
        self._checks += self.exporter.more_checks(written, reference)

    def _name(self, written: WrittenFile) -> str:
        return "the model" if written.path == self._plan.folder else written.path.name


def _architecture(job: JobContext) -> tuple[str, Any]:
    """What the files themselves say it is, before anything is loaded."""
    start = job.start
    if start.card.family == GGUF:
        field = GGUFReader(gguf_files(start.card, start.files).language).get_field(
            "general.architecture"
        )
        return str(field.contents() if field is not None else ""), None
    path = start.files / "config.json"
    if not path.is_file():  # `load_base` says what is missing
        return "llama", None
    return str(json.loads(path.read_text("utf-8")).get("model_type", "")), _config(start.files)


def _config(files: Path) -> Any:
    """None where transformers cannot read it, which loading the weights then says."""
    try:
        return AutoConfig.from_pretrained(files, **LOCAL)
    except (OSError, ValueError, KeyError):
        return None
