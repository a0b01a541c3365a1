"""What the studio makes of scikit-learn's digits: two classifiers and a model that draws.

    python -m benchmarks.digits [--each 20] [--epochs 60] [--out FILE]

As a person would: 1,797 digits in a folder for each, a ResNet and a ViT from scratch, a small
diffusion model from scratch. Then a chat is asked to draw every digit `each` times, and the ResNet,
in another chat, what each drawing is. Told are the accuracies of what was held out, seconds of each
job, and how many drawings were recognised as what was asked for.
"""

from __future__ import annotations

import argparse
import platform
import runpy
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import tell
from multimodal.build import Program, build
from multimodal.chats.service import Chats
from multimodal.messages import Controls, ImagePart, Message, Sampling
from multimodal.settings import read_settings
from multimodal.studio.results import install
from multimodal.studio.settings import job_settings

ROOT = Path(__file__).parent.parent
OWNER = "benchmark"
JOBS: dict[str, dict[str, Any]] = {
    "resnet": {
        "model": "resnet-untrained",
        "method": "classify",
        "batch": 32,
        "augmentation": "crops",
        "epochs": 10,
    },
    "vit": {
        "model": "vit-untrained",
        "method": "classify",
        "batch": 32,
        "augmentation": "crops",
        "epochs": 25,
    },
    "drawn": {
        "model": "unet-untrained",
        "method": "diffusion",
        "batch": 64,
        "augmentation": "none",
        "resolution": 16,
        "evaluate_every": 250,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=20, help="drawings of every digit")
    parser.add_argument("--epochs", type=float, default=60, help="of the model that draws")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    made = runpy.run_path(str(ROOT / "examples" / "studio" / "digits.py"))
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits"
        made["save_digits"](digits)
        with closing(build(read_settings(data=Path(folder) / "data"))) as program:
            found: dict[str, Any] = {"machine": platform.machine(), "torch": torch.__version__}
            for name, more in JOBS.items():
                epochs = {"epochs": asked.epochs} if name == "drawn" else {}
                found[name] = teach(program, name, digits, {**more, **epochs})
                print(name, found[name], flush=True)
            found["recognised"] = recognise(program, made["NAMES"], asked.each)
    tell(found, asked.out)


def teach(program: Program, name: str, data: Path, more: dict[str, Any]) -> dict[str, float]:
    """The figure after the training, of its held-out pictures, and the seconds."""
    settings = job_settings({"name": name, "data": str(data), "accumulation": 1, **more})
    job = program.jobs.create(settings)
    program.jobs.start(job.id)
    program.jobs.wait(job.id)
    report, status = job.folder.report(), job.status
    if report is None or report.after is None:
        raise SystemExit(f"{name}: {status.error or 'it was not measured'}")
    install(program, job.folder)
    seconds = (status.ended_s or 0) - (status.started_s or 0)
    return {"after": report.after.value, "held_out": report.samples, "seconds": round(seconds)}


def recognise(program: Program, names: tuple[str, ...], each: int) -> dict[str, Any]:
    """How many drawings of each digit the classifier takes for it."""
    right = {}
    for name in names:
        drawings = (draw(program, name, seed) for seed in range(each))
        right[name] = sum(name in likeliest(program, drawing) for drawing in drawings)
    return {"of_each": each, **right, "share": sum(right.values()) / (each * len(names))}


def draw(program: Program, name: str, seed: int) -> Path:
    controls = Controls(model="drawn", sampling=Sampling(seed=seed))
    reply = answer(program, f"Draw a {name}.", controls)
    return next(program.media.path(it) for it in reply.parts if isinstance(it, ImagePart))


def likeliest(program: Program, picture: Path) -> str:
    """The class that is named first, "" where it is not sure."""
    reply = answer(program, "What is this?", Controls(model="resnet"), picture)
    first = reply.text.partition("(")[0].lower()
    return "" if first.startswith("i am not sure") else first


def answer(
    program: Program, question: str, controls: Controls, picture: Path | None = None
) -> Message:
    chats = Chats(program.store, program.media, program.assistant)
    conversation = program.store.create(OWNER)
    files = [(picture, picture.name)] if picture else []
    chats.open(OWNER, conversation).say(question, files)
    *_, last = chats.open(OWNER, conversation).answer(threading.Event(), controls)
    return last.reply


if __name__ == "__main__":
    main()
