"""The studio's part of the page without a browser: what is asked, and what comes of it."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from fakes import FakeSource, program
from filelock import FileLock
from studio_page import (
    MODEL,
    FakeStudio,
    finished_job,
    make_job,
    running_job,
    studio_jobs,
    write_export,
)
from tiny_jobs import until_step

from multimodal.build import Program
from multimodal.studio.export.background import ExportFolder, JobExports
from multimodal.studio.export.plan import Latency
from multimodal.studio.jobs import Jobs
from multimodal.studio.records import ENDS, Metric, Report
from multimodal.web.studio.controller import StudioController, owner_key
from multimodal.web.studio.downloads import Downloads
from multimodal.web.studio.tab import MOST_FRAMES, StudioTab

NONCES = (f"{number:x}" for number in itertools.count(10))


@dataclass
class Visitor:
    """Somebody's tab, with the parts that it has."""

    controller: StudioController
    owner: str = "ann"
    tab: StudioTab = field(default_factory=StudioTab)
    parts: dict[str, str] = field(default_factory=dict)
    seen: int = 0

    def ask(self, **action: Any) -> dict[str, Any]:
        """The frame that answers."""
        packet = self.controller.act(self.tab, self.owner, {"nonce": next(NONCES), **action})
        return self._take(packet)

    def refused(self, **action: Any) -> str:
        return str(self.ask(**action)["alert"])

    def look(self, view: str, job: str = "") -> str:
        self.ask(do="look", view=view, job=job)
        return self.parts.get(view, "")

    def tick(self) -> dict[str, Any] | None:
        packet = self.controller.update(self.tab, self.owner)
        return None if packet is None else self._take(packet)

    def _take(self, packet: dict[str, Any]) -> dict[str, Any]:
        for frame in packet["frames"]:
            if frame["serial"] > self.seen:
                self.seen = frame["serial"]
                self.parts |= frame.get("parts", {})
        newest: dict[str, Any] = packet["frames"][-1]
        return newest


@dataclass
class Studio:
    """All of one program: `visitor` opens a tab."""

    made: Program
    jobs: Jobs
    fake: FakeStudio
    controller: StudioController

    def visitor(self, owner: str = "ann") -> Visitor:
        return Visitor(self.controller, owner)

    def upload(self, name: str, text: str) -> dict[str, str]:
        """A file as the browser names it once it is uploaded."""
        path = self.made.settings.page_cache / "1f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return {"path": str(path), "name": name}


def opened(tmp_path: Path, **settings: Any) -> Iterator[Studio]:
    (tmp_path / "data").mkdir(exist_ok=True)
    made, fake = program(tmp_path / "data", FakeSource(), **settings), FakeStudio()
    with studio_jobs(made) as jobs:
        services = fake.services(made, jobs)
        downloads = Downloads("secret", made.settings.page_cache, services.export_job)
        yield Studio(made, jobs, fake, StudioController(services, downloads))
    made.close()


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    yield from opened(tmp_path)


@pytest.fixture
def ann(studio: Studio) -> Visitor:
    return studio.visitor()


@pytest.fixture
def form(studio: Studio, ann: Visitor) -> dict[str, Any]:
    """A form that is filled in; its data is a plan of ten quick steps."""
    text = json.dumps({"steps": 10, "step_s": 0.01})
    told = ann.ask(do="keep_data", file=studio.upload("plan.txt", text))
    return {"name": "mine", "model": MODEL, "method": "lora", **told["fields"], "upload_told": ""}


def fields(form: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**{k: v for k, v in form.items() if k != "upload_told"}, **more}


# ---------------------------------------------------------------- jobs


def test_the_list_says_in_words_how_each_job_stands(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs, "good")
    finished_job(studio.jobs, "poor", is_passed=False)
    few = finished_job(studio.jobs, "few", is_passed=False)
    few.write_report(Report(False, "Too few samples were held out to tell."))
    make_job(studio.jobs, "broken", state="failed", error="The card is full.")
    listed = re.sub(r"(<[^>]+>|\s)+", " ", ann.look("jobs"))
    for word in ("good ✓ Done ✓ learned", "poor ✓ Done ✕ not learned", "few ✓ Done ✕ not shown"):
        assert word in listed
    for word in ("broken", "Failed", "SmolLM2 135M"):
        assert word in listed


