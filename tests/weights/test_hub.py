"""Weights from a hub on loopback: listed, chosen, resumed, verified, pinned, refused in words."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from card_texts import card_from, catalog_of
from conftest import wait_until
from fake_hub import (
    CARD,
    FETCHED,
    FILES,
    FIRST,
    SECOND,
    TENSORS,
    FakeHub,
    card_for,
    contents,
    fetch_in_a_program,
    stop_in_silence,
    unreachable,
    weights,
)

from multimodal.build import build, fetch_missing
from multimodal.errors import TurnStoppedError, WeightsError
from multimodal.settings import read_settings
from multimodal.weights import FetchProgress


def chosen(tmp_path: Path, hub: FakeHub, listing: list[str], **source: object) -> set[str]:
    hub.commits[FIRST] = {name: name.encode() for name in listing}
    return set(contents(weights(tmp_path, hub).ensure(card_for(**source))))


def test_a_repository_is_fetched_once_without_what_could_be_run(
    tmp_path: Path, hub: FakeHub
) -> None:
    store, seen = weights(tmp_path, hub), list[FetchProgress]()
    assert not store.is_ready(CARD)
    folder = store.ensure(CARD, seen.append)
    assert contents(folder) == {name: FILES[name] for name in FETCHED}
    assert hub.files_sent == FETCHED
    total = sum(len(FILES[name]) for name in FETCHED)
    assert (seen[0].phase, seen[-1].phase) == ("waiting", "ready")
    assert {p.total_bytes for p in seen if p.phase == "fetching"} == {total}
    assert seen[-1].done_bytes == total


def test_the_persons_token_goes_to_the_hub_and_not_where_it_sends_us(
    tmp_path: Path, hub: FakeHub
) -> None:
    hub.elsewhere, hub.cut_after = True, [300_000]
    folder = weights(tmp_path, hub).ensure(CARD)
    assert (folder / "model.safetensors").read_bytes() == TENSORS
    assert set(hub.tokens) == {("127.0.0.1", "Bearer hf_secret"), ("localhost", "")}
    assert ("model.safetensors", 206, len(TENSORS) - 300_000) in hub.sent


@pytest.mark.parametrize(("forbidden", "told"), [("0", "100 %"), ("1", "HF_HUB_OFFLINE is set")])
def test_the_settings_of_the_hubs_own_tools_hold(
    tmp_path: Path, hub: FakeHub, forbidden: str, told: str
) -> None:
    done = fetch_in_a_program(
        tmp_path, CARD, HF_ENDPOINT=hub.url, HF_TOKEN="hf_mine", HF_HUB_OFFLINE=forbidden
    )
    assert told in done.stderr
    assert (done.returncode == 0) is (forbidden == "0")
    tokens = {token for _, token in hub.tokens}
    assert tokens == ({"Bearer hf_mine"} if forbidden == "0" else set())
    assert all("/people/tiny/" in path for path in hub.requests), "nothing else is asked"


def test_the_licence_and_the_size_are_told_before_anything_is_fetched(
    tmp_path: Path, hub: FakeHub
) -> None:
    catalog_of(tmp_path / "models", card_from('[source]\nkind = "hub"\nrepo = "people/tiny"'))
    program = build(read_settings(data=tmp_path, profile="mine", device="cpu"))
    program = replace(program, weights=weights(tmp_path / "weights", hub))
    told: list[tuple[str, int]] = []
    fetch_missing(program, announce=lambda line: told.append((line, len(hub.sent))))
    program.close()
    assert told == [("Tiny: MIT, 1 MB", 0)]
    assert program.fetching.errors == {}
    assert hub.files_sent == FETCHED


def test_a_second_start_opens_no_connection(tmp_path: Path, hub: FakeHub) -> None:
    first = weights(tmp_path, hub).ensure(CARD)
    hub.requests.clear()
    again = weights(tmp_path, hub, offline=True)
    assert again.is_ready(CARD)
    assert again.ensure(CARD) == first
    assert hub.requests == []


def test_a_cut_download_goes_on_where_it_ended(tmp_path: Path, hub: FakeHub) -> None:
    hub.cut_after = [300_000, 200_000]
    weights(tmp_path, hub).ensure(CARD)
    sent = [(status, size) for name, status, size in hub.sent if name == "model.safetensors"]
    assert sent == [(200, 300_000), (206, 200_000), (206, len(TENSORS) - 500_000)]


def test_a_long_file_may_be_cut_often(tmp_path: Path, hub: FakeHub) -> None:
    hub.cut_after = [100_000] * 8
    folder = weights(tmp_path, hub).ensure(CARD)
    assert (folder / "model.safetensors").read_bytes() == TENSORS


def test_a_download_goes_on_in_a_later_run_at_the_same_commit(tmp_path: Path, hub: FakeHub) -> None:
    hub.cut_after = [100_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="what was fetched is kept"):
        weights(tmp_path, hub).ensure(CARD)
    hub.commits[SECOND], hub.refs["main"] = {"model.safetensors": b"new"}, SECOND
    hub.sent.clear()
    folder = weights(tmp_path, hub).ensure(CARD)
    assert ("model.safetensors", 206, len(TENSORS) - 100_000) in hub.sent
    assert (folder / "model.safetensors").read_bytes() == TENSORS


def test_a_busy_hub_is_asked_again(tmp_path: Path, hub: FakeHub) -> None:
    hub.busy = [503, 429]
    weights(tmp_path, hub).ensure(CARD)
    hub.busy = [503] * 5
    with pytest.raises(WeightsError, match="HTTP status 503"):
        weights(tmp_path / "other", hub).ensure(CARD)


def test_a_stop_does_not_wait_for_a_hub_that_says_nothing(tmp_path: Path, hub: FakeHub) -> None:
    store = weights(tmp_path, hub)
    stop_in_silence(hub, store, CARD)
    hub.silent.set()
    folder = store.ensure(CARD)
    assert (folder / "model.safetensors").read_bytes() == TENSORS


def test_a_stop_ends_the_wait_for_another_program(tmp_path: Path, hub: FakeHub) -> None:
    hub.silent, stop = threading.Event(), threading.Event()
    busy = threading.Thread(target=weights(tmp_path, hub).ensure, args=(CARD,))
    busy.start()
    wait_until(lambda: hub.cut in hub.files_sent, 60)
    with pytest.raises(TurnStoppedError):
        weights(tmp_path, hub).ensure(CARD, lambda progress: stop.set(), stop)
    assert busy.is_alive()
    hub.silent.set()
    busy.join(60)
    assert weights(tmp_path, hub).is_ready(CARD)


def test_what_main_was_first_stays_in_use(tmp_path: Path, hub: FakeHub) -> None:
    folder = weights(tmp_path, hub).ensure(CARD)
    moved = FILES | {"model.safetensors": b"moved"}
    hub.commits[SECOND], hub.refs["main"] = moved, SECOND
    (folder / "model.safetensors").write_bytes(b"damaged")
    weights(tmp_path, hub).ensure(CARD)
    assert (folder / "model.safetensors").read_bytes() == TENSORS
    other = weights(tmp_path / "other", hub).ensure(CARD)
    assert (other / "model.safetensors").read_bytes() == b"moved"


@pytest.mark.parametrize("revision", ["v2", "refs/pr/5", SECOND])
def test_a_card_that_names_another_revision_is_fetched_anew(
    tmp_path: Path, hub: FakeHub, revision: str
) -> None:
    """A tag, a pull request, a commit."""
    weights(tmp_path, hub).ensure(CARD)
    hub.commits[SECOND] = FILES | {"config.json": b"{}"}
    hub.refs |= {"v2": SECOND, "refs/pr/5": SECOND}
    hub.sent.clear()
    tagged = card_for(revision=revision)
    assert not weights(tmp_path, hub).is_ready(tagged)
    folder = weights(tmp_path, hub).ensure(tagged)
    assert (folder / "config.json").read_bytes() == b"{}"
    assert hub.files_sent == {"config.json"}, "the others were there already"


def test_a_pinned_commit_that_is_gone_is_told(tmp_path: Path, hub: FakeHub) -> None:
    folder = weights(tmp_path, hub).ensure(CARD)
    (folder / "model.safetensors").unlink()
    hub.refusal = (404, "RevisionNotFound")
    with pytest.raises(WeightsError, match=r"the commit aaaaaaaaaaaa; remove .*/tiny to take"):
        weights(tmp_path, hub).ensure(CARD)


@pytest.mark.parametrize(
    ("status", "code", "listing"),
    [(401, "GatedRepo", False), (403, "GatedRepo", False), (401, "GatedRepo", True)],
)
def test_a_gated_repository_says_how_to_get_access(
    tmp_path: Path, hub: FakeHub, status: int, code: str, listing: bool
) -> None:
    hub.refusal, hub.listing_refused = (status, code), listing
    with pytest.raises(WeightsError) as caught:
        weights(tmp_path, hub).ensure(CARD)
    assert str(caught.value) == (
        "Tiny has no weights yet: people/tiny is gated; open https://huggingface.co/people/tiny, "
        "accept its licence, log in with `hf auth login` or set HF_TOKEN, then start again."
    )


def test_a_card_that_says_gated_is_believed(tmp_path: Path, hub: FakeHub) -> None:
    hub.refusal, hub.listing_refused = (401, ""), True
    with pytest.raises(WeightsError, match="is gated; open https"):
        weights(tmp_path, hub).ensure(card_for(gated=True))


@pytest.mark.parametrize(
    ("source", "refusal", "sentence"),
    [
        (
            {"repo": "people/other"},
            None,
            "the hub has no repository people/other, or it is private",
        ),
        ({"revision": "v9"}, None, "people/tiny has no revision 'v9'; correct its card"),
        ({}, (403, ""), r"refuses to hand out people/tiny \(HTTP status 403\)"),
        ({}, (500, ""), "the hub answered with HTTP status 500; start again later"),
    ],
)
def test_a_refusal_is_told(
    tmp_path: Path,
    hub: FakeHub,
    source: dict[str, object],
    refusal: tuple[int, str] | None,
    sentence: str,
) -> None:
    hub.refusal = refusal
    with pytest.raises(WeightsError, match=sentence):
        weights(tmp_path, hub).ensure(card_for(**source))


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"the hub cannot be reached at http.*HF_ENDPOINT"):
        weights(tmp_path, unreachable()).ensure(CARD)


def test_what_is_no_hub_is_told(tmp_path: Path, hub: FakeHub) -> None:
    hub.refusal, hub.listing_refused = (200, ""), True
    with pytest.raises(WeightsError, match="is not a hub; log in to your network"):
        weights(tmp_path, hub).ensure(CARD)


def test_a_wrong_file_is_removed_and_told(tmp_path: Path, hub: FakeHub) -> None:
    hub.served["model.safetensors"] = TENSORS[:-1] + b"!"
    with pytest.raises(WeightsError, match=r"model.safetensors of people/tiny came twice .*checks"):
        weights(tmp_path, hub).ensure(CARD)
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("*.safetensors"))
    hub.served = {"config.json": b'{"model_type": "evil"}'}
    with pytest.raises(WeightsError, match=r"config.json of people/tiny came twice"):
        weights(tmp_path, hub).ensure(CARD)


def test_a_damaged_file_is_fetched_again_alone(tmp_path: Path, hub: FakeHub) -> None:
    folder = weights(tmp_path, hub).ensure(CARD)
    hub.sent.clear()
    (folder / "tokenizer.model").write_bytes(b"damaged")
    assert not weights(tmp_path, hub).is_ready(CARD)
    weights(tmp_path, hub).ensure(CARD)
    assert hub.sent == [("tokenizer.model", 200, 600)]


def test_pickles_are_fetched_only_when_named(tmp_path: Path, hub: FakeHub) -> None:
    files = ["a.bin", "b.pt", "c.safetensors", "d.py"]
    assert chosen(tmp_path / "1", hub, files, files=["*"]) == {"c.safetensors"}
    assert chosen(tmp_path / "2", hub, files, files=["a.bin"]) == {"a.bin"}
    with pytest.raises(ValueError, match="code is never fetched"):
        card_for(files=["d.py"])


def test_copies_that_a_card_ignores_are_not_fetched(tmp_path: Path, hub: FakeHub) -> None:
    files = ["consolidated.safetensors", "model-00001-of-00001.safetensors", "original/x.json"]
    kept = chosen(tmp_path, hub, files, ignore=["consolidated*", "original/*"])
    assert kept == {"model-00001-of-00001.safetensors"}


def test_of_a_pipeline_only_the_variant_is_fetched(tmp_path: Path, hub: FakeHub) -> None:
    files = [
        "model_index.json",
        "unet/config.json",
        "unet/model.safetensors",
        "unet/model.fp16.safetensors",
        "text/model.safetensors.index.json",
        "text/model.safetensors.index.fp16.json",
        "text/model-00001-of-00001.safetensors",
        "text/model.fp16-00001-of-00001.safetensors",
        "vae/model.safetensors",
    ]
    kept = chosen(tmp_path, hub, files, variant="fp16")
    assert set(files) - kept == {
        "unet/model.safetensors",
        "text/model.safetensors.index.json",
        "text/model-00001-of-00001.safetensors",
    }


def test_a_repository_without_weights_is_told(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match="has no weights of the kinds its card asks for"):
        chosen(tmp_path, hub, ["config.json", "pytorch_model.bin"])


@pytest.mark.parametrize("path", ["../out.json", "/etc/out.json", "a/../../out.json", "a\\b.json"])
def test_a_file_outside_its_folder_is_refused(tmp_path: Path, hub: FakeHub, path: str) -> None:
    with pytest.raises(WeightsError, match="lists a file outside its own folder"):
        chosen(tmp_path / "weights", hub, ["model.safetensors", path])
    assert hub.sent == []
    assert not list(tmp_path.rglob("*out.json"))


def test_a_repository_cannot_write_our_records(tmp_path: Path, hub: FakeHub) -> None:
    chosen(tmp_path, hub, ["model.safetensors", "verified.json", "pinned.json"])
    assert hub.files_sent == {"model.safetensors"}


def test_what_would_be_fetched_is_told_without_fetching(tmp_path: Path, hub: FakeHub) -> None:
    store = weights(tmp_path, hub)
    assert store.query_bytes(CARD) == sum(len(FILES[name]) for name in FETCHED)
    assert hub.sent == []
    assert not (tmp_path / "tiny").exists()
