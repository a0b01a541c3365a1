"""Folders of captioned pictures are read, and refused in one sentence that names the file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multimodal.errors import DataError
from multimodal.studio.data.captions import (
    SIDE,
    CaptionPreview,
    preview_captions,
    write_test_captions,
)
from multimodal.studio.data.kept_pictures import PICTURES, THUMBNAIL_SIDE
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, Row, read_rows
from multimodal.studio.settings import JobSettings


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 16)) -> Path:
    """A picture of noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def captioned(root: Path, count: int = 10, first: int = 0) -> Path:
    for at in range(first, first + count):
        picture(root / f"{at}.png", at).with_suffix(".txt").write_text(f"Noise {at}.\n", "utf-8")
    return root


def prepared(data: Path | str, folder: Path, **more: Any) -> CaptionPreview:
    asked = JobSettings(name="a", model="b", data=str(data), **more)
    return preview_captions(asked, folder / "out")


def rows(folder: Path, file: str) -> list[Row]:
    return list(read_rows(folder / "out" / file))


def refused(data: Path | str, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        prepared(data, folder)
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith(".")
    assert not (folder / "out" / TRAIN_FILE).exists()
    return told


def test_pictures_beside_their_captions_are_kept_small(tmp_path: Path) -> None:
    data = captioned(tmp_path / "art")
    picture(data / "large.png", 99, (2 * SIDE, SIDE + 100))
    (data / "large.txt").write_text("A  large\npicture.", "utf-8")
    (data / "notes.md").write_text("about", "utf-8")
    found = prepared(data, tmp_path)
    train, test = rows(tmp_path, TRAIN_FILE), rows(tmp_path, TEST_FILE)
    assert (found.samples, found.test_samples) == (len(train), len(test)) == (10, 1)
    assert found.notices == ("notes.md is neither picture nor text and is left out.",)
    by_name = {row["name"]: row for row in (*train, *test)}
    assert by_name["3.png"]["text"] == "Noise 3."
    assert by_name["large.png"]["text"] == "A large picture."
    assert {row["question"] for row in by_name.values()} == {""}
    with Image.open(tmp_path / "out" / PICTURES / by_name["large.png"]["image"]) as kept:
        assert min(kept.size) == SIDE
    assert len(found.pictures) == 5
    for shown in found.pictures:
        with Image.open(io.BytesIO(shown.thumbnail)) as small:
            assert small.format == "JPEG"
            assert max(small.size) <= THUMBNAIL_SIDE
    with Image.open(tmp_path / "out" / PICTURES / by_name["3.png"]["image"]) as kept:
        assert np.array_equal(kept.convert("RGB"), Image.open(data / "3.png"))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_asks_several_questions_of_a_picture(tmp_path: Path, suffix: str) -> None:
    data = tmp_path / "asked"
    table = list[dict[str, str]]()
    for at in range(4):
        picture(data / f"{at}.png", at)
        for question in ("What is it?", "Is it old?"):
            table.append({"file_name": f"{at}.png", "question": question, "text": f"No {at}."})
    separator = {"csv": ",", "tsv": "\t"}.get(suffix)
    if separator is None:
        lines = [json.dumps(row) for row in table]
    else:
        lines = [separator.join(row) for row in (list(table[0]), *(r.values() for r in table))]
    (data / f"metadata.{suffix}").write_text("\n".join(lines), "utf-8")
    packed = tmp_path / "asked.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in data.iterdir():
            archive.write(path, f"asked/{path.name}")
    found = prepared(packed, tmp_path)
    assert (found.samples, found.test_samples) == (3, 1)
    assert [len(one.captions) for one in found.pictures] == [2, 2, 2]
    train, test = rows(tmp_path, TRAIN_FILE), rows(tmp_path, TEST_FILE)
    assert (len(train), len(test)) == (6, 2)
    assert {row["image"] for row in train}.isdisjoint(row["image"] for row in test)
    assert {row["question"] for row in test} == {"What is it?", "Is it old?"}


def test_what_is_translucent_is_shown_as_it_is_learned_from(tmp_path: Path) -> None:
    data = captioned(tmp_path / "art", 2)
    for at in range(2):
        drawn = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
        drawn.paste((0, 0, 0, 255), (0, 0, 6 + at, 6))
        drawn.save(data / f"{at}.png")
    (shown,) = prepared(data, tmp_path).pictures
    with Image.open(io.BytesIO(shown.thumbnail)) as small:
        assert small.getpixel((20, 20)) == (255, 255, 255)


def test_folders_split_and_leaks_and_doubles_are_told(tmp_path: Path) -> None:
    data = tmp_path / "art"
    captioned(data / "train", 4)
    captioned(data / "test", 2, first=3)
    picture(data / "train" / "again.png", 0).with_suffix(".txt").write_text("noise 0.", "utf-8")
    found = prepared(data, tmp_path)
    assert (found.samples, found.test_samples) == (3, 2)
    assert found.notices == (
        "1 of 7 pictures are duplicates and are used once.",
        "1 picture for training is in the test as well and left out of the training.",
    )
    write_test_captions(str(data), tmp_path / "measured")
    assert len(list(read_rows(tmp_path / "measured" / TEST_FILE))) == 2


def test_what_lacks_its_other_half_is_named(tmp_path: Path) -> None:
    data = captioned(tmp_path / "art", 3)
    picture(data / "4.png", 4)
    (data / "5.txt").write_text("A caption.", "utf-8")
    (data / "2.txt").write_text(" -- ", "utf-8")
    assert refused(data, tmp_path) == (
        "art: 2.txt has no words; 5.txt has a text and no picture; 4.png has no text. Add what is "
        "missing, or remove the rest."
    )
    table = captioned(tmp_path / "listed", 2)
    (table / "metadata.csv").write_text(
        "file_name,text\n0.png,One\n0.png,Two\n../1.png,Three\n", "utf-8"
    )
    assert refused(table, tmp_path) == (
        "listed: metadata.csv, line 4 has a text and no picture; 1.png has no text; 0.png is named "
        "more than once. Add what is missing, or remove the rest."
    )
    (table / "metadata.csv").write_text("name,words\n0.png,One\n", "utf-8")
    assert "line 2, lacks a picture or a text" in refused(table, tmp_path)


def test_damaged_few_and_contradictory_ones_are_refused(tmp_path: Path) -> None:
    data = captioned(tmp_path / "art", 3)
    (data / "1.png").write_bytes((data / "1.png").read_bytes()[:200])
    assert refused(data, tmp_path).startswith("art: 1.png ")
    assert refused(captioned(tmp_path / "one", 1), tmp_path).startswith("one has only one picture")
    other = captioned(tmp_path / "two", 2)
    picture(other / "same.png", 0).with_suffix(".txt").write_text("Something else", "utf-8")
    assert "0.png and same.png are the same picture with other captions" in refused(other, tmp_path)
    (tmp_path / "none").mkdir()
    assert refused(tmp_path / "none", tmp_path).startswith("none holds no pictures with captions")
    assert "does not exist" in refused(tmp_path / "nowhere", tmp_path)
