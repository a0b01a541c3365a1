"""Models of the catalog are exported by a process of its own: whole, or not at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_until
from fakes import FakeSource, card
from tiny_adapters import save_adapter
from tiny_classifiers import CONFIGS, classifier_card
from tiny_exports import save_model, text_card

from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import UntrainedSource
from multimodal.errors import (
    BackendError,
    CapacityError,
    JobError,
    MultimodalError,
    SettingsError,
    TurnStoppedError,
    UnknownModelError,
)
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.host import HostMemory
from multimodal.memory.manager import MemoryManager
from multimodal.messages import Task
from multimodal.studio.export.certificate import digests
from multimodal.studio.export.export import FAILED, PREFIX, export_model
from multimodal.studio.export.plan import (
    CERTIFICATE_FILE,
    Exported,
    export_settings,
    read_certificate,
)
from multimodal.studio.requirements import JobDependencies

GB = 10**9
FAKE_PROCESS = """#!{python}
import sys
from dataclasses import replace
from pathlib import Path
from multimodal.studio.export.plan import Certificate, Check, read_plan, write_certificate
from multimodal.studio.folder import JobFolder
job = JobFolder(Path(sys.argv[sys.argv.index("multimodal.studio.process") + 1]))
plan = read_plan(job.path)
(plan.folder / "tiny.gguf").write_text("weights")
check = Check("chat template", "tiny.gguf", {is_passed}, "not 'Hi'", "the same text", "one")
write_certificate(plan.folder, Certificate(
    "tiny", "tiny", "", "gguf", ("f16",), {is_passed}, (check,), {{}}, {{}}))
