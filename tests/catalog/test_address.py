"""Weights that are one file at an address: known by its checksum, over https only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from fake_hub import CARD, TENSORS, FakeHub, contents, unreachable, weights

from multimodal.catalog.cards import ModelCard
from multimodal.catalog.sources import UrlSource
from multimodal.errors import WeightsError


def file_card(hub: FakeHub, content: bytes = TENSORS, size_bytes: int | None = None) -> ModelCard:
    """Built without the check for https, which a server on loopback does not speak."""
    source = UrlSource.model_construct(
        kind="file",
        url=f"{hub.url}/file/small.pt",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=size_bytes,
    )
    return CARD.model_copy(update={"source": source})


@pytest.mark.parametrize("size_bytes", [None, len(TENSORS)])
def test_a_file_at_an_address_is_fetched_once(
    tmp_path: Path, hub: FakeHub, size_bytes: int | None
) -> None:
    card = file_card(hub, size_bytes=size_bytes)
    folder = weights(tmp_path, hub).ensure(card)
    assert contents(folder) == {"small.pt": TENSORS}
    again = weights(tmp_path, hub, offline=True)
    assert again.is_ready(card)
    again.ensure(card)
    assert len(hub.sent) == 1


def test_a_file_that_is_another_one_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match="is not the one this card was made for"):
        weights(tmp_path, hub).ensure(file_card(hub, b"other"))
    assert contents(tmp_path / "tiny") == {}


def test_an_address_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    nowhere = unreachable()
    with pytest.raises(WeightsError, match=r"small.pt cannot be reached \(ConnectError\); connect"):
        weights(tmp_path, nowhere).ensure(file_card(nowhere))


@pytest.mark.parametrize(
    "url", ["http://host/a.pt", "file:///a.pt", "https://u:p@host/a.pt", "https://host/../.."]
)
def test_an_address_is_https_and_ends_in_a_file(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        UrlSource(kind="file", url=url, sha256="0" * 64)
