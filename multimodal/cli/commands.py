"""The command line: `multimodal chat | models | fit | doctor | calibrate | serve | quantized |
finetune | evaluate | export | install | jobs`.

Exit status: 0 success, 2 bad use, 1 failure; an error is one line. Engines and the page are
imported by the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from multimodal.cli.evaluate import evaluate
from multimodal.cli.export import export, install
from multimodal.cli.options import with_settings
from multimodal.cli.studio import finetune, list_jobs
from multimodal.cli.tables import print_table
from multimodal.settings import CommonSettings, Settings
from multimodal.sizes import gigabytes

if TYPE_CHECKING:
    from multimodal.memory.calibration.record import Probe

app = typer.Typer(
    help="Multimodal chat within 12 GB.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

quantized = typer.Typer(
    help="Models saved in 4 or 8 bits beside their weights, so that they start sooner.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(quantized, name="quantized")
app.command()(finetune)
app.command()(evaluate)
app.command()(export)
app.command()(install)
app.command("jobs")(list_jobs)

Option = typer.Option
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]

STORED = ("data", "weights", "quantized_checkpoints")


@app.command()
@with_settings(*Settings.model_fields)
def serve(settings: Settings) -> None:
    """Serve the chat page and the HTTP interface."""
    from multimodal.web.launch import serve as serve_page

    serve_page(settings)


@app.command()
@with_settings(*CommonSettings.model_fields)
def models(settings: Settings, as_json: AsJson = False) -> None:
    """List the models of the profile, and those that are there to be taught from scratch."""
    from multimodal.build import build
    from multimodal.catalog.sources import UntrainedSource
    from multimodal.memory.estimate.footprint import footprint

    program = build(settings)
    untrained = [it for it in program.catalog.cards if isinstance(it.source, UntrainedSource)]
    rows = [
        {
            "name": card.name,
            "task": card.task,
            "title": card.title,
            "license": card.license,
            "memory_bytes": footprint(card).total,
            "ready": program.weights.is_ready(card) and card not in untrained,
            "untrained": card in untrained,
        }
        for card in (*program.cards, *untrained)
    ]
    program.close()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print_table(
        ["name", "title", "task", "licence", "memory", "weights"],
        [
            [
                *(str(row[name]) for name in ("name", "title", "task", "license")),
                gigabytes(int(str(row["memory_bytes"]))),
                _weights_word(row),
            ]
            for row in rows
        ],
    )


def _weights_word(row: Mapping[str, object]) -> str:
    if row["untrained"]:
        return "to be taught"
    return "ready" if row["ready"] else "to be fetched"


@app.command()
@with_settings(*CommonSettings.model_fields)
def fit(
    settings: Settings,
    context: Annotated[
        int | None, Option(min=256, help="Tokens a text model keeps in mind (the card's).")
    ] = None,
    model: Annotated[
        list[str] | None, Option(help="A set of your own; give it once for each model.")
    ] = None,
    bus: Annotated[str, Option(help="Host to device, in bytes a second.")] = "25GB",
    as_json: AsJson = False,
) -> None:
    """Prove, without loading anything, whether the profile's models fit the budget."""
    from multimodal.fit import answer, tables
    from multimodal.settings import byte_size

    gc.disable()  # going through the objects that torch and transformers make takes seconds
    found = answer(settings, context, byte_size("bus", bus), model or ())
    if as_json:
        print(found.as_json())
    else:
        for table in tables(found):
            print(f"\n{table.title}\n")
            print_table(table.heads, [row.cells for row in table.rows])
            print(*(f"\n{line}" for line in table.foot), sep="")
    sys.stdout.flush()
    os._exit(0)  # and so does taking them apart


@app.command()
@with_settings(*CommonSettings.model_fields)
def doctor(settings: Settings, as_json: AsJson = False) -> None:
    """Check this machine, say what its card can run, and the command that mends what is wrong."""
    from multimodal.doctor import examine, report

    gc.disable()  # as above
    findings = examine(settings)
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        print(*report(findings), sep="\n")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command()
@with_settings("data")
def calibrate(settings: Settings, as_json: AsJson = False) -> None:
    """Measure what this machine's NVIDIA card really does, and plan with that from then on."""
    from multimodal.calibrate import calibrate as measure
    from multimodal.calibrate import format_probe

    def show(name: str, probe: Probe | None) -> None:
        if probe is None:
            print(f"...   {name}", end="\r", file=sys.stderr, flush=True)
        elif not as_json:
            print(format_probe(name, probe), flush=True)

    found = measure(settings, show)
    if as_json:
        print(found.model_dump_json(indent=2))
    if any(probe.error for probe in found.probes.values()):
        raise typer.Exit(1)


