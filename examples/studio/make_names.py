"""Recordings of twenty made-up names, spoken by espeak-ng, to teach a speech recognizer.

    python examples/studio/make_names.py names
    multimodal finetune --method transcribe --name names --model whisper-base --data names \\
      --language en --trained-weights decoder --epochs 2 --batch 8 --accumulation 1 \\
      --learning-rate 0.00005

Needs the program espeak-ng. It writes `names/train` (twelve sentences with each name) and
`names/test` (two others with each), in five voices, each with its metadata.csv: 280 recordings of
two to four seconds, 32 MB.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = (
    "Velmora", "Quillandre", "Tsorvek", "Ysabrin", "Morthwaine", "Kaelusha", "Brindovar",
    "Zephilant", "Orquenta", "Haldrisse", "Phaedrunn", "Wexomir", "Jorvalise", "Cthandra",
    "Elmithorne", "Rhuzalka", "Dovrenne", "Xanthiel", "Gwendrake", "Ulovary",
)  # fmt: skip
LEARNED = (
    "Please send the letter to {} today.",
    "I met {} at the station this morning.",
    "{} asked for another cup of tea.",
    "The keys belong to {} and not to me.",
    "Have you heard from {} since Monday?",
    "We will wait for {} until five.",
    "Last year {} wrote a book about the sea.",
    "Tell {} that dinner is ready.",
    "Nobody has seen {} since last week.",
    "My brother and {} bought a house by the river.",
    "Where does {} work now?",
    "She told {} everything about the journey.",
)
HELD_OUT = (
    "In the evening {} painted the old boat.",
    "Nobody knows where {} is living now.",
)
VOICES = ("en-us", "en-gb", "en-gb-x-rp", "en-us+f2", "en-us+m3")
SPEEDS = (120, 130, 140, 150)
"""Words a minute."""
PITCHES = (35, 45, 55, 65)


def write_split(program: str, folder: Path, sentences: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    for which, name in enumerate(NAMES):
        for number, sentence in enumerate(sentences):
            at = which + number
            file, text = f"{name.lower()}-{number}.wav", sentence.format(name)
            voice, pitch = VOICES[at % len(VOICES)], PITCHES[(which + 2 * number) % 4]
            spoken = [program, "-v", voice, "-s", str(SPEEDS[at % 4]), "-p", str(pitch)]
            spoken += ["-w", str(folder / file), text]
            subprocess.run(spoken, check=True)  # noqa: S603
            rows.append((file, text))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([("file_name", "text"), *rows])


def main() -> None:
    program = shutil.which("espeak-ng")
    if program is None or len(sys.argv) != 2:
        raise SystemExit("Install espeak-ng, and name the folder that is to be written.")
    root = Path(sys.argv[1])
    write_split(program, root / "train", LEARNED)
    write_split(program, root / "test", HELD_OUT)


if __name__ == "__main__":
    main()