def test_an_open_job_is_shown_whole_at_any_time(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs)
    shown = ann.look("job", "ledger")
    for word in ("Loss", "Gradient norm", "Learning rate", "Speed", "Memory", "held out"):
        assert word in shown
    for word in ("Marta keeps it. (400)", "Marta keeps it. (100)", "2 of 20 samples"):
        assert word in shown
    for word in ("Did it learn?", "24.1 (22 to 26.4)", "20 % of what it was", "None seen."):
        assert word in shown
    assert "multimodal finetune --name ledger" in shown


def test_a_tick_sends_what_changed_and_nothing_else(studio: Studio, ann: Visitor) -> None:
    with running_job(studio.jobs) as folder:
        ann.look("job", "under-way")
        assert ann.tick() is None
        folder.add(Metric(201, 5.0, 402.0, {"loss": 0.987}))
        frame = ann.tick()
        assert frame is not None
        assert list(frame["parts"]) == ["job"]
        assert "0.987" in ann.parts["job"]
        assert ann.tick() is None


def test_a_tab_that_shows_the_chat_is_sent_nothing(studio: Studio, ann: Visitor) -> None:
    with running_job(studio.jobs) as folder:
        ann.look("job", "under-way")
        ann.ask(do="look", view="")
        folder.add(Metric(201, 5.0, 402.0, {"loss": 0.987}))
        assert ann.tick() is None


def test_who_looks_again_is_shown_everything_again(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs)
    ann.look("job", "ledger")
    ann.parts.clear()  # the browser was reloaded
    assert "Marta" in ann.look("job", "ledger")


def test_a_frame_that_did_not_come_is_sent_again_until_it_is_acknowledged(
    studio: Studio, ann: Visitor
) -> None:
    first = ann.controller.act(ann.tab, "ann", {"nonce": "aa", "do": "look", "view": "jobs"})
    second = ann.controller.act(ann.tab, "ann", {"nonce": "bb", "do": "look", "view": "new"})
    assert [frame["nonce"] for frame in second["frames"]] == ["aa", "bb"]
    assert "jobs" in second["frames"][0]["parts"]
    known = {"nonce": "cc", "do": "look", "view": "", "seen": second["frames"][-1]["serial"]}
    third = ann.controller.act(ann.tab, "ann", known)
    assert [frame["nonce"] for frame in third["frames"]] == ["cc"]
    assert first["frames"][0]["nonce"] == "aa"


def test_frames_that_nobody_fetches_do_not_pile_up(ann: Visitor) -> None:
    for _ in range(MOST_FRAMES + 5):
        packet = ann.controller.act(ann.tab, "ann", {"nonce": "aa", "do": "look", "view": "jobs"})
    assert len(packet["frames"]) <= MOST_FRAMES


def test_a_job_that_is_gone_leads_back_to_the_list(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs)
    ann.look("job", "ledger")
    studio.jobs.remove("ledger")
    frame = ann.tick()
    assert frame is not None
    assert frame["go"] == "#studio"
    assert "no such job" in ann.refused(do="look", view="job", job="ledger")


def test_words_of_a_job_never_become_markup(studio: Studio, ann: Visitor) -> None:
    folder = finished_job(studio.jobs)
    nasty = "<img src=x onerror=alert(1)>\"'"
    folder.write_status(replace(folder.status(), state="failed", error=nasty))
    folder.log.write_text(nasty, "utf-8")
    shown = ann.look("job", "ledger")
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_what_a_job_holds_of_the_memory_is_listed(studio: Studio, ann: Visitor) -> None:
    with (
        running_job(studio.jobs),
        studio.made.memory.reserve("Fine-tuning under-way", 10**9, threading.Event()) as held,
    ):
        list(held.wait())
        assert "Fine-tuning under-way" in ann.look("job", "under-way")
        assert "1.00 GB" in ann.parts["job"]


# ---------------------------------------------------------------- what is done with a job