@app.command()
@with_settings(*CommonSettings.model_fields)
def chat(
    settings: Settings,
    question: Annotated[str, typer.Argument(help="Ask once; without it, talk.")] = "",
    image: Annotated[list[Path] | None, Option(help="A picture to send along.")] = None,
    audio: Annotated[list[Path] | None, Option(help="A recording to send along.")] = None,
    model: Annotated[str, Option(help="auto, or the name of a model.")] = "auto",
    system: Annotated[str, Option(help="Instructions for the model.")] = "",
) -> None:
    """Chat in the terminal; nothing is stored."""
    from multimodal.build import build
    from multimodal.cli.terminal import ask, converse
    from multimodal.doctor.unused_gpu import unused_gpu
    from multimodal.messages import Controls, Conversation

    if (unused := unused_gpu(settings)) is not None:
        print(f"{unused.sentence}\n\n    {unused.fix}\n", file=sys.stderr, flush=True)
    program = build(settings)
    try:
        talk = Conversation(controls=Controls(model, system))
        files = [*(image or []), *(audio or [])]
        if question or files:
            ask(program, talk, question, files)
            return
        converse(program, talk)
    finally:
        program.close()


@quantized.command("list")
@with_settings(*STORED)
def list_quantized(settings: Settings, as_json: AsJson = False) -> None:
    """List the models that are saved in 4 or 8 bits, the longest unused first."""
    from multimodal.weights.quantized import QuantizedCheckpoints

    store = QuantizedCheckpoints(settings.weights_folder, settings.quantized_checkpoints)
    found = store.all()
    if as_json:
        print(json.dumps([checkpoint.as_dict() for checkpoint in found], indent=2))
        return
    print_table(
        ["model", "quantization", "size", "start", "last read", "libraries"],
        [
            [
                checkpoint.model,
                checkpoint.record.settings.kind,
                gigabytes(checkpoint.size_bytes) if checkpoint.is_readable else "cannot be read",
                checkpoint.seconds,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(checkpoint.used_s)),
                ", ".join(f"{n} {v}" for n, v in checkpoint.record.settings.libraries.items()),
            ]
            for checkpoint in found
        ],
    )


@quantized.command("remove")
@with_settings(*STORED)
def remove_quantized(
    settings: Settings,
    model: Annotated[list[str], typer.Argument(help="Names of models, as `list` prints them.")],
) -> None:
    """Remove models that are saved in 4 or 8 bits; what was fetched stays."""
    from multimodal.weights.quantized import QuantizedCheckpoints

    store = QuantizedCheckpoints(settings.weights_folder, settings.quantized_checkpoints)
    for name in model:
        print(f"{name}: {gigabytes(store.remove(name))} removed")


def replace_unprintable(
    streams: Iterable[TextIO | None], is_windows: bool = os.name == "nt"
) -> None:
    """Let everything that a model or a file name may hold be printed to those streams.

    Windows gives files and pipes the encoding of its language, such as cp1252, which has neither
    Japanese nor an arrow: a print would end the program. UTF-8 is written there, as it is to
    Windows' consoles anyway. Elsewhere the encoding is what the person set, and a letter that it
    lacks becomes a question mark.
    """
    for stream in streams:
        if isinstance(stream, TextIOWrapper) and not _is_utf8(stream):
            encoding = "utf-8" if is_windows else stream.encoding
            stream.reconfigure(encoding=encoding, errors="replace")


def _is_utf8(stream: TextIO) -> bool:
    return stream.encoding.lower().replace("_", "-") in {"utf-8", "utf8"}


def serve_main() -> None:
    """`python app.py`: the `serve` command alone."""
    only = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    only.command()(serve)
    replace_unprintable((sys.stdout, sys.stderr))
    only()


def main() -> None:
    replace_unprintable((sys.stdout, sys.stderr))
    app()
