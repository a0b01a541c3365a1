"""`multimodal finetune`, in the foreground, and `multimodal jobs`."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multimodal.cli.job_options import given_settings, with_job_settings
from multimodal.cli.options import with_settings
from multimodal.cli.tables import print_table
from multimodal.errors import MultimodalError, SettingsError
from multimodal.settings import CommonSettings, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from multimodal.build import Program
    from multimodal.studio.job import Job
    from multimodal.studio.jobs import Jobs
    from multimodal.studio.records import Status

Option = typer.Option
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]

LOOK_EVERY_S = 0.5
FOLDER = "data_folder"
"""The option for the data folder: --data is what is learned from."""
_SETTINGS = [name for name in CommonSettings.model_fields if name != "data"]


@with_settings(*_SETTINGS, **{FOLDER: "data"})
@with_job_settings
def finetune(
    settings: Settings,
    chosen: Mapping[str, Any],
    settings_file: Annotated[
        Path | None, Option("--settings", help="A job's settings as TOML; options win.")
    ] = None,
    resume: Annotated[bool, Option(help="Go on with the job of that --name.")] = False,
    export_bundle: Annotated[
        Path | None, Option(help="Write the finished job into that file.")
    ] = None,
    import_bundle: Annotated[
        Path | None, Option(help="Take in the file of a job that ran elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teach a text model, a picture classifier or a speech recognizer on data of one's own, and
    judge whether it learned."""
    from multimodal.build import build

    if import_bundle is not None and (chosen or settings_file or resume or export_bundle):
        raise SettingsError("--import-bundle takes in a finished job; leave out what it is to do.")
    given = given_settings(settings_file, chosen)
    program = build(settings)
    try:
        job = _job(program, given, resume, import_bundle, is_exported=export_bundle is not None)
        ended = job.status if job.status.state == "done" else _run(program.jobs, job)
        if ended.state == "done" and export_bundle is not None:
            from multimodal.studio.bundle import export_bundle as write_bundle

            write_bundle(job, export_bundle)
        installed = _install(program, job) if ended.state == "done" else ""
    finally:
        program.close()
    _print_end(job, ended, installed, as_json)


@with_settings("data")
def list_jobs(settings: Settings, as_json: AsJson = False) -> None:
    """List the jobs of the studio."""
    from multimodal.studio.jobs import find_jobs

    jobs = sorted(find_jobs(settings.jobs_folder), key=lambda job: job.id)
    if as_json:
        print(json.dumps([_as_dict(job, job.status) for job in jobs], indent=2))
        return
    print_table(["job", "state", "step", "what"], [_row(job) for job in jobs])


# ------------------------------------------------------------ which job


def _job(
    program: Program,
    given: Mapping[str, Any],
    is_resumed: bool,
    bundle: Path | None,
    is_exported: bool,
) -> Job:
    """The job of the command, started unless it is done. Raises the errors of `Jobs`."""
    jobs = program.jobs
    if bundle is not None:
        from multimodal.studio.bundle import import_bundle

        return import_bundle(bundle, jobs)
    if is_resumed or (is_exported and set(given) == {"name"}):
        job = jobs.get(_name(given))
        if is_resumed:
            jobs.resume(job.id)
        elif job.status.state != "done":
            raise SettingsError(f"The job {job.id} is not done; --resume goes on with it.")
        return job
    from multimodal.studio.settings import job_settings

    job = jobs.create(job_settings(given))
    jobs.start(job.id)
    return job


def _name(given: Mapping[str, Any]) -> str:
    if set(given) != {"name"}:
        raise SettingsError("--resume goes on with what the job was to do: give --name alone.")
    return str(given["name"])


def _install(program: Program, job: Job) -> str:
    """The name under which the result is offered in the chat; "" where it is not, and why is
    told."""
    from multimodal.studio.results import install

    if not _is_offered(job) or job.settings.method == "reward":
        return ""
    try:
        return install(program, job.folder).name
    except MultimodalError as error:
        print(f"multimodal: {error}", file=sys.stderr)
        return ""


