"""A finished job goes into one file and comes back from it; a file that is anything else is refused
and leaves nothing."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from job_results import adapter_job
from safetensors.numpy import load_file, save
from tiny_jobs import ended, opened, run, settings_of
from tiny_models import causal_card, causal_config
from tiny_recipe import Plan

from multimodal.errors import CapacityError, JobError
from multimodal.studio.bundle import export_bundle, import_bundle
from multimodal.studio.context import Start, write_start
from multimodal.studio.jobs import Jobs
from multimodal.studio.records import JobNotice, Report, Status

WEIGHTS = save({"lora": np.zeros((2, 2), np.float32)})
SETTINGS = settings_of(Plan()).as_toml().encode()
Files = dict[str, bytes]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(tmp_path / "jobs") as jobs:
        yield jobs


@pytest.fixture
def files() -> Files:
    """What a small bundle holds."""
    return {
        "job.toml": SETTINGS,
        "status.json": b'{"state": "done", "created_s": 5, "step": 3}',
        "report.json": b'{"passed": true, "verdict": "It counts."}',
        "metrics.jsonl": b'{"step": 1, "epoch": 0.5, "time_s": 2.0, "values": {"loss": 3.0}}\n',
        "result/adapter_model.safetensors": WEIGHTS,
        "result/adapter_config.json": b'{"peft_type": "LORA"}',
    }


def bundle_of(path: Path, files: Files, compress_weights: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            is_stored = name.endswith(".safetensors") and not compress_weights
            kind = zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED
            bundle.writestr(name, content, kind)
    return path


def test_a_job_comes_back_from_its_bundle_on_another_machine(jobs: Jobs, tmp_path: Path) -> None:
    job = run(jobs, Plan(steps=7), lora_rank=4)
    assert ended(jobs, job) == "done"
    (job.folder.result / "README.md").write_text("written by a library", "utf-8")
    job.folder.add(JobNotice(7, "Done."))
    path = export_bundle(job, tmp_path / "counts.zip")
    with opened(tmp_path / "elsewhere") as there:
        came = import_bundle(path, there)
        assert came.settings == job.settings
        assert came.folder.report() == job.folder.report()
        assert came.folder.metrics() == job.folder.metrics()
        assert came.folder.samples() == job.folder.samples()
        assert came.folder.notices() == job.folder.notices()
        name = "adapter_model.safetensors"
        kept, brought = load_file(job.folder.result / name), load_file(came.folder.result / name)
        assert np.array_equal(kept["lora"], brought["lora"])
        assert not (came.folder.result / "README.md").exists()
        assert not came.folder.checkpoints.exists()
        assert (came.status.state, came.status.pid, came.status.step) == ("done", None, 7)
        assert [one.id for one in there.all()] == ["counts"]
        with pytest.raises(JobError, match="There is a job counts already"):
            import_bundle(path, there)


def test_the_same_job_makes_the_same_bundle(jobs: Jobs, tmp_path: Path) -> None:
    job = run(jobs, Plan(steps=2))
    assert ended(jobs, job) == "done"
    one = export_bundle(job, tmp_path / "one.zip").read_bytes()
    assert one == export_bundle(job, tmp_path / "two.zip").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"jobs", "one.zip", "two.zip"}


def test_what_a_job_was_taught_on_top_of_goes_into_its_bundle(jobs: Jobs, tmp_path: Path) -> None:
    config = causal_config("llama")
    first = adapter_job(tmp_path / "earlier", "first", config, seed=1)
    second = adapter_job(jobs.folder, "second", config, seed=2)
    write_start(second, Start(causal_card(config), tmp_path, "cpu", 0, adapter=first.result))
    second.write_report(Report(True, "It learned."))
    path = export_bundle(jobs.get("second"), tmp_path / "second.zip")
    with opened(tmp_path / "elsewhere") as there:
        came = import_bundle(path, there).folder.result
    kept = json.loads((second.result / "adapter_config.json").read_text("utf-8"))
    brought = json.loads((came / "adapter_config.json").read_text("utf-8"))
    assert brought["r"] == 2 * kept["r"]
    tensors = load_file(came / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {8}


def test_only_a_finished_job_is_exported(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.create(settings_of(Plan()))
    with pytest.raises(JobError, match="counts is not done"):
        export_bundle(job, tmp_path / "counts.zip")
    assert not (tmp_path / "counts.zip").exists()


def without(name: str) -> Callable[[Files], None]:
    return lambda files: files.pop(name)  # type: ignore[return-value]


def adding(name: str, content: bytes = b"") -> Callable[[Files], None]:
    return lambda files: files.update({name: content})


EVIL: list[tuple[Callable[[Files], None], str]] = [
    (adding("../escaped.json", b"{}"), "it holds '../escaped.json', which belongs to no bundle"),
    (adding("/etc/escaped.json", b"{}"), "'/etc/escaped.json', which belongs"),
    (adding("result/../../escaped.json", b"{}"), r"'result/../../escaped.json', which belongs"),
    (adding("result\\..\\escaped.json", b"{}"), "which belongs to no bundle"),
    (adding("C:/escaped.json", b"{}"), "which belongs to no bundle"),
    (adding("result/.hidden.json", b"{}"), "which belongs to no bundle"),
    (adding("result/inner/config.json", b"{}"), "which belongs to no bundle"),
    (adding("result/"), "which belongs to no bundle"),
    (adding("result/modeling.py", b"print()"), "'result/modeling.py', which belongs"),
    (adding("result/pytorch_model.bin", b"\x80"), "'result/pytorch_model.bin', which belongs"),
    (adding("data/train.jsonl", b"{}"), "'data/train.jsonl', which belongs"),
    (adding("start.json", b"{}"), "'start.json', which belongs"),
    (adding("Job.toml", SETTINGS), "twice"),
    (without("job.toml"), "job.toml is missing"),
    (without("report.json"), "report.json is missing"),
    (without("result/adapter_model.safetensors"), "it holds no weights"),
    (adding("job.toml", b"name = "), "job.toml: "),
    (adding("job.toml", b"\xff\xfe"), "job.toml: "),
    (adding("job.toml", b'name = "../x"\nmodel = "small"\ndata = "d"'), "job.toml: name"),
    (adding("job.toml", b'name = "x"\nmodel = "small"\ndata = "d"\nbetch = 3'), "mean 'batch'"),
    (adding("report.json", b"[]"), "report.json cannot be read"),
    (adding("status.json", b'{"state": "won"}'), "status.json cannot be read"),
    (adding("metrics.jsonl", b'{"step": "x"}\n'), "metrics.jsonl, line 1, cannot be read"),
    (adding("result/adapter_model.safetensors", b"\x80\x04pickle"), "is no safetensors file"),
    (adding("result/adapter_model.safetensors", WEIGHTS[:-4]), "is no safetensors file"),
    (adding("result/more.safetensors", save({})), "more.safetensors holds no tensors"),
    (adding("result/config.json", b"{"), "config.json is not valid JSON"),
    (adding("result/config.json", b"[" * 100_000), "config.json is not valid JSON"),
    (adding("result/config.json", b'{"auto_map": {"AutoModel": "x.Y"}}'), "names code to run"),
    (adding("result/tokenizer.json", b" " * 100_000_001), "tokenizer.json would have 100 MB"),
]


@pytest.mark.parametrize(("spoil", "told"), EVIL)
def test_a_file_that_is_no_bundle_is_refused_and_leaves_nothing(
    jobs: Jobs, files: Files, tmp_path: Path, spoil: Callable[[Files], None], told: str
) -> None:
    spoil(files)
    path = bundle_of(tmp_path / "evil.zip", files)
    with pytest.raises(JobError) as refused:
        import_bundle(path, jobs)
    assert str(refused.value).startswith("evil.zip is no bundle of a finished job: ")
    assert told in str(refused.value)
    assert jobs.all() == []
    assert {one.name for one in tmp_path.rglob("*")} <= {"evil.zip", "jobs", ".locks", "counts"}
    assert not (jobs.folder / "counts").exists()


def test_weights_that_would_grow_are_refused(jobs: Jobs, files: Files, tmp_path: Path) -> None:
    files["result/adapter_model.safetensors"] = save({"zeros": np.zeros(10**6, np.float32)})
    path = bundle_of(tmp_path / "bomb.zip", files, compress_weights=True)
    assert path.stat().st_size < 10**5
    with pytest.raises(JobError, match="is compressed, which weights never are"):
        import_bundle(path, jobs)


def test_a_link_in_a_bundle_is_read_as_what_it_holds(
    jobs: Jobs, files: Files, tmp_path: Path
) -> None:
    link = zipfile.ZipInfo("result/config.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = bundle_of(tmp_path / "link.zip", files)
    with zipfile.ZipFile(path, "a") as bundle:
        bundle.writestr(link, "/etc/passwd")
    with pytest.raises(JobError, match=r"config\.json is not valid JSON"):
        import_bundle(path, jobs)


def test_a_damaged_file_is_told(jobs: Jobs, files: Files, tmp_path: Path) -> None:
    path = bundle_of(tmp_path / "cut.zip", files)
    content = path.read_bytes()
    place = content.index(WEIGHTS[-16:])
    for damaged in (content[:-100], b"", content[:place] + b"x" * 16 + content[place + 16 :]):
        path.write_bytes(damaged)
        with pytest.raises(JobError, match=r"cut\.zip is damaged, or no zip file"):
            import_bundle(path, jobs)
        assert jobs.all() == []
    with pytest.raises(JobError, match="cannot be read"):
        import_bundle(tmp_path / "nowhere.zip", jobs)


def test_a_bundle_that_the_disk_does_not_hold_is_refused(files: Files, tmp_path: Path) -> None:
    path = bundle_of(tmp_path / "large.zip", files)
    with (
        opened(tmp_path / "jobs", free_bytes=lambda folder: 1000) as jobs,
        pytest.raises(CapacityError, match="do not fit on the disk"),
    ):
        import_bundle(path, jobs)


def test_what_a_bundle_says_of_a_process_is_not_believed(
    jobs: Jobs, files: Files, tmp_path: Path
) -> None:
    running = {"state": "running", "pid": 1, "process_created_s": 0.0}
    files["status.json"] = json.dumps(running).encode()
    job = import_bundle(bundle_of(tmp_path / "counts.zip", files), jobs)
    assert job.folder.status() == Status("done")
    assert job.folder.report() == Report(True, "It counts.")
