"""Folders of pictures by class are read, and refused in one sentence that names the file."""

from __future__ import annotations

import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multimodal.errors import DataError
from multimodal.studio.data import folder_files
from multimodal.studio.data.kept_pictures import PICTURES
from multimodal.studio.data.pictures import (
    SHOWN_EACH,
    SIDE,
    PicturePreview,
    preview_pictures,
    write_test_pictures,
)
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, read_rows
from multimodal.studio.requirements import prepare
from multimodal.studio.settings import JobSettings


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 16), **more: Any) -> Path:
    """A picture of noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **more)
    return path


def classes(root: Path, first: int = 0, **counts: int) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for at in range(count):
            picture(root / name / f"{at:02}.png", first + 1000 * number + at)
    return root


def settings(data: Path | str, **more: Any) -> JobSettings:
    return JobSettings(name="a", model="b", method="classify", data=str(data), **more)


def prepared(data: Path | str, folder: Path, **more: Any) -> PicturePreview:
    return preview_pictures(settings(data, **more), folder / "out")


def names(folder: Path, file: str) -> list[str]:
    return [row["name"] for row in read_rows(folder / "out" / file)]


def refused(data: Path | str, folder: Path, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(data, folder, **more)
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith(".")
    return told


# ---------------------------------------------------------------- what is read


def test_the_same_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=40, dog=20, owl=2)
    found = prepared(data, tmp_path, test_share=0.25)
    assert found.counts == (("cat", 30, 10), ("dog", 15, 5), ("owl", 1, 1))
    assert (found.samples, found.test_samples, found.notices) == (46, 16, ())
    assert {label: len(shown) for label, shown in found.shown.items()} == {
        "cat": SHOWN_EACH,
        "dog": SHOWN_EACH,
        "owl": 1,
    }
    assert not set(names(tmp_path, TRAIN_FILE)) & set(names(tmp_path, TEST_FILE))
    row = read_rows(tmp_path / "out" / TRAIN_FILE)[0]
    with Image.open(tmp_path / "out" / PICTURES / row["image"]) as kept:
        assert (kept.size, row["label"], row["name"].partition("/")[0]) == ((24, 16), "cat", "cat")


def test_the_seed_decides_which_are_held_out_and_not_their_names(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=20, dog=20)
    held = []
    for number, seed in enumerate((0, 0, 1)):
        prepared(data, tmp_path / str(number), seed=seed)
        held.append({row["image"] for row in read_rows(tmp_path / str(number) / "out" / TEST_FILE)})
        for path in data.glob("*/*.png"):
            path.rename(path.with_name(f"x{path.name}"))
    assert held[0] == held[1] != held[2]


def test_folders_for_training_and_testing_stay_apart(tmp_path: Path) -> None:
    classes(tmp_path / "pets" / "train", cat=3, dog=2)
    classes(tmp_path / "pets" / "validation", first=50, cat=2, dog=1)
    found = prepared(tmp_path / "pets", tmp_path)
    assert found.counts == (("cat", 3, 2), ("dog", 2, 1))
    assert names(tmp_path, TEST_FILE)[0].startswith("validation/")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    found = prepared(classes(tmp_path / "things", train=4, plane=4), tmp_path)
    assert [label for label, _, _ in found.counts] == ["plane", "train"]


def test_with_a_folder_for_training_alone_some_of_it_is_held_out(tmp_path: Path) -> None:
    classes(tmp_path / "pets" / "train", cat=4, dog=4)
    assert prepared(tmp_path / "pets", tmp_path).counts == (("cat", 3, 1), ("dog", 3, 1))


def test_a_large_picture_is_kept_small_and_upright(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=2, dog=2)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(data / "cat" / "large.jpg", 9, (1600, 1200), exif=turned)
    prepared(data, tmp_path)
    kept = [Image.open(path).size for path in (tmp_path / "out" / PICTURES).rglob("*.webp")]
    assert kept == [(SIDE, round(SIDE * 1600 / 1200))]


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=2, dog=2)
    picture(data / "cat" / "2020" / "a.png", 77)
    counts = prepared(data, tmp_path).counts
    assert sum(counts[0][1:]) == 3


# ---------------------------------------------------------------- what is left out is told


def test_what_is_no_picture_is_left_out_and_told(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=2, dog=2)
    (data / "cat" / "notes.txt").write_text("of a cat", "utf-8")
    (data / "readme.md").write_text("pets", "utf-8")
    (data / "cat" / ".DS_Store").write_bytes(b"\0")
    (told,) = prepared(data, tmp_path).notices
    assert told == "cat/notes.txt, readme.md are no pictures of a class and are left out."


def test_duplicates_are_used_once_whatever_they_are_called(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=4, dog=4)
    picture(data / "cat" / "again.bmp", 0)
    found = prepared(data, tmp_path)
    assert found.notices == ("1 of 9 pictures are duplicates and are used once.",)
    assert sum(found.counts[0][1:]) == 4


def test_what_is_in_the_test_as_well_is_not_learned_from(tmp_path: Path) -> None:
    classes(tmp_path / "pets" / "train", cat=3, dog=3)
    classes(tmp_path / "pets" / "test", cat=1, dog=1)
    found = prepared(tmp_path / "pets", tmp_path)
    assert found.counts == (("cat", 2, 1), ("dog", 2, 1))
    assert found.notices == (
        "2 pictures for training are in the test as well and left out of the training.",
    )


def test_a_class_that_is_not_tested_is_told(tmp_path: Path) -> None:
    classes(tmp_path / "pets" / "train", cat=3, dog=3)
    classes(tmp_path / "pets" / "test", first=50, cat=2)
    (told,) = prepared(tmp_path / "pets", tmp_path).notices
    assert told.startswith("No picture of dog is in the test")


# ---------------------------------------------------------------- what is refused


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "pets" / "1.png", 1)
    assert refused(tmp_path / "pets", tmp_path).startswith("pets has no folder of a class; put the")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", tmp_path).startswith("empty has no folder of a class")


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    told = refused(classes(tmp_path / "pets", cat=5), tmp_path)
    assert told.startswith("pets has only the class cat; at least 2 are needed")


def test_a_class_with_one_picture_is_refused(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=5, dog=1)
    assert "the class dog has only one picture, dog/00.png" in refused(data, tmp_path)
    picture(data / "dog" / "again.png", 1000)
    assert "the class dog has only one picture" in refused(data, tmp_path), "different ones"


def test_a_class_without_pictures_is_refused(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=5, dog=5)
    (data / "owl").mkdir()
    (data / "owl" / "a.txt").write_text("no owl", "utf-8")
    assert refused(data, tmp_path).startswith("pets/owl holds no picture; add some")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\nrest", "is damaged"),
        ("a.jpg", b"no picture at all", "is not a picture this program reads"),
        ("a.jpg", b"", "is empty"),
        ("a.jpg", b"%PDF-1.7", "is not a picture or a recording but a PDF"),
        ("a.heic", b"\0\0\0\x18ftypheic", "is a HEIC or AVIF picture"),
    ],
)
def test_broken_pictures_are_named(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    data = classes(tmp_path / "pets", cat=3, dog=3)
    (data / "dog" / name).write_bytes(content)
    told = refused(data, tmp_path)
    assert told == f"pets: dog/{name} {why}. Repair or remove it, then try again."


def test_all_broken_pictures_are_counted_and_some_named(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=3, dog=3)
    for at in range(7):
        (data / "cat" / f"b{at}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    told = refused(data, tmp_path)
    assert "cat/b0.png is damaged; " in told
    assert "cat/b4.png is damaged and 2 more. Repair or remove them" in told
    assert "b5" not in told


def test_a_picture_cut_off_too_large_or_too_small_is_refused(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=3, dog=3)
    whole = picture(data / "cat" / "z.jpg", 5, (300, 200))
    whole.write_bytes(whole.read_bytes()[:9000])
    assert "cat/z.jpg is cut off" in refused(data, tmp_path)
    picture(whole.with_name("z.jpg"), 5, (4, 4))
    assert "cat/z.jpg is only 4x4 pixels; at least 8 on each side" in refused(data, tmp_path)
    Image.new("1", (60_000, 1000)).save(data / "cat" / "z.png")
    whole.unlink()
    assert "at most 50 million pixels can be opened" in refused(data, tmp_path)


def test_one_picture_in_two_classes_is_refused(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=3, dog=3)
    picture(data / "dog" / "odd.png", 0)
    told = refused(data, tmp_path)
    assert told.startswith("pets: cat/00.png and dog/odd.png are the same picture in two classes")


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "pets" / "train", cat=3, dog=3)
    classes(tmp_path / "pets" / "test", first=50, cat=1, dog=1, owl=1)
    assert "the class owl has pictures in the test and none to learn" in refused(
        tmp_path / "pets", tmp_path
    )


@pytest.mark.parametrize("data", ["chats", "hub:owner/name", "/nowhere/at/all"])
def test_what_is_no_folder_is_refused(tmp_path: Path, data: str) -> None:
    assert "give a folder with a folder for each class" in refused(data, tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b", "utf-8")
    assert refused(tmp_path / "a.csv", tmp_path).startswith("a.csv is no folder and no .zip")


# ---------------------------------------------------------------- zip files


def packed(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("prefix", ["", "pets/", "a/b/"])
def test_a_zip_is_read_as_its_folder(tmp_path: Path, prefix: str) -> None:
    data = classes(tmp_path / "pets", cat=10, dog=10)
    plain = prepared(data, tmp_path / "1")
    zipped = prepared(packed(data, tmp_path / "pets.zip", prefix), tmp_path / "2")
    assert plain == zipped
    assert names(tmp_path / "1", TEST_FILE) == names(tmp_path / "2", TEST_FILE)


@pytest.mark.parametrize(
    "name", ["../cat/a.png", "/cat/a.png", "cat/../../a.png", "C:/cat/a.png", "cat\\..\\a.png"]
)
def test_a_zip_with_places_outside_is_refused_and_nothing_unpacked(
    tmp_path: Path, name: str
) -> None:
    path = packed(classes(tmp_path / "pets", cat=3, dog=3), tmp_path / "pets.zip")
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo()
        member.filename = name
        archive.writestr(member, b"x")
    before = set(tmp_path.rglob("*"))
    assert "is the name of no file below a folder" in refused(path, tmp_path)
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "out"}


def test_a_zip_with_links_is_refused(tmp_path: Path) -> None:
    path = packed(classes(tmp_path / "pets", cat=3, dog=3), tmp_path / "pets.zip")
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("cat/link.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    assert "cat/link.png is a link" in refused(path, tmp_path)


def test_a_zip_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat/a.png", "dog/b.png"):
            archive.writestr(name, b"\0" * 10_000_000)
    assert "which is too much; pack fewer" in refused(path, tmp_path)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = packed(classes(tmp_path / "pets", cat=3, dog=3), tmp_path / "pets.zip")
    held = bytearray(path.read_bytes())
    held[60:200] = bytes(140)
    path.write_bytes(held)
    assert "is damaged in it" in refused(path, tmp_path)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_files, "MOST_FILES", 5)
    data = classes(tmp_path / "pets", cat=3, dog=3)
    assert refused(data, tmp_path).startswith("pets holds 6 files, and at most 5 are read")


# ---------------------------------------------------------------- for an evaluation


def test_all_pictures_are_measured_or_those_for_the_test(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=3, dog=1)
    assert write_test_pictures(str(data), tmp_path / "all") == ()
    assert len(read_rows(tmp_path / "all" / TEST_FILE)) == 4
    classes(tmp_path / "split" / "train", cat=3, dog=3)
    classes(tmp_path / "split" / "test", first=50, cat=2, dog=2)
    write_test_pictures(str(tmp_path / "split"), tmp_path / "some")
    rows = read_rows(tmp_path / "some" / TEST_FILE)
    assert Counter(row["label"] for row in rows) == {"cat": 2, "dog": 2}


def test_preparing_tells_what_the_preview_does(tmp_path: Path) -> None:
    data = classes(tmp_path / "pets", cat=4, dog=4)
    (data / "notes.txt").write_text("", "utf-8")
    shown = prepared(data, tmp_path)
    assert prepare(settings(data), None, tmp_path / "job") == shown.notices != ()