job.write_status(replace(job.status(), state="done"))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and an adapter of it."""
    folder = tmp_path_factory.mktemp("models")
    config = save_model(folder / "tiny", "llama")
    save_adapter(folder / "adapter", config, std=0.1)
    return folder


def find_card(models: Path) -> dict[str, ModelCard]:
    from tiny_exports import MODELS

    tiny = text_card(MODELS["llama"])
    seer = classifier_card(CONFIGS["vit"])
    taught = {"name": "taught", "base_model": "tiny", "adapter": models / "adapter"}
    return {
        "tiny": tiny,
        "taught": tiny.model_copy(update=taught),
        "drawer": card("drawer", Task.DRAW),
        "seer": seer,
        "seed": seer.model_copy(update={"source": UntrainedSource(kind="untrained")}),
        "hearer": card("hearer", Task.SPEECH).model_copy(update={"family": "faster_whisper"}),
        "speller": card("speller", Task.SPEECH).model_copy(update={"family": "wav2vec2"}),
    }


def needs(models: Path, budget: int = 4 * GB, seen: list[str] | None = None, **more: Any) -> Any:
    """Of three cards: tiny, taught, which is tiny with the adapter, and one that draws."""
    cards = find_card(models)
    memory: MemoryManager[Any] = MemoryManager(Simulated(8 * GB), budget, FakeSource())

    def find(name: str) -> ModelCard:
        if name not in cards:
            raise UnknownModelError(f"there is no model '{name}'.")
        return cards[name]

    def fetch(card: ModelCard, report: Any, stop: threading.Event) -> Path:
        if seen is not None:
            seen.append(card.name)
        return models / "tiny"

    return JobDependencies(memory, find, fetch, **more)


def run(program: JobDependencies, folder: Path, **asked: Any) -> Exported:
    given = {"model": "tiny", "to": "gguf", "out": folder / "out", **asked}
    return export_model(export_settings(given), program, folder / "jobs", asked.pop("stop", None))


def left(folder: Path) -> list[str]:
    """What is in the folder and in that of the jobs."""
    jobs = folder / "jobs"
    return sorted(it.name for it in [*folder.iterdir(), *(jobs.iterdir() if jobs.is_dir() else [])])


def fake_process(folder: Path, is_passed: bool) -> str:
    """A program in place of Python, which writes a certificate at once."""
    import sys

    path = folder / "python"
    path.write_text(FAKE_PROCESS.format(python=sys.executable, is_passed=is_passed), "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.timeout(300)
def test_an_adapter_over_a_base_becomes_a_file_with_its_certificate(
    models: Path, tmp_path: Path
) -> None:
    program, out = needs(models), tmp_path / "new" / "out"
    found = run(program, tmp_path, model="taught", out=out, quantization=("q8_0",))
    assert found.certificate.is_passed, found.certificate.verdict
    assert (found.certificate.model, found.certificate.adapter) == ("taught", "adapter")
    assert found.folder == out
    assert sorted(it.name for it in out.iterdir()) == [CERTIFICATE_FILE, "taught-q8_0.gguf"]
    assert read_certificate(out) == found.certificate
    assert found.certificate.files == {
        k: v for k, v in digests(out).items() if k != CERTIFICATE_FILE
    }
    assert program.memory.snapshot().reserved == ()
    assert [it.name for it in out.parent.iterdir()] == ["out"]
    assert list((tmp_path / "jobs").iterdir()) == []


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that were started on something in that folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def until_begun(tmp_path: Path, running: Any) -> None:
    wait_until(lambda: bool(processes_of(tmp_path / "jobs")) or running.done())
    assert not running.done()
    assert [it for it in tmp_path.iterdir() if it.name.startswith(PREFIX)]
    assert not (tmp_path / "out").exists(), "nothing has the name of the export before its end"


def test_an_export_that_is_stopped_leaves_nothing(models: Path, tmp_path: Path) -> None:
    program, stop = needs(models), threading.Event()
    settings = export_settings({"model": "tiny", "to": "gguf", "out": tmp_path / "out"})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(export_model, settings, program, tmp_path / "jobs", stop)
        until_begun(tmp_path, running)
        stop.set()
        with pytest.raises(TurnStoppedError):
            running.result()
    assert processes_of(tmp_path / "jobs") == []
    assert program.memory.snapshot().reserved == ()
    assert left(tmp_path) == ["jobs"]


def test_an_export_that_is_killed_leaves_nothing(models: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, needs(models), tmp_path)
        until_begun(tmp_path, running)
        for process in processes_of(tmp_path / "jobs"):
            process.kill()
        with pytest.raises(BackendError, match="ended without a word"):
            running.result()
    assert left(tmp_path) == ["jobs"]


def test_an_export_that_failed_a_check_is_removed_and_says_which(
    models: Path, tmp_path: Path
) -> None:
    program = needs(models, python=fake_process(tmp_path, is_passed=False))
    found = run(program, tmp_path)
    assert found.folder is None
    assert found.certificate.verdict == (
        "The export is not as its source: tiny.gguf failed “chat template” (not 'Hi'; allowed: the "
        "same text)."
    )
    assert left(tmp_path) == ["jobs", "python"]


def test_an_export_that_failed_a_check_is_kept_under_a_name_that_says_so(
    models: Path, tmp_path: Path
) -> None:
    program = needs(models, python=fake_process(tmp_path, is_passed=False))
    found = run(program, tmp_path, keep_failed=True)
    assert found.folder == tmp_path / f"out{FAILED}"
    assert (found.folder / "tiny.gguf").is_file()
    with pytest.raises(JobError, match=r"out-failed is there already and not empty"):
        run(program, tmp_path, keep_failed=True)
    assert left(tmp_path) == ["jobs", f"out{FAILED}", "python"]


def test_an_empty_folder_is_filled(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    found = run(needs(models, python=fake_process(tmp_path, is_passed=True)), tmp_path)
    assert found.folder == tmp_path / "out"
    assert (tmp_path / "out/tiny.gguf").is_file()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("asked", "error", "fault"),
    [
        ({"model": "nobody"}, UnknownModelError, "there is no model 'nobody'"),
        ({"model": "drawer"}, JobError, "cannot be exported. Choose a text model"),
        (
            {"model": "speller", "to": "onnx"},
            JobError,
            "by wav2vec2 and cannot be.*Whisper",
        ),
        ({"model": "hearer"}, JobError, "speech recognizer, which gguf does not hold.* of onnx"),
        ({"model": "seer"}, JobError, "picture classifier, which gguf does not hold.*onnx"),
        ({"model": "seed", "to": "onnx"}, JobError, "knows nothing yet; fine-tune it"),
        ({"to": "paper"}, SettingsError, "no format 'paper'. Known: safetensors, gguf, ollama"),
        ({"quantization": ("q9",)}, SettingsError, "GGUF has no quantization 'q9'. Known: f32"),
        ({"quantization": ("q4_k_m",)}, SettingsError, "read here but not written"),
        (
            {"to": "safetensors", "quantization": ("q8_0",)},
            SettingsError,
            "Safetensors has no quantization 'q8_0'",
        ),
        (
            {"to": "safetensors", "quantization": ("f32", "f16")},
            SettingsError,
            "export f32, f16 one by one",
        ),
    ],
)
def test_bad_requests_are_one_sentence_and_write_nothing(
    models: Path, tmp_path: Path, asked: dict[str, Any], error: type[MultimodalError], fault: str
) -> None:
    seen: list[str] = []
    with pytest.raises(error, match=fault):
        run(needs(models, seen=seen), tmp_path, **asked)
    assert (seen, left(tmp_path)) == ([], [])


def test_a_folder_that_is_not_empty_is_left_alone(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine", "utf-8")
    with pytest.raises(JobError, match=r"out is there already and not empty\. Choose another"):
        run(needs(models), tmp_path)
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(JobError, match=r"file is a file\. Choose a folder"):
        run(needs(models), tmp_path, out=tmp_path / "file")
    with pytest.raises(JobError, match=r"below cannot be written \(Not a directory\)"):
        run(needs(models), tmp_path, out=tmp_path / "file" / "below")
    assert left(tmp_path) == ["file", "out"]
    assert [it.name for it in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_disk_or_a_budget_that_is_too_small_is_refused_before_anything_is_fetched(
    models: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    full = needs(models, seen=seen, free_bytes=lambda path: 200_000_100)
    with pytest.raises(CapacityError, match=r"takes about \d+ kB, and only 200 MB are free"):
        run(full, tmp_path)
    small = r"Exporting Tiny takes \d\.\d\d GB, and the budget is 0\.00 GB"
    with pytest.raises(CapacityError, match=small):
        run(needs(models, 1000, seen), tmp_path)
    host: HostMemory[Any] = HostMemory(1000, FakeSource())
    card: MemoryManager[Any] = MemoryManager(Simulated(8 * GB), 4 * GB, FakeSource(), host=host)
    with pytest.raises(CapacityError, match=small):  # beside a card it computes in host memory
        run(replace(needs(models, seen=seen), memory=card), tmp_path)
    assert (seen, left(tmp_path)) == ([], [])