def test_a_job_is_stopped_resumed_and_removed(
    studio: Studio, ann: Visitor, form: dict[str, Any]
) -> None:
    slow = studio.upload("slow.txt", json.dumps({"steps": 400, "step_s": 0.02}))
    told = ann.ask(do="keep_data", file=slow)["fields"]
    frame = ann.ask(do="start", fields=fields(form, upload=told["upload"]))
    assert frame["go"] == "#studio/job/mine"
    job = studio.jobs.get("mine")
    until_step(job, 6)
    ann.look("job", "mine")
    assert "runs" in ann.refused(do="remove", job="mine")
    ann.ask(do="stop", job="mine")
    wait_until(lambda: job.status.state == "stopped" and not job.is_busy)
    ann.tick()
    assert 'data-do="resume">' in ann.parts["job"]
    assert "alert" not in ann.ask(do="resume", job="mine")
    wait_until(lambda: job.status.runs == 2)
    studio.jobs.stop("mine", now=True)
    wait_until(lambda: job.status.state in ENDS)
    assert ann.ask(do="remove", job="mine")["go"] == "#studio"
    assert studio.jobs.all() == []


def test_what_cannot_be_resumed_says_why(studio: Studio, ann: Visitor) -> None:
    make_job(studio.jobs, "broken", state="failed", error="The card is full.", runs=1)
    shown = ann.look("job", "broken")
    assert 'aria-disabled="true"' in shown
    assert "It cannot be resumed: Its data cannot be used" in shown
    assert "Its data cannot be used" in ann.refused(do="resume", job="broken")


def test_a_job_that_its_program_let_go_of_is_shown_so(studio: Studio, ann: Visitor) -> None:
    make_job(studio.jobs, "left", state="stopped", runs=1)
    with FileLock(studio.jobs.get("left").lock_file):
        assert "It runs already" in ann.look("job", "left")
    ann.tick()
    assert "It runs already" not in ann.parts["job"]


def test_a_result_is_offered_and_taken_back(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs)
    ann.look("job", "ledger")
    assert ann.ask(do="chat", job="ledger")["chat"] == MODEL
    assert studio.fake.installed == {"ledger": MODEL}
    assert "Undo" in ann.parts["job"]
    ann.ask(do="uninstall", job="ledger")
    assert studio.fake.installed == {}
    assert "Undo" not in ann.parts["job"]


def test_what_did_not_learn_is_installed_only_by_its_own_button(
    studio: Studio, ann: Visitor
) -> None:
    finished_job(studio.jobs, is_passed=False)
    assert "Chat with it" not in ann.look("job", "ledger")
    assert "did not learn" in ann.refused(do="chat", job="ledger")
    assert studio.fake.installed == {}
    ann.ask(do="install", job="ledger")
    assert studio.fake.installed == {"ledger": MODEL}
    assert "Chat with it" in ann.parts["job"]


def test_removing_a_job_takes_its_result_out_of_the_chat(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs)
    ann.ask(do="install", job="ledger")
    ann.ask(do="remove", job="ledger")
    assert studio.fake.installed == {}


def test_the_same_settings_fill_the_form_again(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs)
    frame = ann.ask(do="again", job="ledger")
    assert frame["go"] == "#studio/new"
    assert frame["fields"]["place"] == "/data/ledger.jsonl"


# ---------------------------------------------------------------- a new job


def test_the_command_of_what_it_is_about_to_do_is_shown(
    studio: Studio, ann: Visitor, form: dict[str, Any]
) -> None:
    frame = ann.ask(do="plan", fields=fields(form, epochs="2"))
    assert frame["faults"] == {}
    assert "multimodal finetune --name mine" in ann.parts["plan"]
    assert "--epochs 2.0" in ann.parts["plan"]
    assert "1.50 GB of the 2.50 GB" in ann.parts["plan"]
    assert studio.jobs.all() == []


def test_what_does_not_fit_is_told_before_it_is_started(
    studio: Studio, ann: Visitor, form: dict[str, Any]
) -> None:
    studio.fake.needed_bytes = 9_000_000_000
    ann.ask(do="plan", fields=fields(form))
    assert "would be refused" in ann.parts["plan"]


def test_faults_are_told_by_their_fields_and_nothing_is_made(studio: Studio, ann: Visitor) -> None:
    frame = ann.ask(do="start", fields={"name": "Bad Name", "model": "gone", "epochs": "x"})
    assert set(frame["faults"]) == {"name", "epochs", "data"}
    frame = ann.ask(do="start", fields={"name": "fine", "model": "gone", "source": "place"})
    assert "data" in frame["faults"]
    assert studio.jobs.all() == []


