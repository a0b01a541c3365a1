"""Settings in, a working program out: the one place where the parts are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from multimodal.backends.adapters import find_adapter_fault
from multimodal.backends.base import Backend, load
from multimodal.backends.compute_device import runs_on_cpu
from multimodal.backends.engine_options import check_catalog
from multimodal.backends.load_context import LoadContext, use_load_context
from multimodal.backends.registry import catalog_folders, has_family
from multimodal.catalog.cards import AUTO, Catalog, ModelCard, Profile, shipped_models
from multimodal.catalog.defaults import DefaultModels
from multimodal.catalog.offer import Offer
from multimodal.chats.store import Store
from multimodal.data_folder import prepare_data_folder
from multimodal.errors import SettingsError
from multimodal.events import Progress
from multimodal.fetching import (
    Announce,
    Fetching,
    Show,
    progress_fraction,
    progress_text,
    say_nothing,
)
from multimodal.media.ingestion import MediaFolder
from multimodal.memory.devices.base import Cpu, Device, nvidia_driver_is_here
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.headroom import is_on_gpu, model_bytes, planned_reserve_bytes
from multimodal.memory.host import HostMemory, host_bytes
from multimodal.memory.manager import MemoryManager
from multimodal.memory.peaks import Peaks
from multimodal.memory.transfers import ReportProgress
from multimodal.settings import Settings
from multimodal.speeds import SpeedBook
from multimodal.studio.jobs import JobDependencies, Jobs
from multimodal.turn.assistant import Assistant
from multimodal.upgrades import UpgradeDependencies, Upgrades
from multimodal.weights import FetchProgress, Weights

EMBEDDED = "embedded"
KEEP_UNUSED_S = 3600.0
SEAL_S = 20.0
"""What a program that ends waits for the checksums of a model that it saved."""


@dataclass(frozen=True, slots=True)
class UnusedGpu:
    """A graphics card that PyTorch cannot use: `sentence` says why, and `fix` is the command that
    mends it, or a sentence where there is none."""

    sentence: str
    fix: str


@dataclass(frozen=True)
class Program:
    """Everything that a page, the HTTP interface or the command line needs."""

    settings: Settings
    catalog: Catalog
    profile: Profile
    memory: MemoryManager[Backend]
    media: MediaFolder
    store: Store
    weights: Weights
    assistant: Assistant
    fetching: Fetching
    upgrades: Upgrades
    jobs: Jobs
    unused_gpu: UnusedGpu | None = None

    @property
    def defaults(self) -> DefaultModels:
        """Which cards answer now, unless the person chooses others."""
        return self.assistant.defaults

    @property
    def offer(self) -> Offer:
        """What is offered at the moment."""
        return self.assistant.offer

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The cards of the profile, in the order it offers them, then what was fine-tuned here."""
        return self.offer.cards

    def card(self, name: str) -> ModelCard:
        """A card that is offered, in any of its quantizations; a context that the profile made
        shorter stays so.

        Whoever asks over the network chooses among these alone: another one would be fetched for
        them. Raises UnknownModelError.
        """
        return self.offer.card(name)

    def sweep(self) -> None:
        """Remove the pictures and recordings that this database added and no longer holds."""
        self.media.sweep(KEEP_UNUSED_S)

    def close(self) -> None:
        self.fetching.stop.set()
        self.jobs.close()
        self.upgrades.close()
        self.media.close()
        self.memory.close()
        self.store.close()
        self.weights.quantized.wait(SEAL_S)


@dataclass(frozen=True)
class _Models:
    """The memory manager's source: weights from `Weights`, engines from `backends`.

    `engine` is that of the device; what is loaded elsewhere, as a turn's stand-in on the CPU, is
    not saved as it was quantized.
    """

    weights: Weights
    engine: str
    reports: dict[str, ReportProgress] = field(default_factory=dict)
    """Who is told of a card that was fetched, and is loaded next."""

    def fetch(self, card: ModelCard, report: ReportProgress) -> Path:
        self.reports[card.name] = report

        def tell(progress: FetchProgress) -> None:
            report(Progress(progress_text(card, progress), progress_fraction(progress)))

        return self.weights.ensure(card, tell)

    def load(self, card: ModelCard, files: Path, engine: str) -> Backend:
        def tell(doing: str) -> None:
            self.reports[card.name](Progress(doing))

        with use_load_context(LoadContext(self.weights.quantized, tell, engine == self.engine)):
            return load(card, files, engine)


def build(settings: Settings) -> Program:
    """Put the program together; loads no model and opens no connection.

    Raises SettingsError, CardError or StoreError, each one sentence for the person who started it.
    """
    prepare_data_folder(settings)
    catalog = read_catalog(settings)
    profile, device = choose_profile_and_device(settings, catalog)
    _check_families(catalog, profile)
    weights = Weights(
        settings.weights_folder, settings.offline, quantized_bytes=settings.quantized_checkpoints
    )
    budget = model_bytes(budget_bytes(settings, profile), device)
    peaks = Peaks(settings.data / "peaks.json")
    host: HostMemory[Backend] | None = None
    if is_on_gpu(profile, settings.device_kind):
        most = host_bytes(psutil.virtual_memory().total)
        host = HostMemory(most, _Models(weights, "cpu"), peaks, runs_on_cpu)
    memory = MemoryManager(device, budget, _Models(weights, device.engine), peaks, host)
    if host is not None:
        host.share_with(memory.mirrors)
    store, media = open_storage(settings)
    return assemble(settings, catalog, profile, memory, weights, store, media)


