"""Models are loaded for training from folders and GGUF files, with what an earlier job taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_gguf import LANGUAGE_FILE, write_language
from tiny_models import CHATML, hub_card
from tiny_recipes import Checkpoint, lines, make_job, questions, save_untaught, teach

from multimodal.errors import RequestError
from multimodal.studio.context import JobContext
from multimodal.studio.recipes.base_model import BaseModel, load_base

WORDS = torch.arange(4, 24)[None]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_untaught(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gguf(llama: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The same weights as llama.cpp reads them."""
    folder = tmp_path_factory.mktemp("gguf")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(llama.folder)
    renamed = {
        name.replace("model.", "model.language_model.", 1): tensor.numpy()
        for name, tensor in model.state_dict().items()
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama.folder)
    write_language(folder / LANGUAGE_FILE, model.config, renamed, tokenizer)
    card = hub_card(
        "llama_cpp",
        "AutoModelForCausalLM",
        {},
        architecture={"kind": "measured", "weights_bytes": 1_000_000},
        quantization=(),
    )
    return Checkpoint(card, folder)


def job_of(folder: Path, checkpoint: Checkpoint, **settings: Any) -> JobContext:
    return make_job(folder, checkpoint, lines(4), lines(4), **settings)


def logits(base: BaseModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = base.model.eval()(input_ids=WORDS).logits
    return found.float()


def test_model_of_a_gguf_file_is_that_of_its_folder_and_can_be_trained_and_saved(
    tmp_path: Path, llama: Checkpoint, gguf: Checkpoint
) -> None:
    plain = load_base(job_of(tmp_path / "plain", llama, method="full"))
    unpacked = load_base(job_of(tmp_path / "unpacked", gguf, method="full"))
    torch.testing.assert_close(logits(unpacked), logits(plain), rtol=1e-4, atol=1e-5)
    text = "The river runs to the sea."
    assert unpacked.tokenizer(text)["input_ids"] == plain.tokenizer(text)["input_ids"]
    assert unpacked.tokenizer.chat_template
    report = teach(make_job(tmp_path / "job", gguf, questions(), questions(12, 100), method="full"))
    assert report.passed, report.verdict
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "job" / "result")


def test_four_bit_model_of_a_gguf_file_leaves_no_unpacked_one_behind(
    tmp_path: Path, gguf: Checkpoint
) -> None:
    job = job_of(tmp_path / "job", gguf, method="qlora")
    before = {path.name for path in job.folder.path.iterdir()}
    base = load_base(job)
    kinds = {type(module).__name__ for module in base.model.modules()}
    assert "Linear4bit" in kinds
    assert base.model.hf_quantizer.quantization_config.bnb_4bit_use_double_quant
    assert {path.name for path in job.folder.path.iterdir()} == before


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_what_an_earlier_job_taught_is_merged_before_anything_else(
    tmp_path: Path, llama: Checkpoint, method: str
) -> None:
    first = make_job(tmp_path / "first", llama, questions(), questions(12, 100))
    teach(first)
    again = job_of(tmp_path / "again", llama, method=method)
    without = logits(load_base(again))
    again.start = replace(again.start, adapter=first.folder.result)
    merged = logits(load_base(again))
    assert (merged - without).abs().max() > 0.1


def test_adapter_of_four_bits_is_merged_in_full_width(tmp_path: Path, llama: Checkpoint) -> None:
    first = make_job(tmp_path / "first", llama, questions(), questions(12, 100))
    teach(first)
    found = []
    for method in ("lora", "qlora"):
        job = job_of(tmp_path / method, llama, method=method)
        job.start = replace(job.start, adapter=first.folder.result)
        found.append(logits(load_base(job)))
    difference = (found[0] - found[1]).square().mean().sqrt()
    assert difference < 0.25 * found[0].std()


def test_weights_are_kept_wide_where_they_are_trained(tmp_path: Path, llama: Checkpoint) -> None:
    asked = {"precision": "bf16"}
    full = load_base(job_of(tmp_path / "full", llama, method="full", **asked))
    lora = load_base(job_of(tmp_path / "lora", llama, method="lora", **asked))
    assert (full.model.dtype, lora.model.dtype) == (torch.float32, torch.bfloat16)
    assert full.dtype == lora.dtype == torch.bfloat16


def test_device_without_the_precision_that_was_asked_for_is_told(
    tmp_path: Path, llama: Checkpoint
) -> None:
    job = job_of(tmp_path / "job", llama, method="lora", precision="fp16")
    assert load_base(job).dtype is torch.float32
    told = [it.text for it in job.folder.notices()]
    assert told == ["This device does not compute in fp16; float32 is used instead."]


def test_card_brings_the_template_and_the_tokenizer_a_token_to_pad_with(
    tmp_path: Path, llama: Checkpoint
) -> None:
    gpt2 = save_untaught(tmp_path / "gpt2", "gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2.folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(gpt2.folder)
    job = job_of(tmp_path / "job", gpt2)
    assert load_base(job).tokenizer.chat_template is None
    card = job.start.card.model_copy(update={"chat_template": CHATML})
    job.start = replace(job.start, card=card)
    base = load_base(job)
    assert base.tokenizer.chat_template == CHATML
    assert base.tokenizer.pad_token == base.tokenizer.eos_token


def test_model_that_is_no_text_model_is_refused_in_a_sentence(
    tmp_path: Path, llama: Checkpoint
) -> None:
    job = job_of(tmp_path / "job", llama)
    job.start = replace(job.start, card=job.start.card.model_copy(update={"family": "whisper"}))
    with pytest.raises(RequestError, match="Tiny is no text model"):
        load_base(job)
