"""Better models come behind the first ones, and take over between turns where this machine bears
them. Weights are folders that appear when they are fetched; speeds are what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from fakes import LADDER_MODELS, FakeSource, Shelf, write_ladder
from fakes import card as fake_card
from own_models import write_profile

from multimodal.backends.base import Backend
from multimodal.catalog.cards import Catalog, ModelCard, Profile
from multimodal.errors import BackendError, CardError, WeightsError
from multimodal.events import RouteChosen
from multimodal.fetching import Fetching
from multimodal.media.ingestion import MediaFolder
from multimodal.memory.devices.simulated import Simulated
from multimodal.memory.manager import MemoryManager
from multimodal.memory.transfers import ModelSource
from multimodal.messages import Conversation, Message, Outcome, Route, Task, TextPart
from multimodal.speeds import Speed, SpeedBook, measure
from multimodal.turn.assistant import Assistant
from multimodal.upgrades import UpgradeDependencies, Upgrades

QUICK, SLOW = Speed(4.0, 30.0), Speed(40.0, 5.0)


@dataclass
class World:
    folder: Path
    catalog: Catalog
    speeds: dict[str, Speed | Exception]
    offline: bool = False
    shelf: Shelf = field(default_factory=lambda: Shelf(["small"]))
    measured: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.profile = self.catalog.profile("mine")
        engines = cast("ModelSource[Backend]", FakeSource())
        self.memory = MemoryManager(Simulated(10**9), int(self.profile.budget), engines)
        self.begin()

    def begin(self) -> None:
        """As a start of the program does: the same files, new objects."""
        self.assistant = Assistant(
            self.catalog, self.profile, self.memory, MediaFolder(self.folder / "media")
        )
        parts = UpgradeDependencies(
            self.catalog,
            self.profile,
            self.shelf,
            self.memory,
            self.assistant.defaults,
            Fetching(),
            SpeedBook(self.folder / "speeds.json"),
            self.folder / "upgrades.json",
            self.offline,
            self._measure,
        )
        self.upgrades = Upgrades(parts)
        self.upgrades.resume()

    def _measure(
        self, memory: MemoryManager[Backend], card: ModelCard, stop: threading.Event
    ) -> Speed:
        self.measured.append(card.name)
        found = self.speeds[card.name]
        if isinstance(found, Exception):
            raise found
        return found

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """A download that takes its time; it has to be stopped within the block."""
        self.shelf.waits = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(self.upgrades.run)
            assert self.shelf.waits.wait(30)
            yield
            work.result(30)
        self.shelf.waits = None

    @property
    def now(self) -> str | None:
        return self.assistant.defaults.name(Task.TEXT)

    def told(self, name: str) -> tuple[str, str]:
        found = next(u for u in self.upgrades.all if u.card == name)
        return found.state, found.why


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The first model is quick, and so are the better ones unless a test says otherwise."""
    write_ladder(tmp_path / "models")
    speeds = {"small": Speed(1.0, 100.0), "middle": QUICK, "large": QUICK}
    return World(tmp_path, Catalog([tmp_path / "models"]), speeds)


# ---------------------------------------------------------------- taking over


def test_the_best_model_is_fetched_measured_and_takes_over(world: World) -> None:
    lines: list[str] = []
    assert world.now == "small"
    world.upgrades.run(announce=lines.append)
    assert world.now == "large"
    assert world.shelf.fetched == ["large"]
    assert world.told("large")[0] == "in use"
    assert "30 tokens a second" in world.told("large")[1]
    assert len(lines) == 1
    assert "MIT" in lines[0]
    assert "--no-upgrade" in lines[0]


def test_one_that_is_too_slow_here_is_passed_over_for_the_next(world: World) -> None:
    world.speeds["large"] = SLOW
    world.upgrades.run()
    assert world.now == "middle"
    state, why = world.told("large")
    assert state == "passed over"
    assert "5 tokens a second" in why
    assert world.measured.count("large") == 2, "a slow one is tried a second time"


