"""Tiny models of every architecture are exported, and what is written is as its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from gguf import GGUFReader
from tiny_adapters import save_adapter
from tiny_exports import MODELS, failed, run_export, save_model, text_card, told

from multimodal.errors import JobError
from multimodal.studio.export.certificate import digests

LIKE_LLAMA = ("mistral",)
"""What a GGUF file calls llama as well."""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.thorough] if kind in LIKE_LLAMA else [])
        for kind in MODELS
    ],
)
def test_each_architecture_is_written_as_gguf_in_full_width_and_in_eight_bits(
    tmp_path: Path, kind: str
) -> None:
    card = text_card(save_model(tmp_path / "model", kind))
    certificate = run_export(card, tmp_path / "model", tmp_path, "gguf", "f32", "q8_0")
    assert certificate.is_passed, told(certificate)
    names = [(check.file, check.name) for check in certificate.checks]
    assert ("tiny-f32.gguf", "greedy tokens") in names
    assert ("tiny-q8_0.gguf", "divergence") in names
    assert ("tiny-q8_0.gguf", "greedy tokens") not in names, "no rounded weight is held to that"


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_each_kind_of_folder_is_written_as_safetensors(tmp_path: Path, kind: str) -> None:
    card = text_card(save_model(tmp_path / "model", kind))
    certificate = run_export(card, tmp_path / "model", tmp_path, "safetensors", "source")
    assert certificate.is_passed, told(certificate)
    assert certificate.quantizations == ("f32",)
    out = tmp_path / "out"
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == 3
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template
    listed = dict(certificate.files)
    assert listed == {k: v for k, v in digests(out).items() if k != "certificate.json"}


@pytest.mark.parametrize("family", ["headers", "brackets"])
def test_other_tokenizers_and_templates_are_read_alike(tmp_path: Path, family: str) -> None:
    """Those of Llama 3, and the pieces of Llama 2 and Mistral."""
    card = text_card(save_model(tmp_path / "model", "llama", family))
    certificate = run_export(card, tmp_path / "model", tmp_path, "gguf", "f16")
    assert certificate.is_passed, told(certificate)


@pytest.mark.slow
def test_every_type_of_a_gguf_file_is_written_from_one_load(tmp_path: Path) -> None:
    card = text_card(save_model(tmp_path / "model", "llama"))
    kinds = ("bf16", "q5_0", "q5_1", "q4_0", "q4_1")
    certificate = run_export(card, tmp_path / "model", tmp_path, "gguf", *kinds)
    assert failed(certificate) <= {"divergence", "most likely token"}, told(certificate)
    for kind in kinds:
        types = {
            tensor.name: tensor.tensor_type.name
            for tensor in GGUFReader(tmp_path / "out" / f"tiny-{kind}.gguf").tensors
        }
        assert types["blk.0.ffn_up.weight"] == kind.upper()
        assert types["token_embd.weight"] == ("BF16" if kind == "bf16" else "Q8_0")
        assert types["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.slow
def test_an_adapter_is_merged_in_full_width(tmp_path: Path) -> None:
    config = save_model(tmp_path / "model", "llama")
    adapter = save_adapter(tmp_path / "adapter", config, std=0.1)
    card = text_card(config)
    for format, kind in (("safetensors", "source"), ("gguf", "f32")):
        folder = tmp_path / format
        certificate = run_export(card, tmp_path / "model", folder, format, kind, adapter=adapter)
        assert certificate.is_passed, told(certificate)
        assert certificate.adapter == "adapter"
    plain, merged = (
        transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "model", tmp_path / "safetensors" / "out")
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(plain[name], merged[name], atol=1e-3)


def test_what_is_stored_in_sixteen_bits_stays_so(tmp_path: Path) -> None:
    card = text_card(save_model(tmp_path / "model", "llama"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    certificate = run_export(card, tmp_path / "model", tmp_path, "safetensors", "source")
    assert certificate.is_passed, told(certificate)
    assert certificate.quantizations == ("bf16",)
    assert "greedy tokens" in {check.name for check in certificate.checks}
    assert json.loads((tmp_path / "out/config.json").read_text("utf-8"))["dtype"] == "bfloat16"


def test_an_architecture_that_gguf_has_no_layout_for_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "phi", "vocab_size": 600}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(JobError, match=r"of the kind 'phi' cannot be written as GGUF.*qwen3"):
        run_export(text_card(config), tmp_path / "model", tmp_path, "gguf", "f16")
    assert list((tmp_path / "out").iterdir()) == []
