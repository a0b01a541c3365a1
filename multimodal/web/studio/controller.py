"""The studio's part of the page without Gradio: actions in, frames out.

A frame holds parts of HTML that changed since this tab was told, by name, and what else came of the
action: `faults` by field, an `alert`, `fields` to fill in, an address to `go` to. A tick asks for
what changed of the part that the tab looks at; nothing is read again that did not change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from multimodal.catalog.cards import ModelCard
from multimodal.errors import MultimodalError, RequestError
from multimodal.sizes import gigabytes
from multimodal.studio.export.export import is_exportable
from multimodal.studio.export.formats import Format, formats_for
from multimodal.studio.records import ENDS
from multimodal.studio.requirements import TEACHABLE
from multimodal.studio.settings import CHATS, HUB, JobSettings
from multimodal.web.actions import nonce_of, unknown_action
from multimodal.web.studio import access, actions, form
from multimodal.web.studio.data_files import DataFiles, data_folder
from multimodal.web.studio.downloads import Downloads
from multimodal.web.studio.export_view import JobExportsView, exports_view
from multimodal.web.studio.export_view import fingerprint as export_fingerprint
from multimodal.web.studio.job_view import fingerprint, heading, job_view, memory_shares
from multimodal.web.studio.rendering import render
from multimodal.web.studio.rows import read_rows, shown_rows
from multimodal.web.studio.services import Job, Services
from multimodal.web.studio.tab import Frame, StudioTab

CLOSED = "closed"
OFFERS = frozenset({"install", "uninstall", "chat"})


class StudioController:
    """Serves every tab. `downloads` knows under which address a job is fetched as a file."""

    def __init__(self, services: Services, downloads: Downloads) -> None:
        self._services = services
        self._downloads = downloads
        settings = services.settings
        self._files = DataFiles(data_folder(settings), settings.page_cache)
        self._is_own = access.may_name_paths(settings)
        self._why_closed = access.why_closed(settings)
        self._has_logins = bool(settings.logins())

    # ------------------------------------------------------------ what a tab asks

    def act(self, tab: StudioTab, owner: str, data: Any) -> Frame:
        """Do what the browser asks; every refusal is in the frame."""
        frame: Frame = {"nonce": nonce_of(data)}
        try:
            action = actions.read_action(data)
            tab.acknowledge(action.seen)
            frame |= self._closed(tab) or self._done(tab, owner, action)
        except form.FormError as error:
            frame["faults"] = error.faults
        except MultimodalError as error:
            frame["alert"] = str(error)
        return tab.packet(frame)

    def update(self, tab: StudioTab, owner: str) -> Frame | None:
        """What changed of the part that this tab looks at; None where nothing did."""
        if tab.view not in {"jobs", "job"} or self._why_closed or self._services.missing():
            return None
        try:
            seen = self._fingerprint(tab, owner)
            if seen == tab.seen:
                return None
            parts = self._parts(tab, owner)
        except MultimodalError as error:
            return tab.packet({"alert": str(error), "go": "#studio"})
        tab.seen = seen
        changed = tab.changed(parts)
        return tab.packet({"parts": changed}) if changed else None

    def is_of(self, owner: str, job: Job) -> bool:
        """Whether this person may see that job: with logins, only whoever began it."""
        return not self._has_logins or job.status.owner == owner_key(owner)

    # ------------------------------------------------------------ actions

    def _done(self, tab: StudioTab, owner: str, action: actions.Action) -> Frame:
        match action:
            case actions.Look():
                return self._look(tab, owner, action)
            case actions.Plan() | actions.Preview() | actions.Start():
                return self._with_form(tab, owner, action)
            case actions.KeepData() | actions.ImportSettings() | actions.ImportJob():
                return self._brought(owner, action)
            case actions.ShowRows(method=method):
                return self._show_rows(tab, owner, method)
            case actions.KeepRows():
                return self._keep_rows(tab, action)
            case actions.JobAction(do=do, job=id):
                return self._on_job(tab, owner, do, self._job(owner, id))
            case actions.Export(job=id, kind=kind):
                return self._export(tab, self._job(owner, id), kind)
            case actions.ChatExport(job=id, folder=folder):
                return self._chat_export(tab, self._job(owner, id), folder)
        raise unknown_action()

    def _with_form(
        self, tab: StudioTab, owner: str, action: actions.Plan | actions.Preview | actions.Start
    ) -> Frame:
        match action:
            case actions.Plan(fields=fields):
                return self._plan(tab, fields)
            case actions.Preview(fields=fields):
                unnamed = {**fields, "name": str(fields.get("name") or "").strip() or "preview"}
                found = self._services.preview(self._read(unnamed))
                return {"parts": tab.changed({"preview": render("preview", preview=found)})}
        jobs = self._services.jobs
        job = _owned(jobs.create(self._read(action.fields)), owner)
        jobs.start(job.folder.id)
        return {"go": f"#studio/job/{job.folder.id}"}

    def _brought(
        self, owner: str, action: actions.KeepData | actions.ImportSettings | actions.ImportJob
    ) -> Frame:
        """What came as a file."""
        match action:
            case actions.ImportSettings(text=text):
                return {"fields": self._known_data(form.read_toml(text))}
            case actions.KeepData(file=file):
                reference = self._files.keep_upload(file.path, file.name)
                return {"fields": {"source": "upload", **self._named(reference)}}
        path = self._files.upload(action.file.path, action.file.name)
        job = _owned(self._services.import_job(path), owner)
        return {"go": f"#studio/job/{job.folder.id}"}

    def _look(self, tab: StudioTab, owner: str, action: actions.Look) -> Frame:
        tab.look(action.view, action.job)
        if not action.view:
            return {}
        tab.seen = self._fingerprint(tab, owner)
        return {"parts": tab.changed(self._parts(tab, owner))}

    def _plan(self, tab: StudioTab, fields: form.Fields) -> Frame:
        """What a job of this form would do; what is wrong with it is told beside its fields."""
        try:
            settings, faults = self._read(fields), {}
        except form.FormError as error:
            settings, faults = None, error.faults
        part = render("plan", **self._needs(settings))
        return {"parts": tab.changed({"plan": part}), "faults": faults}

    def _needs(self, settings: JobSettings | None) -> dict[str, Any]:
        """What the template `plan` is given."""
        shown: dict[str, Any] = {"needs": None, "unknown": ""}
        shown |= dict.fromkeys(("command", "toml", "name"), "")
        if settings is None:
            return shown
        shown |= {
            "command": settings.command(),
            "toml": settings.as_toml(),
            "name": settings.name,
        }
        budget = max(1, self._services.snapshot().budget_bytes)
        try:
            batch, size = self._services.needed(settings)
        except MultimodalError as error:
            return shown | {"unknown": str(error)}
        told = f"It takes about {gigabytes(size)} of the {gigabytes(budget)} that there are."
        if size > budget:
            told += " It would be refused: choose QLoRA, shorter samples or a smaller model."
        elif batch < settings.batch:
            told += f" So the batch is {batch}, and more of them make up the same update."
        return shown | {"needs": {"bytes": size, "budget": budget, "told": told}}

    def _on_job(self, tab: StudioTab, owner: str, do: str, job: Job) -> Frame:
        if do == "again":
            return {"fields": self._known_data(form.fields_of(job.settings)), "go": "#studio/new"}
        if do == "remove":
            self._remove(job)
            return {"go": "#studio"}
        card = self._offer(do, job) if do in OFFERS else self._run(do, job)
        tab.seen = ""
        told = {"chat": card} if do == "chat" else {}
        return {"parts": tab.changed(self._parts(tab, owner)), **told}

    def _export(self, tab: StudioTab, job: Job, kind: str) -> Frame:
        known = {card.name: card for card in self._services.models()}
        if not _formats(job, known.get(job.settings.model)):
            raise RequestError("Only a job that is done, and whose result chats, can be exported.")
        to, _, quantization = kind.partition(":")
        self._services.exports.start(job.folder.id, to, (quantization,))
        tab.seen = ""
        return {"parts": tab.changed({"job": self._open_job(job)})}

    def _chat_export(self, tab: StudioTab, job: Job, folder: str) -> Frame:
        """Offer an export of the job in the chat, and go there."""
        done = self._services.exports.of(job.folder.id).done
        found = next((one for one in done if one.path.name == folder), None)
        if found is None or not found.certificate.is_passed:
            raise RequestError("There is no such export. It may have been removed.")
        card = self._services.install_export(found.path)
        tab.seen = ""
        return {"parts": tab.changed({"job": self._open_job(job)}), "chat": card.name}

    def _run(self, do: str, job: Job) -> str:
        if do == "stop_export":
            self._services.exports.stop(job.folder.id)
            return ""
        jobs = self._services.jobs
        {"begin": jobs.start, "stop": jobs.stop, "resume": jobs.resume}[do](job.folder.id)
        return ""

    def _offer(self, do: str, job: Job) -> str:
        """Offer a result in the chat, or no longer; the name of its card."""
        if do == "uninstall":
            self._uninstall(job.folder.id)
            return ""
        if known := self._services.installed().get(job.folder.id, ""):
            return known
        report = job.folder.report()
        if do == "chat" and (report is None or not report.passed):
            raise RequestError("It did not learn, so nothing is offered unless you install it.")
        return self._services.install(job.folder).name

    def _remove(self, job: Job) -> None:
        if self._services.exports.of(job.folder.id).is_running:
            raise RequestError("An export of it is under way: stop that first, or wait for it.")
        self._uninstall(job.folder.id)
        self._services.jobs.remove(job.folder.id)
        self._files.sweep({other.settings.data for other in self._services.jobs.all()})

    def _uninstall(self, id: str) -> None:
        if (name := self._services.installed().get(id)) is not None:
            self._services.uninstall(name)

    # ------------------------------------------------------------ a person's own chats

    def _show_rows(self, tab: StudioTab, owner: str, method: str) -> Frame:
        rows = list(self._services.feedback_rows(owner, method))[: actions.MAX_ROWS]
        tab.rows = rows
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        tab.rows_stamp = f"{method}-{digest[:16]}"
        part = self._chats(owner, method, tab.rows_stamp, rows)
        return {"parts": tab.changed({"chats": part})}

    def _keep_rows(self, tab: StudioTab, action: actions.KeepRows) -> Frame:
        if action.stamp != tab.rows_stamp:
            raise RequestError("These rows are no longer as they were shown. Show them again.")
        kept = read_rows(tab.rows, action.rows)
        reference = self._files.keep_rows(f"my-chats-{action.method}.jsonl", kept)
        fields = {"source": "upload", "method": action.method, **self._named(reference)}
        return {"fields": fields, "go": "#studio/new"}

    def _chats(self, owner: str, method: str = "", stamp: str = "", rows: Any = ()) -> str:
        counts = self._services.count_feedback(owner)
        shown = shown_rows(rows)
        return render("chats", counts=counts, method=method, stamp=stamp, rows=shown)

    # ------------------------------------------------------------ the form

    def _read(self, fields: form.Fields) -> JobSettings:
        """Raises FormError."""
        faults: dict[str, str] = {}
        data = ""
        try:
            data = self._data(fields)
        except RequestError as error:
            faults["data"] = str(error)
        try:
            settings = form.read_form(fields, data or "-", self._is_own)
        except form.FormError as error:
            faults = error.faults | faults
        if not faults and (fault := self._model_fault(settings)):
            faults["model"] = fault
        if faults:
            raise form.FormError(faults)
        return settings

    def _model_fault(self, settings: JobSettings) -> str:
        """Why that model cannot be taught by that method; "" where it can."""
        known = {card.name: card for card in self._services.models()}
        if settings.model not in known:
            return "This model is not offered here, or cannot be taught."
        kind = TEACHABLE[settings.method]
        card = known[settings.model]
        return "" if kind.includes(card) else f"This method teaches a {kind.title}. Choose one."

    def _data(self, fields: form.Fields) -> str:
        """What the settings call the chosen data. Raises RequestError."""
        source = str(fields.get("source") or "upload")
        value = str(fields.get(source) or "").strip()
        if source == "upload":
            if not value:
                raise RequestError("Choose what it is to learn from.")
            return str(self._files.path(value))
        if source not in {"place", "hub"} or not self._is_own:
            raise RequestError("Choose a file: whoever runs this machine alone may name others.")
        if not value:
            raise RequestError("Choose what it is to learn from.")
        if source == "hub":
            return value if value.startswith(HUB) else f"{HUB}{value}"
        if not Path(value).expanduser().exists():
            raise RequestError(f"{value} is not there.")
        return str(Path(value).expanduser().absolute())

    def _known_data(self, fields: dict[str, Any]) -> dict[str, Any]:
        """With what is kept here as an upload; what this person may not name is left open."""
        source = fields.get("source")
        if source == "place":
            reference = self._files.reference(Path(str(fields["place"])))
            if reference is not None:
                return {**fields, "place": "", "source": "upload", **self._named(reference)}
        if source == CHATS or not self._is_own:
            return {**fields, "source": "upload", "place": "", "hub": "", "upload": ""}
        return fields

    def _named(self, reference: str) -> dict[str, str]:
        return {"upload": reference, "upload_told": self._files.describe(reference)}

    # ------------------------------------------------------------ frames

    def _closed(self, tab: StudioTab) -> Frame:
        """Where this part of the page is not there for people: why, in place of all of it."""
        if self._why_closed:
            told = {"title": "The studio is closed", "sentence": self._why_closed, "command": ""}
        elif missing := self._services.missing():
            told = {
                "title": "The studio needs a few more packages",
                "sentence": f"To teach a model, install {', '.join(missing)} with this command, "
                "then start the program again.",
                "command": access.INSTALL,
            }
        else:
            return {}
        return {"is_closed": True, "parts": tab.changed({CLOSED: render(CLOSED, **told)})}

    def _parts(self, tab: StudioTab, owner: str) -> dict[str, str]:
        """The parts of what the tab looks at."""
        match tab.view:
            case "jobs":
                return {"jobs": render("jobs", jobs=self._headings(owner))}
            case "job":
                return {"job": self._open_job(self._job(owner, tab.job))}
            case "new":
                return {"form": self._form(), "plan": render("plan", **self._needs(None))}
            case "chats":
                return {"chats": self._chats(owner)}
        return {}

    def _headings(self, owner: str) -> list[Any]:
        titles = self._titles()
        return [
            heading(job, titles.get(job.settings.model, job.settings.model))
            for job in sorted(self._jobs(owner), key=lambda job: -job.status.created_s)
        ]

    def _open_job(self, job: Job) -> str:
        known = {card.name: card for card in self._services.models()}
        titles = {name: card.title for name, card in known.items()}
        view = job_view(
            job,
            titles.get(job.settings.model, job.settings.model),
            self._downloads.address(job.folder.id),
            self._services.installed().get(job.folder.id, ""),
        )
        held = memory_shares(self._services.snapshot(), titles)
        formats = _formats(job, known.get(job.settings.model))
        exports = self._exports_view(job) if formats else None
        return render("job", view=view, memory=held, exports=exports, formats=formats)

    def _exports_view(self, job: Job) -> JobExportsView:
        id = job.folder.id
        found = self._services.exports.of(id)
        return exports_view(
            found, lambda file: self._downloads.file_address(id, file), self._is_own
        )

    def _form(self) -> str:
        return render(
            "form",
            models=[(card.name, card.title) for card in self._services.models()],
            methods=form.METHODS,
            shapes=form.SHAPES,
            important=form.IMPORTANT,
            others=form.OTHERS,
            is_own=self._is_own,
        )

    def _titles(self) -> dict[str, str]:
        return {card.name: card.title for card in self._services.models()}

    def _jobs(self, owner: str) -> list[Job]:
        return [job for job in self._services.jobs.all() if self.is_of(owner, job)]

    def _job(self, owner: str, id: str) -> Job:
        """Raises RequestError for one that is not there, or somebody else's."""
        job = next((job for job in self._jobs(owner) if job.folder.id == id), None)
        if job is None:
            raise RequestError("There is no such job. It may have been removed.")
        return job

    def _fingerprint(self, tab: StudioTab, owner: str) -> str:
        if tab.view == "jobs":
            return "|".join(f"{job.folder.id}:{fingerprint(job)}" for job in self._jobs(owner))
        if tab.view != "job":
            return ""
        job = self._job(owner, tab.job)
        held = self._services.snapshot() if job.status.state not in ENDS else None
        shown = (held.reserved, held.held, held.decided, held.workspace_bytes) if held else ()
        # Asked for many times a minute, so what can be exported is left to what is shown.
        found = self._services.exports.of(job.folder.id) if job.status.state == "done" else None
        exports = export_fingerprint(found) if found else ""
        installed = self._services.installed().get(job.folder.id)
        return f"{fingerprint(job)}|{shown}|{installed}|{exports}"


def _formats(job: Job, base: ModelCard | None) -> Mapping[str, Format]:
    """Those that its result can be exported to, by name. `base`: what it began with, None where
    that is not offered any more."""
    settings = job.settings
    if job.status.state != "done" or settings.method == "reward":
        return {}
    if base is not None and not is_exportable(base):
        return {}
    return formats_for(TEACHABLE[settings.method].task)


def _owned(job: Job, owner: str) -> Job:
    """The job, as that person's."""
    job.folder.write_status(replace(job.folder.status(), owner=owner_key(owner)))
    return job


def owner_key(owner: str) -> str:
    """Tells people's jobs apart and says not who they are: who knows an owner sees their chats, and
    a job's file may go to others."""
    return hashlib.sha256(f"studio:{owner}".encode()).hexdigest()[:32]
