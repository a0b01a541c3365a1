"""`multimodal export`: a model as files for other programs, with their certificate."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal.cli.options import with_settings
from multimodal.cli.terminal_progress import TerminalProgress
from multimodal.settings import CommonSettings, Settings

if TYPE_CHECKING:
    from multimodal.studio.export.plan import Exported

Argument, Option = typer.Argument, typer.Option


@with_settings(*CommonSettings.model_fields)
def export(
    settings: Settings,
    model: Annotated[str, Option(help="The card, or the result of a job.")],
    to: Annotated[str, Option(help="safetensors, gguf, ollama or onnx.")],
    out: Annotated[Path, Option(help="The folder to write, not there yet or empty.")],
    quantization: Annotated[
        list[str] | None,
        Option(help="f32, f16, bf16; of GGUF also q8_0, q5_1, q5_0, q4_1, q4_0; once or more."),
    ] = None,
    keep_failed: Annotated[
        bool, Option("--keep-failed", help="Keep an export that failed a check, named so.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Export a text model, a picture classifier or Whisper, and compare it with its source."""
    from multimodal.build import build
    from multimodal.studio.export.export import export_model
    from multimodal.studio.export.plan import export_settings
    from multimodal.studio.results import export_dependencies

    chosen = export_settings(
        {
            "model": model,
            "to": to,
            "out": out,
            "quantization": tuple(quantization or ()),
            "keep_failed": keep_failed,
        }
    )
    program = build(settings)
    try:
        needs = export_dependencies(program)
        found = export_model(chosen, needs, settings.jobs_folder, tell=TerminalProgress())
    finally:
        program.close()
    if as_json:
        print(json.dumps(_as_dict(found), indent=2))
    else:
        _print(found)
    if not found.certificate.is_passed:
        print(f"multimodal: {_failure(found)}", file=sys.stderr)
        raise typer.Exit(1)


@with_settings(*CommonSettings.model_fields)
def install(
    settings: Settings,
    folder: Annotated[Path, Argument(help="What multimodal export --to onnx wrote.")],
) -> None:
    """Offer a model that was exported in ONNX in the chat, here or on another machine."""
    from multimodal.build import build
    from multimodal.studio.results import install_export

    program = build(settings)
    try:
        name = install_export(program, folder).name
    finally:
        program.close()
    print(f"Chat with it: {shlex.join(['multimodal', 'chat', '--model', name])}")


def _as_dict(found: Exported) -> dict[str, object]:
    folder = None if found.folder is None else str(found.folder)
    return {"folder": folder, "certificate": asdict(found.certificate)}


def _print(found: Exported) -> None:
    from multimodal.cli.tables import print_table

    certificate = found.certificate
    rows = [
        ["passed" if it.is_passed else "FAILED", it.file, it.name, it.figure, it.limit]
        for it in certificate.checks
    ]
    print_table(["", "file", "check", "measured", "allowed"], rows)
    for notice in (*certificate.notices, *(it.sentence for it in certificate.latencies)):
        print(f"\n{notice}")
    if certificate.is_passed:
        print(f"\n{certificate.verdict} It is in {found.folder}.")
        if certificate.format == "onnx":
            command = shlex.join(["multimodal", "install", str(found.folder)])
            print(f"To chat with it, here or where you copy the folder to: {command}")


def _failure(found: Exported) -> str:
    if found.folder is None:
        return f"{found.certificate.verdict} It was removed; --keep-failed keeps it."
    return f"{found.certificate.verdict} It is kept in {found.folder}."
