"""Folders of recordings with texts are read, and refused in one sentence that names the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal.errors import DataError
from multimodal.media.audio import SAMPLE_RATE, decode, wav
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE, read_rows
from multimodal.studio.data.recordings import (
    LIMITS,
    RECORDINGS,
    RecordingPreview,
    preview_recordings,
    write_test_recordings,
)
from multimodal.studio.settings import JobSettings


def record(path: Path, seed: int, seconds: float = 0.3) -> Path:
    """A recording of noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, int(seconds * SAMPLE_RATE))
    path.write_bytes(wav(noise.astype(np.float32)))
    return path


def say(path: Path, text: str, seed: int) -> Path:
    record(path, seed).with_suffix(".txt").write_text(text, "utf-8")
    return path


def said(root: Path, count: int = 10) -> Path:
    for at in range(count):
        say(root / f"{at}.wav", f"Sentence {at}.", at)
    return root


def prepared(data: Path | str, folder: Path, **more: Any) -> RecordingPreview:
    asked = JobSettings(name="a", model="b", method="transcribe", data=str(data), **more)
    return preview_recordings(asked, folder / "out")


def names(folder: Path, file: str) -> list[str]:
    return [row["name"] for row in read_rows(folder / "out" / file)]


def refused(data: Path | str, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        prepared(data, folder)
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith(".")
    assert not (folder / "out" / TRAIN_FILE).exists()
    return told


# ---------------------------------------------------------------- what is read


def test_recordings_beside_their_texts_are_kept_at_16_khz(tmp_path: Path) -> None:
    found = prepared(said(tmp_path / "said"), tmp_path, test_share=0.2)
    assert (found.samples, found.test_samples, found.notices) == (8, 2, ())
    assert found.seconds == pytest.approx(8 * 0.3)
    row = read_rows(tmp_path / "out" / TRAIN_FILE)[0]
    data = (tmp_path / "out" / RECORDINGS / row["audio"]).read_bytes()
    assert len(decode(data, "kept", LIMITS)) == int(0.3 * SAMPLE_RATE)
    assert row["text"] == f"Sentence {row['name'][0]}."
    assert not set(names(tmp_path, TRAIN_FILE)) & set(names(tmp_path, TEST_FILE))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_names_recordings_and_a_zip_is_read_alike(tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "said"
    for at in range(4):
        record(root / "clips" / f"{at}.wav", at)
    rows = [(f"clips/{at}.wav", f"Said, {at}") for at in range(4)]
    if suffix == ".csv":
        lines = ["file_name,text", *(f'{file},"{text}"' for file, text in rows)]
    else:
        lines = [f'{{"audio": "{file}", "transcription": "{text}"}}' for file, text in rows]
    (root / f"metadata{suffix}").write_text("\n".join(lines), "utf-8")
    (root / "notes.md").write_text("mine", "utf-8")
    found = prepared(root, tmp_path, test_share=0.25)
    assert (found.samples, found.test_samples) == (3, 1)
    assert found.notices == ("notes.md is neither recording nor text and is left out.",)
    packed = tmp_path / "said.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in root.rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    other = tmp_path / "other"
    again = prepared(packed, other, test_share=0.25)
    assert (again.samples, again.test_samples, again.texts) == (3, 1, found.texts)


def test_what_is_held_out_is_not_said_in_what_is_learned_from(tmp_path: Path) -> None:
    for at in range(20):
        say(tmp_path / "said" / f"{at}.wav", f"sentence {'ABCDE'[at % 5]}", at)
    prepared(tmp_path / "said", tmp_path, test_share=0.2)
    train, test = (
        {row["text"] for row in read_rows(tmp_path / "out" / file)}
        for file in (TRAIN_FILE, TEST_FILE)
    )
    assert len(train) == 4
    assert len(test) == 1
    first = names(tmp_path, TEST_FILE)
    seeds = set()
    for seed in range(6):
        prepared(tmp_path / "said", tmp_path, test_share=0.2, seed=seed)
        seeds.add(tuple(names(tmp_path, TEST_FILE)))
    assert tuple(first) in seeds
    assert len(seeds) > 1


def test_folders_split_and_leaks_and_doubles_are_told(tmp_path: Path) -> None:
    root = tmp_path / "said"
    for at in range(3):
        say(root / "train" / f"{at}.wav", f"train {at}", at)
    say(root / "train" / "leak.wav", "test 9", 9)
    say(root / "test" / "9.wav", "test 9", 9)
    say(root / "test" / "8.wav", "Train 0!", 8)
    say(root / "test" / "same.wav", "test 9", 9)
    found = prepared(root, tmp_path)
    assert (found.samples, found.test_samples) == (3, 2)
    assert found.notices[:2] == (
        "1 of 7 recordings are duplicates and are used once.",
        "1 recording for training is in the test as well and left out of the training.",
    )
    assert found.notices[2].startswith("1 of 2 texts of the test are learned from")
    write_test_recordings(str(root), tmp_path / "eval")
    assert len(read_rows(tmp_path / "eval" / TEST_FILE)) == 2


# ---------------------------------------------------------------- what is refused


def test_what_lacks_its_other_half_is_named(tmp_path: Path) -> None:
    root = said(tmp_path / "said", 3)
    record(root / "alone.wav", 50)
    (root / "words.txt").write_text("no sound", "utf-8")
    say(root / "empty.wav", " ... ", 51)
    told = refused(root, tmp_path)
    for fault in (
        "words.txt has a text and no recording",
        "empty.txt has no words",
        "alone.wav has no text",
    ):
        assert fault in told
    table = root / "metadata.csv"
    table.write_text("file_name,text\n0.wav,a\n9.wav,b\n", "utf-8")
    assert "metadata.csv, line 3 has a text and no recording" in refused(root, tmp_path)
    table.write_text("name,words\n0.wav,a\n", "utf-8")
    assert "its columns are file_name and text" in refused(root, tmp_path)
    table.write_text("file_name,text\n../../etc/x.wav,a\n", "utf-8")
    assert "has a text and no recording" in refused(root, tmp_path)


def test_damaged_long_and_silent_recordings_are_named(tmp_path: Path) -> None:
    root = said(tmp_path / "said", 3)
    (root / "0.wav").write_bytes((root / "0.wav").read_bytes()[:30])
    record(root / "1.wav", 1, seconds=31)
    (root / "2.wav").write_bytes(wav(np.zeros(SAMPLE_RATE, np.float32)))
    told = refused(root, tmp_path)
    assert "0.wav is damaged, or no recording" in told
    assert "1.wav is 0:00:31 or longer; at most 0:00:30 can be heard at once" in told
    assert "2.wav is silent" in told


def test_too_few_and_contradictions_are_refused(tmp_path: Path) -> None:
    assert "has only one recording, 0.wav" in refused(said(tmp_path / "one", 1), tmp_path)
    root = said(tmp_path / "said", 3)
    say(root / "other.wav", "Something else.", 0)
    assert "are the same recording with two texts" in refused(root, tmp_path)
    (tmp_path / "none").mkdir()
    assert "holds no recordings with texts" in refused(tmp_path / "none", tmp_path)
    assert "does not exist; give a folder of recordings" in refused(tmp_path / "gone", tmp_path)
    assert "is no folder; give a folder of recordings" in refused("hub:a/b", tmp_path)
