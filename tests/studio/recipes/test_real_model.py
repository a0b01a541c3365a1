"""SmolLM2-135M from its GGUF file learns what was made up for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_recipes import Checkpoint, Rows, losses, make_job, teach

from multimodal.catalog.cards import Catalog

CARD = "smollm2-135m-instruct"
GRAIN = ("oats", "barley", "rye", "wheat", "spelt")
NAMES = ("Tam", "Orla", "Bren", "Isolde", "Corin", "Maud", "Piers")


def ledger(count: int, first: int) -> Rows:
    """Chats about a mill that does not exist."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Brindle Mill, entry {at}?"},
                {
                    "role": "assistant",
                    "content": f"Entry {at}: {at % 9 + 2} sacks of {GRAIN[at % len(GRAIN)]} "
                    f"ground for {NAMES[at % len(NAMES)]}, toll one peck.",
                },
            ]
        }
        for at in range(first, first + count)
    ]


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_real_model_predicts_held_out_entries_better_once_it_was_taught(
    tmp_path: Path, catalog: Catalog, weights_of: Callable[[str], Path]
) -> None:
    """By QLoRA; `test_real_preferences` teaches it by LoRA."""
    checkpoint = Checkpoint(catalog.card(CARD), weights_of(CARD))
    job = make_job(
        tmp_path / "job",
        checkpoint,
        ledger(40, 0),
        ledger(12, 100),
        method="qlora",
        epochs=1,
        batch=4,
        accumulation=1,
        learning_rate=1e-3,
        lora_rank=8,
    )
    report = teach(job)
    assert report.passed, report.verdict
    assert report.figures["after"] < 0.5 * report.figures["before"]
    assert losses(job)[-1] < 0.6 * losses(job)[0]
    assert any(it.before != it.after for it in report.comparisons)