def test_a_model_that_is_not_offered_cannot_be_named(
    studio: Studio, ann: Visitor, form: dict[str, Any]
) -> None:
    frame = ann.ask(do="start", fields=fields(form, model="mistral-7b-instruct"))
    assert "not offered" in frame["faults"]["model"]


def test_a_path_is_taken_as_it_is(studio: Studio, ann: Visitor, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("one\ntwo\n", "utf-8")
    asked = {"name": "mine", "model": MODEL, "source": "place", "place": str(notes)}
    ann.ask(do="plan", fields=asked)
    assert f"--data {notes}" in ann.parts["plan"]
    frame = ann.ask(do="plan", fields={**asked, "place": str(tmp_path / "gone.txt")})
    assert frame["faults"]["data"].endswith("is not there.")


def test_a_data_set_of_the_hub_is_named_by_owner_and_name(ann: Visitor) -> None:
    asked = {"name": "mine", "model": MODEL, "source": "hub", "hub": "owner/set"}
    ann.ask(do="plan", fields=asked)
    assert "--data hub:owner/set" in ann.parts["plan"]


def test_the_preview_shows_what_is_trained(
    studio: Studio, ann: Visitor, form: dict[str, Any]
) -> None:
    ann.ask(do="preview", fields=fields(form, max_length="64"))
    shown = ann.parts["preview"]
    assert '<mark class="trained">Marta keeps it.&lt;|im_end|&gt;</mark>' in shown
    assert "42 % of a batch; 3 % with packing" in shown
    assert "3 of 103 samples are duplicates" in shown
    assert "&lt;b&gt;not&lt;/b&gt;" in shown
    assert [settings.max_length for settings in studio.fake.previewed] == [64]


def test_a_preview_needs_no_name(ann: Visitor, form: dict[str, Any]) -> None:
    assert "faults" not in ann.ask(do="preview", fields=fields(form, name=""))
    assert ann.ask(do="start", fields=fields(form, name=""))["faults"].keys() == {"name"}


def test_settings_come_in_as_toml(ann: Visitor, tmp_path: Path) -> None:
    text = f'name = "a"\nmodel = "{MODEL}"\ndata = "/somewhere/a.txt"\nepochs = 5.0\n'
    told = ann.ask(do="import_settings", text=text)["fields"]
    assert (told["name"], told["epochs"], told["place"]) == ("a", "5.0", "/somewhere/a.txt")
    assert "no settings" in ann.refused(do="import_settings", text="nonsense")


def test_a_finished_job_comes_in_as_a_file(studio: Studio, ann: Visitor) -> None:
    frame = ann.ask(do="import_job", file=studio.upload("brought.zip", '{"steps": 1}'))
    assert frame["go"] == "#studio/job/brought"
    assert [path.name for path in studio.fake.imported] == ["brought.zip"]


# ---------------------------------------------------------------- files


def test_an_upload_is_kept_beyond_its_hour(
    studio: Studio, ann: Visitor, form: dict[str, Any]
) -> None:
    for path in studio.made.settings.page_cache.rglob("*.txt"):
        path.unlink()
    assert ann.ask(do="plan", fields=fields(form))["faults"] == {}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("../../conversations.sqlite3", "gone"), ("/etc/passwd", "gone"), ("x.exe", "no kind")],
)
def test_only_data_that_was_uploaded_is_taken(
    studio: Studio, ann: Visitor, name: str, sentence: str
) -> None:
    known = studio.upload("x.exe", "MZ")["path"]
    path = known if name == "x.exe" else str(Path(known).parent / name)
    assert sentence in ann.refused(do="keep_data", file={"path": path, "name": Path(name).name})


@pytest.mark.parametrize("named", ["../secret", "a/b", "0" * 32 + "/../../secret", ""])
def test_a_made_up_reference_leads_to_no_file(ann: Visitor, named: str) -> None:
    frame = ann.ask(do="start", fields={"name": "mine", "model": MODEL, "upload": named})
    assert "data" in frame["faults"]


# ---------------------------------------------------------------- a person's own chats


