"""SmolLM2-135M from its GGUF file comes to prefer short answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_preferences import Row, told
from tiny_recipes import Checkpoint, make_job, run_recipe

from multimodal.catalog.cards import Catalog
from multimodal.studio.recipes.dpo import DpoRecipe

CARD = "smollm2-135m-instruct"
CAPITALS = (
    "France Paris, Italy Rome, Spain Madrid, Austria Vienna, Greece Athens, Norway Oslo, "
    "Sweden Stockholm, Finland Helsinki, Poland Warsaw, Hungary Budapest, Ireland Dublin, "
    "Portugal Lisbon, Japan Tokyo, Egypt Cairo, Kenya Nairobi, Peru Lima, Chile Santiago, "
    "Cuba Havana, Canada Ottawa, Russia Moscow, Iran Tehran, Iraq Baghdad, Turkey Ankara, "
    "Ghana Accra, Nepal Kathmandu, Belgium Brussels, Denmark Copenhagen, Thailand Bangkok"
)


def capitals() -> list[Row]:
    """Chats: the city alone is preferred to a sentence about it."""
    found = []
    for country, city in (each.split() for each in CAPITALS.split(", ")):
        question = f"What is the capital of {country}?"
        long = f"The capital of {country} is {city}. It is a large city with a long history."
        found.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": f"{city}."}],
                "rejected": [{"role": "assistant", "content": long}],
            }
        )
    return found


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_model_prefers_held_out_short_answers_once_it_was_taught(
    tmp_path: Path, catalog: Catalog, weights_of: Callable[[str], Path]
) -> None:
    checkpoint, rows = Checkpoint(catalog.card(CARD), weights_of(CARD)), capitals()
    job = make_job(
        tmp_path / "job",
        checkpoint,
        rows[:12],
        rows[12:20],
        method="dpo",
        epochs=2,
        accumulation=1,
        learning_rate=None,
        lora_rank=16,
        answer_tokens=16,
    )
    report = run_recipe(DpoRecipe(job))
    assert report.passed, report.verdict
    rewards = told(job, "eval_rewards/margins")
    assert 0 < rewards[0] < rewards[-1]
    assert report.forgetting is not None
    assert report.forgetting.value < 1.1
