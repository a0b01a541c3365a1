"""Data sets of the hub: read as a stream, and only what is data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fake_data_hub import data_hub, read_data
from job_data import settings

from multimodal.errors import DataError
from multimodal.studio.data.hub import read_hub
from multimodal.studio.data.prepare import PreparedData, prepare_data

Splits = Mapping[str, Iterable[Mapping[str, Any]]]


def read(name: str, splits: Splits, method: str = "lora") -> PreparedData:
    asked: list[tuple[str, str | None]] = []

    def load(repo: str, subset: str | None) -> Splits:
        asked.append((repo, subset))
        return splits

    found = prepare_data(settings(name, method), load=load)
    subset = name.split("/")[2] if name.count("/") == 2 else None
    assert asked == [("people/dogs", subset)]
    return found


def test_splits_for_training_and_testing_stay_apart() -> None:
    splits = {"train": [{"text": "one"}, {"text": "two"}], "validation": [{"text": "three"}]}
    found = read("hub:people/dogs", splits)
    assert found.train == [{"text": "one"}, {"text": "two"}]
    assert found.test == [{"text": "three"}]


def test_a_single_split_is_split() -> None:
    found = read("hub:people/dogs/small", {"train": [{"text": str(n)} for n in range(10)]})
    assert (len(found.train), len(found.test)) == (9, 1)


def test_a_wrong_row_is_named_with_its_split() -> None:
    splits = {"train": [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}]}
    with pytest.raises(DataError, match=r"^hub:people/dogs \(train\), row 2: its completion is em"):
        read("hub:people/dogs", splits)


def test_a_stream_without_end_is_read_up_to_a_bound_that_is_told() -> None:
    told: list[str] = []
    endless = {"train": ({"text": str(number)} for number in count())}
    records = list(read_hub("people/dogs", lambda *_: endless, told.append, most=10))
    assert [record.values for record in records] == [{"text": str(number)} for number in range(10)]
    assert told == ["hub:people/dogs (train) has more than 10 samples; the first are used."]


@pytest.mark.parametrize("name", ["hub:dogs", "hub:", "hub:a/b/c/d", "hub:../a", "hub:https://a/b"])
def test_what_names_no_data_set_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="names no data set; write hub:OWNER/NAME"):
        prepare_data(settings(name))


# ---------------------------------------------------------------- a hub that answers

REPOS = {
    "people/dogs": {
        "README.md": b"# Dogs\n",
        "train.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
        "test.jsonl": b'{"text": "three"}\n',
    },
    "people/script": {"script.py": b"raise SystemExit(7)", "train.jsonl": b'{"text": "one"}\n'},
    "people/archives": {"train.tar": b"x" * 1024},
    "people/pickles": {"train.pkl": b"cposix\nsystem\n"},
    "people/broken": {"train.jsonl": b'{"text": "one"}\n{"text'},
}
ANSWERS = {
    "people/script": "hub:people/script cannot be read (Dataset scripts are no longer supported",
    "people/archives": "hub:people/archives holds webdataset files; only Parquet, JSON, CSV and",
    "people/pickles": "hub:people/pickles holds no Parquet, JSON, CSV or text file, which are",
    "people/broken": "hub:people/broken cannot be read (JSON parse error",
    "people/cats": "hub:people/cats is not on the hub, or must be applied for there",
}


def test_only_data_is_taken_from_the_hub(tmp_path: Path) -> None:
    requests: list[str] = []
    with data_hub(REPOS, requests) as url:
        dogs, *refused = read_data(
            url, [f"hub:{repo}" for repo in ("people/dogs", *ANSWERS)], tmp_path
        )
    assert dogs == [[{"text": "one"}, {"text": "two"}], [{"text": "three"}]]
    for sentence, answer in zip(ANSWERS.values(), refused, strict=True):
        assert answer.startswith(sentence)
        assert "\n" not in answer
    assert not [
        path for path in requests if "/resolve/" in path and path.endswith((".tar", ".pkl"))
    ]


def test_the_hub_is_not_asked_in_offline_mode(tmp_path: Path) -> None:
    requests: list[str] = []
    with data_hub(REPOS, requests) as url:
        found = read_data(url, ["hub:people/dogs"], tmp_path, HF_HUB_OFFLINE="1")
    assert found == [
        "hub:people/dogs cannot be fetched, because the hub is not asked in offline mode; start "
        "without --offline, or give a file."
    ]
    assert not requests


@pytest.mark.thorough
@pytest.mark.slow
def test_a_hub_that_is_out_of_reach_is_told(tmp_path: Path) -> None:
    with data_hub(REPOS, []) as url:
        pass
    (told,) = read_data(url, ["hub:people/dogs"], tmp_path)
    assert told.startswith("hub:people/dogs cannot be read (Couldn't reach")