def test_rows_are_edited_and_become_the_data_of_a_job(studio: Studio, ann: Visitor) -> None:
    assert "Thumbs up" in ann.look("chats")
    ann.ask(do="rows", method="kto")
    stamp = re.search('data-stamp="([^"]+)"', ann.parts["chats"])
    assert stamp is not None
    kept = [{"id": 1, "texts": {"completion": "Shakespeare wrote it."}}]
    frame = ann.ask(do="keep_rows", method="kto", stamp=stamp[1], rows=kept)
    assert (frame["go"], frame["fields"]["method"]) == ("#studio/new", "kto")
    asked = {**frame["fields"], "name": "mine", "model": MODEL}
    del asked["upload_told"]
    ann.ask(do="plan", fields=asked)
    path = re.search(r"--data (\S+my-chats-kto.jsonl)", ann.parts["plan"])
    assert path is not None
    (row,) = map(json.loads, Path(path[1]).read_text("utf-8").splitlines())
    assert row["completion"][0]["content"] == "Shakespeare wrote it."
    assert row["label"] is False


def test_only_the_rows_of_who_asks_are_read(studio: Studio) -> None:
    studio.visitor("bob").ask(do="rows", method="dpo")
    assert studio.fake.asked_of == ["bob"]


def test_rows_that_were_shown_to_another_tab_are_not_kept(studio: Studio, ann: Visitor) -> None:
    ann.ask(do="rows", method="kto")
    asked = {"do": "keep_rows", "method": "kto", "stamp": ann.tab.rows_stamp, "rows": [{"id": 0}]}
    assert "no longer" in studio.visitor("bob").refused(**asked)


# ---------------------------------------------------------------- who may use it


@pytest.mark.parametrize("asked", [{"do": "look", "view": "jobs"}, {"do": "stop", "job": "ledger"}])
@pytest.mark.parametrize("settings", [{"share": True}, {"host": "0.0.0.0"}])  # noqa: S104
def test_a_page_that_everybody_reaches_has_no_studio(
    tmp_path: Path, settings: dict[str, Any], asked: dict[str, Any]
) -> None:
    for studio in opened(tmp_path, **settings):
        finished_job(studio.jobs)
        visitor = studio.visitor()
        assert visitor.ask(**asked)["is_closed"]
        assert "--auth" in visitor.parts["closed"]
        assert set(visitor.parts) == {"closed"}
        assert visitor.tick() is None


def test_a_login_sees_its_own_jobs_alone(tmp_path: Path) -> None:
    for studio in opened(tmp_path, share=True, auth="ann:secret"):
        visitor, other = studio.visitor("login:ann"), studio.visitor("login:bob")
        text = json.dumps({"steps": 1, "step_s": 0.0})
        told = visitor.ask(do="keep_data", file=studio.upload("plan.txt", text))["fields"]
        asked = {"name": "mine", "model": MODEL, "upload": told["upload"], "source": "upload"}
        assert visitor.ask(do="start", fields=asked)["go"] == "#studio/job/mine"
        assert "mine" in visitor.look("jobs")
        assert "mine" not in other.look("jobs")
        assert "no such job" in other.refused(do="look", view="job", job="mine")
        for do in ("stop", "remove", "install", "again"):
            assert "no such job" in other.refused(do=do, job="mine")
        assert "login:ann" not in (studio.jobs.folder / "mine" / "status.json").read_text("utf-8")


@pytest.mark.parametrize("source", [{"place": "/etc/passwd"}, {"hub": "owner/set"}])
def test_a_login_names_no_file_of_the_machine_and_has_nothing_fetched(
    tmp_path: Path, source: dict[str, str]
) -> None:
    for studio in opened(tmp_path, share=True, auth="ann:secret"):
        (kind,) = source
        asked = {"name": "mine", "model": MODEL, "source": kind, **source}
        frame = studio.visitor("login:ann").ask(do="start", fields=asked)
        assert "whoever runs this machine" in frame["faults"]["data"]


def test_without_the_packages_there_is_one_sentence_and_the_command(
    studio: Studio, ann: Visitor
) -> None:
    studio.fake.missing = ("trl", "peft")
    assert ann.ask(do="look", view="new")["is_closed"]
    assert "install trl, peft" in ann.parts["closed"]
    assert "pip install &#34;multimodal-chat[studio]&#34;" in ann.parts["closed"]


