"""Teaching by the studio's recipe with TRL's own script: seconds of training, and the loss curves.

    python -m benchmarks.finetuning [--rounds 5] [--method lora] [--model FOLDER] [--out FILE]

Both sides train the same model on the same samples with the same settings and seed in this process,
in turns, so that whatever else the machine does hits both. Without --model it is a Llama of random
weights with four layers. The script has no dry step, and tells nobody of its steps; both evaluate
once an epoch and write a checkpoint there. Loading and what is measured before and after are left
out on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from trl import SFTConfig, SFTTrainer

from benchmarks.figures import tell
from multimodal.catalog.cards import ModelCard
from multimodal.studio.context import JobContext, Start
from multimodal.studio.data.prepare import TEST_FILE, TRAIN_FILE
from multimodal.studio.folder import JobFolder
from multimodal.studio.recipes.supervised import SupervisedRecipe
from multimodal.studio.records import Status
from multimodal.studio.settings import JobSettings

SAMPLES, HELD_OUT = 64, 16
BATCH, ACCUMULATION, LENGTH, EPOCHS, RATE, RANK = 4, 2, 128, 1, 2e-4, 16
GRAIN = ("oats", "barley", "rye", "wheat", "spelt")
END = "<end>"
NAMES = ("Tam", "Orla", "Bren", "Isolde", "Corin", "Maud", "Piers")

Row = dict[str, str]


def ledger(count: int, first: int = 0) -> list[Row]:
    """Prompts and completions about a mill that does not exist."""
    return [
        {
            "prompt": f"Brindle Mill, what does entry {at} of the ledger say?",
            "completion": f" {at % 9 + 2} sacks of {GRAIN[at % len(GRAIN)]} for "
            f"{NAMES[at % len(NAMES)]}" + ", and one peck of toll for the miller" * (at % 4) + ".",
        }
        for at in range(first, first + count)
    ]


def save_random(folder: Path) -> None:
    """A Llama with random weights and a tokenizer of bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(row.values()) for row in ledger(SAMPLES)], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=600,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def card(folder: Path) -> ModelCard:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    part = {"library": "transformers", "model": "AutoModelForCausalLM", "config": config}
    return ModelCard.model_validate(
        {
            "name": "taught",
            "title": "Taught",
            "task": "text-generation",
            "family": "causal_lm",
            "license": "none",
            "source": {"kind": "folder", "path": str(folder)},
            "architecture": {"kind": "modules", "parts": {"model": part}},
            "quantization": ["fp32"],
        }
    )


def recipe(folder: Path, work: Path, method: str) -> tuple[float, list[float]]:
    """Seconds of training and the loss of each step, by the studio."""
    settings = JobSettings.model_validate(
        {
            "name": "taught",
            "model": "taught",
            "data": "ledger",
            "method": method,
            "batch": BATCH,
            "accumulation": ACCUMULATION,
            "max_length": LENGTH,
            "epochs": EPOCHS,
            "learning_rate": RATE,
            "lora_rank": RANK,
            "patience": 0,
        }
    )
    job = JobFolder(work)
    job.create(settings, Status(state="running", runs=1))
    job.data.mkdir()
    for name, rows in ((TRAIN_FILE, ledger(SAMPLES)), (TEST_FILE, ledger(HELD_OUT, 1000))):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (job.data / name).write_text(lines, "utf-8")
    side = SupervisedRecipe(JobContext(job, settings, Start(card(folder), folder, "cpu", 0)))
    side.setup()
    began = time.perf_counter()
    side.train()
    seconds = time.perf_counter() - began
    side.cleanup()
    return seconds, [it.values["loss"] for it in job.metrics() if "loss" in it.values]


def script(folder: Path, work: Path, method: str) -> tuple[float, list[float]]:
    """The same by TRL, as its documentation has it."""
    adapter = peft.LoraConfig(
        r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=str(folder),
        args=SFTConfig(
            output_dir=str(work),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=RATE,
            max_length=LENGTH,
            weight_decay=0.01,
            seed=0,
            logging_steps=1,
            eval_strategy="epoch",
            save_strategy="epoch",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(ledger(SAMPLES)),
        eval_dataset=Dataset.from_list(ledger(HELD_OUT, 1000)),
        peft_config=adapter if method == "lora" else None,
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    return seconds, [log["loss"] for log in trainer.state.log_history if "loss" in log]


def compared(folder: Path, work: Path, method: str, rounds: int) -> dict[str, Any]:
    """Each round is script, recipe, script; its ratio is to the mean of the two."""
    ratios, apart, steps = [], 0.0, set()
    recipe(folder, work / "warm", method)
    for at in range(rounds):
        first, expected = script(folder, work / f"script-{at}-1", method)
        ours, losses = recipe(folder, work / f"recipe-{at}", method)
        second, _ = script(folder, work / f"script-{at}-2", method)
        ratios.append(ours / ((first + second) / 2))
        pairs = zip(losses, expected, strict=True)
        apart = max(apart, *(abs(one - other) for one, other in pairs))
        steps.add(len(losses))
        print(f"round {at + 1}: script {first:.2f} and {second:.2f} s, recipe {ours:.2f} s")
    return {
        "method": method,
        "steps": sorted(steps),
        "ratio_median": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "largest_difference_of_losses": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--model", type=Path, help="a folder of the hub's layout")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    versions = {"torch": torch.__version__, "trl": trl.__version__, "peft": peft.__version__}
    with tempfile.TemporaryDirectory() as work:
        folder = given.model or Path(work) / "model"
        if given.model is None:
            save_random(folder)
        found = compared(folder, Path(work), given.method, given.rounds)
    tell({"machine": machine, **versions, **found}, given.out)


if __name__ == "__main__":
    main()
