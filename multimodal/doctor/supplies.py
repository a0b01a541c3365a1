"""What models are fetched with: the disk, the package index, the model hub, and the weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import FilesSource, FolderSource, HubSource, PartsSource, comes_from
from multimodal.data_folder import prepare_data_folder
from multimodal.doctor.finding import Finding, Verdict
from multimodal.errors import MultimodalError, WeightsError
from multimodal.settings import Settings
from multimodal.sizes import gigabytes
from multimodal.weights import Weights
from multimodal.weights.package_index import PackageIndex, pip_settings

ASK_S = 5.0
HUB_WAY = "connect, or set HF_ENDPOINT to a mirror"
INDEX_WAY = "connect, or set PIP_INDEX_URL to an index that answers"
WAYS: dict[type, str] = {
    HubSource: HUB_WAY,
    FilesSource: "do what is said of one of those places, then run this again",
    PartsSource: "do what is said of that part, then run this again",
    FolderSource: "put them into that folder, or correct the path in its card",
}
SPARE_BYTES = 1_000_000_000
"""For conversations, media and what is unpacked."""


def check_supplies(settings: Settings, cards: list[ModelCard]) -> Iterator[Finding]:
    """The findings for the models of the chosen profile."""
    weights = Weights(settings.weights_folder, settings.offline)
    missing = [card for card in cards if not weights.is_ready(card)]
    yield package_index(settings.offline)
    from_hub = any(comes_from(card.source, HubSource) for card in missing)
    hub_answers = hub(settings.offline, from_hub)
    yield hub_answers
    needed = 0
    for card in cards:
        if card not in missing:
            yield Finding("ok", card.title, "weights are here and verified")
            continue
        if comes_from(card.source, HubSource) and not hub_answers.is_ok:
            told = f"weights are missing: {hub_answers.found}"
            yield Finding("fail", card.title, told, hub_answers.fix)
            continue
        finding, size = _missing(weights, card, settings.offline)
        needed += size
        yield finding
    yield disk(settings, needed)


def _missing(weights: Weights, card: ModelCard, offline: bool) -> tuple[Finding, int]:
    """What is said of a card without weights, and the bytes that they will take on the disk."""
    try:
        size = weights.query_bytes(card)
    except WeightsError as error:
        way = WAYS.get(type(card.source), "connect, then run this again")
        if offline:
            way = "start once without --offline, or copy the weights folder of another machine"
        return Finding("fail", card.title, f"weights are missing: {error}", way), 0
    told = f"weights ({card.license}, {size / 1e6:,.0f} MB) are fetched on the first start"
    return Finding("ok", card.title, told), size


def disk(settings: Settings, needed_bytes: int) -> Finding:
    """Whether the data folder can be written, and whether what is missing has room."""
    try:
        prepare_data_folder(settings)
    except MultimodalError as error:
        return Finding("fail", "data folder", str(error), "choose another one with --data DIR")
    folder = settings.weights_folder
    free = shutil.disk_usage(_existing(folder)).free
    return disk_room(folder, free, needed_bytes)


def disk_room(folder: Path, free_bytes: int, needed_bytes: int) -> Finding:
    told = f"{folder}, {gigabytes(free_bytes)} free"
    if needed_bytes:
        told += f", {gigabytes(needed_bytes)} needed to fetch weights"
    way = "free some space, or choose another disk with --data DIR"
    if free_bytes < needed_bytes:
        return Finding("fail", "data folder", told, way)
    if free_bytes < needed_bytes + SPARE_BYTES:
        return Finding("warn", "data folder", told, way)
    return Finding("ok", "data folder", told)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def package_index(offline: bool) -> Finding:
    if offline:
        return Finding("info", "package index", "not asked (--offline)")
    found = pip_settings()
    if not found.index_urls:
        return Finding("ok", "package index", "pip is set to use none (no-index)")
    silent = PackageIndex(found).unreachable(ASK_S)
    if not silent:
        hosts = dict.fromkeys(httpx.URL(url).host or "a folder" for url in found.index_urls)
        return Finding("ok", "package index", f"answers: {', '.join(hosts)}")
    told = ", ".join(f"{host} does not answer ({why})" for host, why in silent.items())
    return Finding("warn", "package index", told, INDEX_WAY)


def hub(offline: bool, needed: bool, endpoint: str = constants.ENDPOINT) -> Finding:
    """`needed`: models that were chosen are to be fetched from it. No token is ever shown."""
    name = "model hub"
    if offline:
        return Finding("fail" if needed else "info", name, "not asked (--offline)", _online(needed))
    silent: Verdict = "fail" if needed else "info"
    host = httpx.URL(endpoint).host
    try:
        answer = get_session().head(endpoint, timeout=ASK_S)
        reason = f"answers with status {answer.status_code}" if answer.is_server_error else ""
    except OfflineModeIsEnabled:
        told = "HF_HUB_OFFLINE is set and forbids asking it"
        return Finding(silent, name, told, "unset HF_HUB_OFFLINE")
    except (httpx.HTTPError, HfHubHTTPError, OSError) as error:
        reason = f"does not answer ({type(error).__name__})"
    if reason:
        told = f"{host} {reason}"
        told += "" if needed else "; the models that were chosen do not need it"
        return Finding(silent, name, told, HUB_WAY)
    token = "a token is there" if get_token() else "no token: gated models need `hf auth login`"
    return Finding("ok", name, f"{host} answers; {token}")


def _online(needed: bool) -> str:
    return "start once without --offline, so that the weights are fetched" if needed else ""
