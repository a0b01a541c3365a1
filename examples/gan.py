"""A generative adversarial network learns to write digits, in less than a minute on a CPU.

    pip install -e ".[examples]"
    python examples/gan.py [--epochs 150] [--seed 0] [--out gan.png]

A generator draws a digit of 8 x 8 pixels from noise and the digit that is asked for; a
discriminator is shown real ones, from scikit-learn, and drawn ones, and says which are real
(Goodfellow et al. 2014; conditional on the digit, Mirza and Osindero 2014).

Whether it learned is said by a third party: a nearest-neighbour classifier, which saw real digits
alone, reads what was asked for. Printed is how many of the drawn digits it recognises before the
training and after it, beside how many of real ones that it never saw, and some of those that were
drawn are written into a picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional

SIDE, CLASSES, NOISE = 8, 10, 32
BATCH, RATE = 64, 4e-4
MOMENTS = (0.5, 0.99)
"""Of Adam: less momentum than usual, as Radford et al. (2016) found for such networks."""
SMOOTHED = 0.9
"""What the discriminator is to say of a real digit; less than 1 keeps it from being too sure
(Salimans et al. 2016)."""
EACH = 50
"""Drawn digits of each class that are judged."""


class Generator(nn.Module):
    """From noise (digits, NOISE) and classes (digits,) to pixels in [-1, 1], (digits, SIDE²)."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(CLASSES, NOISE)
        self.layers = nn.Sequential(
            nn.Linear(2 * NOISE, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, SIDE * SIDE),
            nn.Tanh(),
        )

    def forward(self, noise: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.layers(torch.cat([noise, self.classes(classes)], dim=1))
        return pixels


class Discriminator(nn.Module):
    """From pixels and classes to the logit of being real, (digits,)."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(CLASSES, NOISE)
        self.layers = nn.Sequential(
            nn.Linear(SIDE * SIDE + NOISE, 256),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(256, 128),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(128, 1),
        )

    def forward(self, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(torch.cat([pixels, self.classes(classes)], dim=1))
        return logits.squeeze(1)


def read_digits(seed: int) -> tuple[torch.Tensor, ...]:
    """Pixels in [-1, 1] and classes, for learning and held out."""
    digits = load_digits()
    pixels, classes = digits.data.astype(np.float32) / 8 - 1, digits.target
    found = train_test_split(pixels, classes, test_size=0.2, random_state=seed, stratify=classes)
    learned, held_out, learned_classes, held_out_classes = map(torch.as_tensor, found)
    return learned, learned_classes, held_out, held_out_classes


def train(generator: Generator, pixels: torch.Tensor, classes: torch.Tensor, epochs: int) -> None:
    """The generator and a discriminator in turns."""
    discriminator = Discriminator()
    drawing = torch.optim.Adam(generator.parameters(), RATE, MOMENTS)
    judging = torch.optim.Adam(discriminator.parameters(), RATE, MOMENTS)
    for epoch in range(1, epochs + 1):
        for chosen in torch.randperm(len(pixels)).split(BATCH):
            if len(chosen) < 2:  # normalized by a batch, one digit says nothing
                continue
            real, wanted = pixels[chosen], classes[chosen]
            drawn = generator(torch.randn(len(chosen), NOISE), wanted)
            judging.zero_grad()
            loss = _judge(discriminator(real, wanted), SMOOTHED)
            loss = loss + _judge(discriminator(drawn.detach(), wanted), 0)
            loss.backward()
            judging.step()
            drawing.zero_grad()
            missed = _judge(discriminator(drawn, wanted), 1)
            missed.backward()
            drawing.step()
        if epoch % max(1, epochs // 10) == 0:
            print(f"epoch {epoch}: discriminator {loss.item():.2f}, generator {missed.item():.2f}")


def _judge(logits: torch.Tensor, expected: float) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, expected))


@torch.no_grad()
def draw(generator: Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """EACH of every class: pixels and classes."""
    classes = torch.arange(CLASSES).repeat_interleave(EACH)
    generator.eval()
    pixels = generator(torch.randn(len(classes), NOISE), classes)
    generator.train()
    return pixels, classes


def save_sheet(pixels: torch.Tensor, out: Path, rows: int = 8) -> None:
    """A column of each class."""
    shown = pixels.reshape(CLASSES, EACH, SIDE, SIDE)[:, :rows]
    sheet = shown.permute(1, 2, 0, 3).reshape(rows * SIDE, CLASSES * SIDE)
    grey = ((sheet + 1) * 127.5).round().to(torch.uint8).numpy()
    size = (CLASSES * SIDE * 6, rows * SIDE * 6)
    Image.fromarray(grey).resize(size, Image.Resampling.NEAREST).save(out)


def main(arguments: Sequence[str] | None = None) -> float:
    """The share of drawn digits that are recognised at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gan.png"))
    asked = parser.parse_args(arguments)
    torch.manual_seed(asked.seed)
    pixels, classes, held_out, held_out_classes = read_digits(asked.seed)
    reader = KNeighborsClassifier(3).fit(pixels.numpy(), classes.numpy())
    generator = Generator()
    before = reader.score(*(it.numpy() for it in draw(generator)))
    train(generator, pixels, classes, asked.epochs)
    drawn, wanted = draw(generator)
    after = float(reader.score(drawn.numpy(), wanted.numpy()))
    real = reader.score(held_out.numpy(), held_out_classes.numpy())
    save_sheet(drawn, asked.out)
    print(
        f"Of {len(drawn)} drawn digits {before:.1%} were recognised before, and {after:.1%} are "
        f"now; of {len(held_out)} real ones {real:.1%}. Drawn into {asked.out}."
    )
    return after


if __name__ == "__main__":
    main()
