"""What this machine has, what is missing, and the way out; changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from multimodal.build import choose_profile, read_catalog
from multimodal.cards import ModelCard
from multimodal.errors import MultimodalError, WeightsError
from multimodal.memory.plan import plan, request_for
from multimodal.settings import Settings, prepare_data_folder
from multimodal.sizes import gigabytes
from multimodal.weights import Weights

PACKAGES = ("torch", "gradio", "transformers", "xllamacpp", "faster-whisper", "openai-whisper")
NEEDED_DISK_GB = 1.0

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    verdict: Verdict
    name: str
    found: str


def examine(settings: Settings) -> list[Check]:
    """All checks, in the order a person would mend things."""
    return [
        Check("ok", "Python", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        _gpu(),
        *_models(settings),
        _memory(),
        _disk(settings),
        _ffmpeg(),
    ]


def _packages() -> Iterator[Check]:
    for package in PACKAGES:
        if found := _version(package):
            yield Check("ok", package, found)
        else:
            yield Check("fail", package, f"missing; run: pip install {package}")


def _version(package: str) -> str:
    """The installed version; empty where the package is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gpu() -> Check:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return Check("ok", "GPU", "no NVIDIA driver found; models run on the CPU")
    query = [smi, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("warn", "GPU", f"nvidia-smi failed ({error}); see that the driver works")
    found = " / ".join((told.stdout.strip() or told.stderr.strip()).splitlines())
    if told.returncode:
        return Check("warn", "GPU", f"nvidia-smi failed ({found}); see that the driver works")
    if "+cpu" in _version("torch"):
        way = (
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"
        )
        return Check("warn", "GPU", f"{found}, but torch is built for the CPU only; run: {way}")
    return Check("ok", "GPU", found)


def _models(settings: Settings) -> Iterator[Check]:
    try:
        catalog = read_catalog(settings)
        profile = choose_profile(catalog, settings.profile, card_bytes=0)
    except MultimodalError as error:
        yield Check("fail", "profile", str(error))
        return
    cards = [catalog.card(name) for name in profile.names]
    budget = int(settings.budget or profile.budget)
    found = plan(request_for(profile, cards, budget)).certificate
    verdict: Verdict = "fail" if found.verdict == "impossible" else "ok"
    told = f"{profile.name}, {gigabytes(budget)}: {found.sentence}"
    yield Check(verdict, "profile", told)
    weights = Weights(settings.weights_folder, settings.offline)
    yield from (_weights(weights, card) for card in cards)


def _weights(weights: Weights, card: ModelCard) -> Check:
    if weights.ready(card):
        return Check("ok", card.title, "weights are here and verified")
    try:
        size = weights.offered_bytes(card) / 1e6
    except WeightsError as error:
        return Check("fail", card.title, f"weights are missing: {error}")
    found = f"weights ({card.license}, {size:.0f} MB) are fetched on the first start"
    return Check("warn", card.title, found)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found = (
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free, {os.cpu_count()} cores"
    )
    return Check("ok" if memory.available > 2e9 else "warn", "memory", found)


def _disk(settings: Settings) -> Check:
    try:
        prepare_data_folder(settings)
    except MultimodalError as error:
        return Check("fail", "data folder", str(error))
    free = shutil.disk_usage(settings.data).free / 1e9
    verdict: Verdict = "ok" if free > NEEDED_DISK_GB else "warn"
    return Check(verdict, "data folder", f"{settings.data}, {free:.1f} GB free")


def _ffmpeg() -> Check:
    found = shutil.which("ffmpeg")
    if found:
        return Check("ok", "ffmpeg", str(Path(found)))
    return Check(
        "ok", "ffmpeg", "not found; only needed to hear files with openai-whisper's own tools"
    )
