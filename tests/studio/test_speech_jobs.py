"""A speech recognizer from a folder of recordings to the chat: taught in a process of its own,
measured, offered, heard with, and undone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tomlkit
from own_models import write_profile
from tiny_hearing import heard
from tiny_transcribe import TASK, WORDS, save_tones, save_whisper, tone

from multimodal.backends.base import load
from multimodal.build import Program, build
from multimodal.errors import DataError, JobError
from multimodal.settings import read_settings
from multimodal.studio.bundle import export_bundle, import_bundle
from multimodal.studio.evaluation.evaluate import evaluate
from multimodal.studio.evaluation.plan import EvaluationResults, evaluation_settings
from multimodal.studio.export.export import export_model
from multimodal.studio.export.onnx_card import read_exported_card
from multimodal.studio.export.plan import export_settings
from multimodal.studio.jobs import Jobs
from multimodal.studio.requirements import JobDependencies
from multimodal.studio.results import export_dependencies, install, installed, uninstall
from multimodal.studio.settings import JobSettings, job_settings
from multimodal.web.studio.services import services_of


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tones(tmp_path_factory.mktemp("data") / "tones", 3, 3)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("program")
    card = save_whisper(folder / "whisper", WORDS).model_copy(update={"name": "tiny-whisper"})
    path = folder / "models" / "cards" / TASK / "tiny-whisper.toml"
    path.parent.mkdir(parents=True)
    told = card.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    path.write_text(tomlkit.dumps(told), "utf-8")
    write_profile(folder / "models", "tiny", {TASK: ["tiny-whisper"]})
    given = {"profile": "tiny", "device": "sim:4GB", "budget": "3GB"}
    with closing(
        build(read_settings(data=folder / "data", models=folder / "models", **given))
    ) as built:
        yield built


def asked(data: Path | str, **more: object) -> JobSettings:
    facts = {"name": "tones", "model": "tiny-whisper", "method": "transcribe", "language": "en"}
    return job_settings({**facts, "data": str(data), "accumulation": 1, "max_steps": 2, **more})


@pytest.fixture(scope="module")
def taught(program: Program, tones: Path) -> str:
    """The id of a job that is done."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    job = program.jobs.create(asked(tones))
    program.jobs.start(job.id)
    status = program.jobs.wait(job.id, 250)
    assert status.state == "done", (status, job.folder.log.read_text("utf-8")[-2000:])
    return job.id


def measured(program: Program, folder: Path, data: Path, **more: str) -> EvaluationResults:
    settings = evaluation_settings({"model": "tones", "data": str(data), "language": "en", **more})
    needs = JobDependencies(program.memory, program.catalog.card, program.weights.ensure)
    return evaluate(settings, needs, folder / "jobs")


def test_it_is_offered_hears_and_is_undone(program: Program, taught: str) -> None:
    job = program.jobs.get(taught)
    report = job.folder.report()
    assert report is not None
    assert (report.measure, report.samples) == ("word_error", 12)
    assert report.comparisons
    card = install(program, job.folder)
    assert (card.name, card.family, card.base_model) == ("tones", "faster_whisper", "tiny-whisper")
    assert card in program.cards
    assert [one.name for one in installed(program)] == ["tones"]
    assert services_of(program).installed() == {taught: "tones"}
    backend = load(card, program.weights.ensure(card), "cpu")
    heard(backend, tone("a"), language="en")
    backend.close()
    engine = json.loads((job.folder.path / "ctranslate2" / "config.json").read_text("utf-8"))
    assert len(engine["lang_ids"]) == 99
    uninstall(program, "tones")
    assert "tones" not in [one.name for one in program.cards]
    assert install(program, job.folder) == card


def test_its_word_error_is_measured_alone_and_compared(
    program: Program, taught: str, tones: Path, tmp_path: Path
) -> None:
    card = install(program, program.jobs.get(taught).folder)
    found = measured(program, tmp_path, tones, compare="tiny-whisper")
    other, model = found.models
    assert (model.model, model.measure, model.samples, model.tokens) == (
        card.name, "word_error", 12, 12,
    )  # fmt: skip
    assert other.model == "tiny-whisper"
    assert model.low is not None
    assert model.high is not None
    assert 0 <= model.low <= model.value <= model.high
    assert found.change is not None
    assert found.change.value == pytest.approx(model.value - other.value)
    with pytest.raises(JobError, match="A speech recognizer has no perplexity; measure its word"):
        measured(program, tmp_path, tones, measure="perplexity")


@pytest.mark.thorough
def test_it_is_exported_in_onnx_and_hears_the_same(
    program: Program, taught: str, tmp_path: Path
) -> None:
    card = install(program, program.jobs.get(taught).folder)
    settings = export_settings({"model": "tones", "to": "onnx", "out": tmp_path / "out"})
    certificate = export_model(
        settings, export_dependencies(program), tmp_path / "jobs"
    ).certificate
    assert certificate.is_passed, certificate.verdict
    assert (certificate.model, certificate.adapter) == ("tones", "")
    exported = read_exported_card(tmp_path / "out")
    assert exported.family == "onnx_whisper"
    said = []
    for each, folder in ((card, program.weights.ensure(card)), (exported, tmp_path / "out")):
        with closing(load(each, folder, "cpu")) as backend:
            said.append(heard(backend, tone("a"), language="en").spoken.text)
    assert said[0] == said[1]


def test_it_goes_to_another_machine_as_one_file(
    program: Program, taught: str, tmp_path: Path
) -> None:
    if installed(program):
        uninstall(program, "tones")
    path = export_bundle(program.jobs.get(taught), tmp_path / "tones.zip")
    needs = JobDependencies(program.memory, program.catalog.card, program.weights.ensure)
    job = import_bundle(path, Jobs(tmp_path / "jobs", needs))
    assert job.folder.report() == program.jobs.get(taught).folder.report()
    assert install(program, job.folder).family == "faster_whisper"
    uninstall(program, "tones")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"language": None}, "hears 2 languages: say which one is spoken with --language"),
        ({"language": "xx"}, "hears no language “xx”"),
        ({"method": "lora"}, "is a speech recognizer, and this method teaches a text model"),
    ],
)
def test_what_cannot_be_taught_is_refused_and_nothing_is_written(
    program: Program, tones: Path, more: dict[str, str | None], told: str
) -> None:
    given = {"name": "wrong", **more}
    settings = asked(tones, **{key: it for key, it in given.items() if it is not None})
    if more.get("language", "") is None:
        settings = settings.model_copy(update={"language": None})
    with pytest.raises(JobError, match=told):
        program.jobs.create(settings)
    assert not list(program.jobs.folder.glob("*wrong*"))


def test_bad_recordings_leave_nothing_behind_and_the_page_counts_good_ones(
    program: Program, tones: Path, tmp_path: Path
) -> None:
    bad = save_tones(tmp_path / "bad", 1, 1)
    (bad / "train" / "a-0.txt").unlink()
    with pytest.raises(DataError, match=r"train/a-0\.wav has no text"):
        program.jobs.create(asked(bad, name="bad"))
    assert not list(program.jobs.folder.glob("*bad*"))
    services = services_of(program)
    assert "tiny-whisper" in {card.name for card in services.models()}
    found = services.preview(asked(tones))
    assert (found.samples, found.test_samples) == (12, 12)
    batch, size = services.needed(asked(tones))
    assert 1 <= batch <= 4
    assert size > 0
