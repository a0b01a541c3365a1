"""Write scikit-learn's 1,797 handwritten digits as pictures, in a folder for each.

    pip install -e ".[examples]"
    python examples/studio/digits.py [FOLDER]

They are of 8 x 8 pixels, from the test set of Alpaydin and Kaynak's Optical Recognition of
Handwritten Digits (UCI Machine Learning Repository, CC BY 4.0). Afterwards:

    multimodal finetune --name digits --model resnet-untrained --method classify \\
        --data digits --batch 32 --accumulation 1 --augmentation crops --epochs 10
    multimodal finetune --name drawn-digits --model unet-untrained --method diffusion \\
        --data digits --resolution 16 --batch 64 --accumulation 1 --augmentation none --epochs 60
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
INK = 16
"""The largest value of a pixel."""


def save_digits(folder: Path) -> int:
    """How many there are. Raises OSError."""
    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / NAMES[digit] / f"{number:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / INK)).astype(np.uint8)).save(place)
    return len(digits.target)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("digits"))
    folder = parser.parse_args(arguments).folder
    print(f"{save_digits(folder):,} digits lie in {folder}.")


if __name__ == "__main__":
    main()
