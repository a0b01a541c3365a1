"""One ladder of model sets, from the smallest machine to the largest card: on which level the
program stands, why, and what the next one would need."""

from __future__ import annotations

from dataclasses import dataclass, replace

from multimodal.build import EMBEDDED, Program
from multimodal.catalog.cards import AUTO, Catalog, Profile
from multimodal.messages import Task
from multimodal.sizes import gigabytes
from multimodal.upgrades import Upgrade, offer


@dataclass(frozen=True, slots=True)
class ModelTier:
    """`level` counts from 1; it is None for a profile that the ladder does not have. `notes`: what
    became of upgrades beside the ladder, such as a model that sees."""

    level: int | None
    levels: int
    title: str
    why: str
    next: str
    notes: tuple[str, ...] = ()


def current_tier(program: Program) -> ModelTier:
    """Where the program stands now."""
    upgrades = program.upgrades.all
    text = [upgrade for upgrade in reversed(upgrades) if upgrade.task is Task.TEXT]
    begins = program.catalog.profile(EMBEDDED)
    known = begins.upgrades.get(Task.TEXT, ())
    cards = gpu_profiles(program.catalog)
    levels = 1 + len(known) + len(cards)
    notes = tuple(_note(program, one) for one in upgrades if one.task is not Task.TEXT)
    if program.profile.name == EMBEDDED or text:
        found = _on_small(program, text, levels, notes)
        return found if program.profile.name == EMBEDDED else replace(found, level=None)
    names = [profile.name for profile in cards]
    if program.profile.name not in names:
        why = "It was chosen when the program was started."
        return ModelTier(None, levels, program.profile.title, why, "", notes)
    place = names.index(program.profile.name)
    asked = program.settings.profile != AUTO
    why = (
        "It was chosen when the program was started."
        if asked
        else f"It is the largest set that {program.memory.device.name} holds."
    )
    following = _needs(program.catalog, place + 1)
    return ModelTier(2 + len(known) + place, levels, program.profile.title, why, following, notes)


def gpu_profiles(catalog: Catalog) -> list[Profile]:
    """Those for a graphics card, by rising budget."""
    found = [profile for profile in catalog.profiles if profile.device == "cuda"]
    return sorted(found, key=lambda profile: profile.budget)


def _on_small(
    program: Program, text: list[Upgrade], levels: int, notes: tuple[str, ...]
) -> ModelTier:
    """On one of the levels of the embedded profile, which differ in their text model."""
    now = program.defaults.name(Task.TEXT) or ""
    title = program.catalog.title(now)
    place = next((i for i, upgrade in enumerate(text) if upgrade.card == now), -1)
    why = text[place].why if place >= 0 else "It answers at once on any machine."
    above = text[place + 1 :]
    coming = [upgrade for upgrade in above if upgrade.state in {"fetching", "measuring"}]
    if above:
        following = " ".join(_note(program, upgrade) for upgrade in coming or above)
    elif not text and program.profile.upgrades:
        following = "Better models are left out, as was chosen when the program was started."
    else:
        following = _needs(program.catalog, 0)
    return ModelTier(2 + place, levels, title, why, following, notes)


def _note(program: Program, upgrade: Upgrade) -> str:
    """What became of one upgrade, in a sentence."""
    card = program.catalog.card(upgrade.card)
    told = offer(card, program.weights)
    match upgrade.state:
        case "waiting":
            return f"{told} is tried next."
        case "fetching":
            return f"{told} is fetched now and takes over when it is here."
        case "measuring":
            return f"{card.title} is here; how fast it is on this machine is measured."
        case "in use":
            return f"{card.title} answers. {upgrade.why}"
        case "declined":
            return f"{told} is left out, as you chose."
        case "passed over":
            return f"{card.title} is passed over. {upgrade.why}"


def _needs(catalog: Catalog, place: int) -> str:
    """What the profile for a card at that place of the ladder needs; "" above the last."""
    cards = gpu_profiles(catalog)
    if place >= len(cards):
        return ""
    profile = cards[place]
    return f"“{profile.title}” needs an NVIDIA card with {gigabytes(profile.budget)}."