def assemble(
    settings: Settings,
    catalog: Catalog,
    profile: Profile,
    memory: MemoryManager[Backend],
    weights: Weights,
    store: Store,
    media: MediaFolder,
) -> Program:
    """The program of these parts."""
    offer = Offer(catalog, profile, partial(find_fault, weights))
    assistant, fetching = Assistant(catalog, profile, memory, media, offer), Fetching()
    upgrades = Upgrades(
        UpgradeDependencies(
            catalog,
            profile if settings.upgrade else profile.model_copy(update={"upgrades": {}}),
            weights,
            memory,
            assistant.defaults,
            fetching,
            SpeedBook(settings.data / "speeds.json"),
            settings.data / "upgrades.json",
            settings.offline,
        )
    )
    upgrades.resume()
    jobs = Jobs(settings.jobs_folder, JobDependencies(memory, catalog.card, weights.ensure))
    return Program(
        settings,
        catalog,
        profile,
        memory,
        media,
        store,
        weights,
        assistant,
        fetching,
        upgrades,
        jobs,
    )


def find_fault(weights: Weights, card: ModelCard, needed: ModelCard | None) -> str | None:
    """Why a fine-tuned model cannot be used here; see `FindFault`."""
    if card.adapter is not None and (fault := find_adapter_fault(card.adapter)) is not None:
        return fault
    if needed is None or weights.is_ready(needed):
        return None
    where = f"in {needed.source.path} any more" if needed.source.kind == "folder" else "here"
    return f"the weights of {needed.title} are not {where}."


def budget_bytes(settings: Settings, profile: Profile) -> int:
    """What the models of the profile may take, as it was asked for or as this machine allows."""
    return int(settings.budget or profile.budget_for(psutil.virtual_memory().total))


def open_storage(settings: Settings) -> tuple[Store, MediaFolder]:
    """The conversations, and the media that belong to them. Raises StoreError."""
    store = Store(settings.database_url, settings.data)
    media = MediaFolder(settings.media_folder, owner=store)
    media.adopt()
    return store, media


def read_catalog(settings: Settings) -> Catalog:
    """The shipped cards and profiles, then those of other packages, of --models and of the data
    folder. Raises CardError."""
    extra = [settings.models] if settings.models else []
    catalog = Catalog([shipped_models(), *catalog_folders(), *extra, settings.data / "models"])
    check_catalog(catalog)
    return catalog


def choose_profile(
    catalog: Catalog, name: str, card_bytes: int, can_run: Callable[[str], bool] = has_family
) -> Profile:
    """The profile of that name. `auto` is the largest one for a GPU whose budget a card of that
    size holds and whose families `can_run`, else the embedded one; without a card, `card_bytes`
    is 0."""
    if name != AUTO:
        return catalog.profile(name)
    fitting = [
        profile
        for profile in catalog.profiles
        if profile.device == "cuda"
        and 0 < profile.budget <= card_bytes
        and not missing_families(catalog, profile, can_run)
    ]
    return max(fitting, key=lambda profile: profile.budget, default=catalog.profile(EMBEDDED))


def missing_families(
    catalog: Catalog, profile: Profile, can_run: Callable[[str], bool] = has_family
) -> list[str]:
    """The families of the profile's models that this version can plan with and not run."""
    families = {catalog.card(name).family for name in profile.names}
    return sorted(family for family in families if not can_run(family))


def _check_families(catalog: Catalog, profile: Profile) -> None:
    """Raise SettingsError for a profile whose models this version can plan with and not run."""
    if missing := missing_families(catalog, profile):
        raise SettingsError(
            f"The profile {profile.name} needs the families {', '.join(missing)}, which this "
            f"version cannot run yet. `multimodal fit --profile {profile.name}` plans with it; "
            "use --profile embedded to chat."
        )


def fetch_missing(
    program: Program, show: Show = say_nothing, announce: Announce = say_nothing
) -> None:
    """Fetch what the cards need that answer now and is not there yet; see `Fetching.fetch_all`."""
    cards = map(program.catalog.card, program.defaults.names)
    program.fetching.fetch_all(program.weights, cards, show, announce)


def choose_profile_and_device(settings: Settings, catalog: Catalog) -> tuple[Profile, Device]:
    """The profile and the device that were asked for; with `auto`, the largest profile that the
    card runs, on the card, and without a card the embedded one on the CPU. A simulated card has
    the profile that a real one of its size would have.

    Raises SettingsError where they cannot be had, CardError for an unknown profile.
    """
    kind = settings.device_kind
    here = _gpu_bytes() if kind in {"auto", "cuda"} else 0
    if kind == "sim":
        here = settings.simulated_bytes
    profile = choose_profile(catalog, settings.profile, here)
    if kind == "sim":
        # Models of a simulated card run on the CPU, so host memory holds its mirrors anyway.
        host_bytes = psutil.virtual_memory().total // 2
        context_bytes = planned_reserve_bytes(profile, kind)
        return profile, Simulated(
            settings.simulated_bytes, host_bytes=host_bytes, context_bytes=context_bytes
        )
    if kind == "auto" and profile.device == "cuda" and not here:
        raise SettingsError(
            f"The profile {profile.name} is for an NVIDIA card, and none can be used here; "
            "`multimodal doctor` says why. --device cpu runs it on the CPU, which is slow, and "
            "--profile embedded is made for that."
        )
    if kind == "cuda" or (kind == "auto" and profile.device == "cuda"):
        from multimodal.memory.devices.cuda import Cuda, load_calibration

        return profile, Cuda(calibration=load_calibration(settings.data))
    return profile, Cpu()


def _gpu_bytes() -> int:
    """PyTorch takes seconds to load, so it is only asked where there is a driver to use."""
    if not nvidia_driver_is_here():
        return 0
    from multimodal.memory.devices.cuda import total_gpu_bytes

    return total_gpu_bytes()