def _is_offered(job: Job) -> bool:
    report = job.folder.report()
    return report is not None and (report.passed or job.settings.install_failed)


# ------------------------------------------------------------ while it runs


def _run(jobs: Jobs, job: Job) -> Status:
    """Its status at its end. Ctrl-C has it save a checkpoint; a second one ends it at once."""
    presses: list[int] = []
    heard = 0
    with _counted_ctrl_c(presses), _shown(job) as show:
        while job.is_busy:
            jobs.wait(job.id, LOOK_EVERY_S)
            show()
            if len(presses) > heard and job.is_busy:
                jobs.stop(job.id, now=heard > 0)
                heard = len(presses)
    return job.status


@contextmanager
def _counted_ctrl_c(presses: list[int]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda number, _frame: presses.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(job: Job) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, lines of what is new elsewhere."""
    from rich.console import Console

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        yield _Lines(job, console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(job.id, total=None)

        def show() -> None:
            status = job.folder.status()
            progress.update(
                task,
                description=_describe(job, status),
                completed=status.step,
                total=status.steps or None,
            )

        yield show


class _Lines:
    def __init__(self, job: Job, console: Console) -> None:
        self._job, self._console, self._told = job, console, ""

    def __call__(self) -> None:
        status = self._job.folder.status()
        line = f"{status.doing}, step {status.step} of {status.steps}"
        if status.doing and (told := status.doing if not status.steps else line) != self._told:
            self._told = told
            self._console.print(told, soft_wrap=True)


def _describe(job: Job, status: Status) -> str:
    """“tickets: training, loss 2.31, eval_loss 2.40, 12 min left”."""
    values: dict[str, float] = {}
    for metric in job.folder.metrics():
        values |= metric.values
    told = [f"{name} {values[name]:.3g}" for name in ("loss", "eval_loss") if name in values]
    if values.get("eta_s", 0) >= 60:
        told.append(f"{values['eta_s'] / 60:.0f} min left")
    return f"{job.id}: {', '.join([status.doing or 'at work', *told])}"


# ------------------------------------------------------------ what became of it


def _print_end(job: Job, ended: Status, installed: str, as_json: bool) -> None:
    """Raises typer.Exit where it is not done, or did not learn and is not to be offered anyway."""
    from multimodal.studio.evaluation.confusions import confusion_sentence

    report = job.folder.report()
    if as_json:
        print(json.dumps(_as_dict(job, ended), indent=2))
    elif ended.state == "done" and report is not None:
        confused = confusion_sentence(report.confusions)
        print(report.verdict, *filter(None, [confused]), *report.warnings, sep="\n")
        if installed:
            print(f"Chat with it: {shlex.join(['multimodal', 'chat', '--model', installed])}")
    if ended.state != "done":
        print(f"multimodal: {_reason(job, ended)}", file=sys.stderr)
        raise typer.Exit(1)
    if not _is_offered(job):
        raise typer.Exit(1)


def _reason(job: Job, ended: Status) -> str:
    told = ended.error or f"{job.id} was {ended.state} at step {ended.step}."
    why = job.why_not_resumable()
    command = shlex.join(["multimodal", "finetune", "--name", job.id, "--resume"])
    return f"{told} {f'It goes on with: {command}' if why is None else why}"


def _as_dict(job: Job, status: Status) -> dict[str, Any]:
    report = job.folder.report()
    return {
        "job": job.id,
        "folder": str(job.folder.path),
        "status": asdict(status),
        "report": None if report is None else asdict(report),
    }


def _row(job: Job) -> list[str]:
    status, report = job.status, job.folder.report()
    steps = f"{status.step} of {status.steps}" if status.steps else ""
    told = status.error or (report.verdict if report is not None else status.doing)
    return [job.id, status.state, steps, told]