def test_a_slow_first_try_is_forgiven_where_the_second_is_quick(world: World) -> None:
    tries = iter([SLOW, QUICK])

    class Busy(dict[str, Speed | Exception]):
        def __getitem__(self, name: str) -> Speed | Exception:
            return next(tries) if name == "large" else super().__getitem__(name)

    world.speeds = Busy(world.speeds)
    world.upgrades.run()
    assert world.now == "large"


def test_nothing_is_fetched_in_vain_on_a_slow_machine(world: World) -> None:
    world.speeds["small"] = Speed(2.0, 20.0)  # 20 x 100 / 1100 x 3 = 5, 20 x 100 / 500 x 3 = 12
    world.upgrades.run()
    assert world.shelf.fetched == ["middle"]
    assert "at most" in world.told("large")[1]


def test_one_that_the_budget_does_not_hold_is_passed_over(world: World) -> None:
    world.memory.budget_bytes = 600
    world.upgrades.run()
    assert world.shelf.fetched == ["middle"]
    assert "budget" in world.told("large")[1]


@pytest.mark.parametrize("error", [WeightsError("the hub is away"), BackendError("it is broken")])
def test_one_that_cannot_be_had_or_loaded_is_passed_over(world: World, error: Exception) -> None:
    if isinstance(error, WeightsError):
        world.shelf.absent["large"] = str(error)
    else:
        world.speeds["large"] = error
    said: list[str] = []
    world.upgrades.run(announce=said.append)
    assert world.now == "middle"
    state, why = world.told("large")
    assert state == "passed over"
    assert str(error) in {why, *said}


def test_without_a_connection_the_first_model_stays(world: World) -> None:
    world.offline = True
    world.begin()
    world.upgrades.run()
    assert world.now == "small"
    assert world.shelf.fetched == []
    assert "offline" in world.told("large")[1]


# ---------------------------------------------------------------- later starts


def test_the_next_start_begins_with_what_took_over(world: World) -> None:
    world.upgrades.run()
    world.measured.clear()
    world.begin()
    assert world.now == "large", "before anything runs"
    world.upgrades.run()
    assert world.measured == []
    assert world.shelf.fetched == ["large"]


def test_the_next_start_uses_the_lesser_one_until_the_better_is_here(
    world: World,
) -> None:
    world.shelf.absent["large"] = "away"
    world.upgrades.run()
    world.shelf.absent.clear()
    world.begin()
    assert world.now == "middle"
    world.upgrades.run()
    assert world.now == "large"


def test_one_that_was_too_slow_is_tried_again_at_the_next_start(
    world: World,
) -> None:
    world.speeds["large"] = SLOW
    world.upgrades.run()
    assert world.now == "middle"
    world.speeds["large"] = QUICK  # the machine was busy with something else
    world.begin()
    assert world.now == "middle"
    world.upgrades.run()
    assert world.now == "large"
    assert world.shelf.fetched == ["large", "middle"]


def test_one_that_was_too_slow_and_is_gone_is_not_fetched_again(
    world: World,
) -> None:
    world.speeds["large"] = SLOW
    world.upgrades.run()
    world.shelf.there.discard("large")
    world.begin()
    world.upgrades.run()
    assert world.shelf.fetched == ["large", "middle"]
    assert world.told("large")[0] == "passed over"


def test_a_damaged_book_of_speeds_is_begun_anew(world: World) -> None:
    world.upgrades.run()
    (world.folder / "speeds.json").write_text("[1, 2", "utf-8")
    (world.folder / "upgrades.json").write_text("nonsense", "utf-8")
    world.begin()
    assert world.now == "small"
    world.upgrades.run()
    assert world.now == "large"


# ---------------------------------------------------------------- declining


def test_declining_stops_the_download_and_is_remembered(world: World) -> None:
    with world.fetching():
        assert world.told("large")[0] == "fetching"
        world.upgrades.decline(Task.TEXT)
    world.begin()
    world.upgrades.run()
    assert world.now == "small"
    assert world.shelf.fetched == []
    assert world.told("large")[0] == "declined"


