"""The recipe beside TRL's own script on the same data and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
from datasets import Dataset
from tiny_recipes import USUAL, Checkpoint, losses, make_job, questions, save_untaught, teach
from trl import SFTConfig, SFTTrainer


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("llama"))


def plain_script(checkpoint: Checkpoint, output: Path, method: str) -> list[dict[str, Any]]:
    """As TRL's documentation has it: a model by its path, data of prompts and completions."""
    trainer = SFTTrainer(
        model=str(checkpoint.folder),
        args=SFTConfig(
            output_dir=str(output),
            num_train_epochs=USUAL["epochs"],
            per_device_train_batch_size=USUAL["batch"],
            per_device_eval_batch_size=USUAL["batch"],
            gradient_accumulation_steps=USUAL["accumulation"],
            learning_rate=USUAL["learning_rate"],
            max_length=USUAL["max_length"],
            weight_decay=0.01,
            seed=0,
            logging_steps=1,
            eval_strategy="epoch",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(questions()),
        eval_dataset=Dataset.from_list(questions(12, 100)),
        peft_config=peft.LoraConfig(
            r=USUAL["lora_rank"], lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        if method == "lora"
        else None,
    )
    trainer.train()
    return list(trainer.state.log_history)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_curve_is_that_of_the_script_in_as_many_steps(
    tmp_path: Path, llama: Checkpoint, method: str
) -> None:
    job = make_job(tmp_path / "job", llama, questions(), questions(12, 100), method=method)
    teach(job)
    logs = plain_script(llama, tmp_path / "script", method)
    for name in ("loss", "eval_loss", "grad_norm", "learning_rate"):
        theirs = [log[name] for log in logs if name in log]
        assert losses(job, name) == pytest.approx(theirs, abs=1e-3), name
    assert len(losses(job)) == job.folder.status().steps == 10