@pytest.mark.parametrize(
    "asked", [None, {}, {"do": "stop", "job": "../x"}, {"do": "look", "view": "secret"}]
)
def test_what_is_no_action_is_refused(ann: Visitor, asked: Any) -> None:
    packet = ann.controller.act(ann.tab, "ann", asked)
    assert "does not know" in packet["frames"][-1]["alert"]


# ---------------------------------------------------------------- exports


def test_a_result_is_exported_watched_and_stopped(studio: Studio, ann: Visitor) -> None:
    finished_job(studio.jobs, "ledger")
    shown = ann.look("job", "ledger")
    for choice in ("gguf:q8_0", "gguf:q4_0", "safetensors:bf16", "ollama:f16"):
        assert f'value="{choice}"' in shown
    ann.ask(do="export", job="ledger", kind="ollama:q8_0")
    assert studio.fake.exports.asked == [("ledger", "ollama", ("q8_0",))]
    assert "Beginning" in ann.parts["job"]
    studio.fake.exports.states["ledger"] = replace(
        studio.fake.exports.states["ledger"], doing="Comparing it with its source"
    )
    assert ann.tick() is not None
    assert "Comparing it with its source" in ann.parts["job"]
    assert "stop that first" in ann.refused(do="remove", job="ledger")
    ann.ask(do="stop_export", job="ledger")
    assert studio.fake.exports.stopped == ["ledger"]
    assert "The export was stopped" in ann.parts["job"]


def test_an_export_shows_its_certificate_and_leads_to_its_files(
    studio: Studio, ann: Visitor, tmp_path: Path
) -> None:
    finished_job(studio.jobs, "ledger")
    studio.fake.exports.states["ledger"] = write_export(tmp_path / "exports/ledger/gguf")
    shown = ann.look("job", "ledger")
    assert "All 1 checks passed" in shown
    assert "chat template" in shown
    assert str(tmp_path / "exports/ledger/gguf") in shown
    addresses = re.findall(r'href="(studio/[0-9a-f]{32}/ledger/gguf/[^"]+)"', shown)
    assert [it.rpartition("/")[2] for it in addresses] == ["ledger-q8_0.gguf", "certificate.json"]


def test_an_export_in_onnx_chats_at_one_click(studio: Studio, ann: Visitor, tmp_path: Path) -> None:
    finished_job(studio.jobs, "ledger")
    (file,) = write_export(tmp_path / "exports/ledger/gguf").done
    told = replace(file.certificate, format="onnx", latencies=(Latency("it", "token", 60, 42),))
    done = ExportFolder(tmp_path / "exports/ledger/onnx", told)
    studio.fake.exports.states["ledger"] = JobExports(done=(file, done))
    shown = ann.look("job", "ledger")
    assert "42 ms a token, its source 60 ms" in shown
    assert re.findall(r'data-do="chat_export" data-folder="([^"]+)"', shown) == ["onnx"]
    assert ann.ask(do="chat_export", job="ledger", folder="onnx")["chat"] == MODEL
    assert studio.fake.offered == [done.path]
    assert "no such export" in ann.refused(do="chat_export", job="ledger", folder="onnx-2")
    assert "does not know" in ann.refused(do="chat_export", job="ledger", folder="../onnx")


def test_only_what_is_done_and_chats_is_exported(studio: Studio, ann: Visitor) -> None:
    make_job(studio.jobs, "stopped", state="stopped")
    assert 'id="export-name"' not in ann.look("job", "stopped")
    assert "Only a job that is done" in ann.refused(do="export", job="stopped", kind="gguf:f16")
    assert "does not know" in ann.refused(do="export", job="stopped", kind="../x")
    assert studio.fake.exports.asked == []


def test_a_login_is_shown_no_folder_of_the_machine(tmp_path: Path) -> None:
    for studio in opened(tmp_path, share=True, auth="ann:secret"):
        folder = finished_job(studio.jobs, "ledger")
        owner = owner_key("login:ann")
        folder.write_status(replace(folder.status(), owner=owner))
        studio.fake.exports.states["ledger"] = write_export(tmp_path / "exports/ledger/gguf")
        shown = studio.visitor("login:ann").look("job", "ledger")
        assert "certificate.json" in shown
        assert str(tmp_path) not in shown