def test_declining_goes_back_and_accepting_takes_it_again(world: World) -> None:
    world.upgrades.run()
    world.upgrades.decline(Task.TEXT)
    assert world.now == "small"
    world.upgrades.accept(Task.TEXT)
    assert world.now == "large", "it is here and was measured"
    world.upgrades.close()
    assert world.shelf.fetched == ["large"]


def test_closing_ends_what_is_under_way(world: World) -> None:
    with world.fetching():
        world.upgrades.close()
    assert world.now == "small"


# ---------------------------------------------------------------- what a turn makes of it


def asked(*before: Message) -> Conversation:
    return Conversation((*before, Message("user", (TextPart("Hello"),))))


def reason(world: World, conversation: Conversation) -> tuple[str, Route]:
    events = list(world.assistant.reply(conversation, threading.Event()))
    route = next(event.route for event in events if isinstance(event, RouteChosen))
    return route.steps[-1].card, route


def test_a_take_over_is_told_once_in_a_chat_that_began_before(world: World) -> None:
    card, route = reason(world, first := asked())
    assert card == "small"
    answer = Message("assistant", (TextPart("Hi"),), outcome=Outcome((route,)))
    world.upgrades.run()
    card, told = reason(world, second := asked(*first.messages, answer))
    assert card == "large"
    assert "took over from Small" in told.reason
    after = Message("assistant", (TextPart("Hi"),), outcome=Outcome((told,)))
    assert "took over" not in reason(world, asked(*second.messages, after))[1].reason
    assert "took over" not in reason(world, asked())[1].reason


def test_the_languages_are_those_of_the_model_that_answers_now(world: World) -> None:
    assert world.assistant.languages() == ("en",)
    world.upgrades.run()
    assert world.assistant.languages() == ("ja",)


# ---------------------------------------------------------------- the profile


def test_an_upgrade_must_be_one_of_the_profiles_models(world: World, tmp_path: Path) -> None:
    better = {"text-generation": ["small"]}
    write_profile(tmp_path / "models", "mine", LADDER_MODELS, upgrades=better)
    with pytest.raises(CardError, match="upgrade small"):
        Catalog([tmp_path / "models"])


@pytest.mark.parametrize(
    ("memory_gb", "budget_gb"), [(4, 2.5), (10, 2.5), (16, 4.0), (24, 6.0), (32, 8.0), (64, 8.0)]
)
def test_the_embedded_budget_is_a_quarter_of_the_memory_within_bounds(
    catalog: Catalog, memory_gb: int, budget_gb: float
) -> None:
    profile = catalog.profile("embedded")
    assert profile.budget_for(memory_gb * 10**9) == budget_gb * 10**9


def test_a_budget_without_a_share_is_what_it_is(catalog: Catalog) -> None:
    profile = Profile(name="fixed", title="Fixed", device="cuda", budget="12GB", models={})
    assert profile.budget_for(10**12) == 12 * 10**9


# ---------------------------------------------------------------- measuring


def test_the_speed_of_the_real_small_model_is_measured(
    catalog: Catalog, weights_of: Callable[[str], Path]
) -> None:
    from multimodal.backends.base import load

    class Real(FakeSource):
        def fetch(self, card: ModelCard, report: object) -> Path:
            return weights_of(card.name)

        def load(self, card: ModelCard, files: Path, engine: str) -> Backend:  # type: ignore[override]
            return load(card, files, engine)

    real = cast("ModelSource[Backend]", Real())
    with closing(MemoryManager(Simulated(10**10), 2 * 10**9, real)) as memory:
        speed = measure(memory, catalog.card("smollm2-135m-instruct"), threading.Event())
    assert speed.written_per_s > 0
    assert speed.reading_s > 0


def test_a_model_that_writes_nothing_has_no_speed() -> None:
    mute = FakeSource(script=lambda request: [])
    memory = MemoryManager(Simulated(10**9), 10**6, cast("ModelSource[Backend]", mute))
    with pytest.raises(BackendError, match="wrote nothing"):
        measure(memory, fake_card("text"), threading.Event())
