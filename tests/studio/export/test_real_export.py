"""SmolLM2 as it is shipped, a GGUF file of four bits, with an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader
from tiny_adapters import save_adapter
from tiny_exports import run_export, told

from multimodal.catalog.cards import Catalog

SMOLLM = "smollm2-135m-instruct"


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("format", "kinds"), [("ollama", ("q8_0",)), ("onnx", ("f32",))])
def test_a_real_model_with_an_adapter_is_as_its_source(
    weights_of: Callable[[str], Path],
    catalog: Catalog,
    tmp_path: Path,
    format: str,
    kinds: tuple[str, ...],
) -> None:
    card, files = catalog.card(SMOLLM), weights_of(SMOLLM)
    config = dict(getattr(card.architecture, "config", {}))
    adapter = save_adapter(tmp_path / "adapter", config, std=0.02, r=8)
    certificate = run_export(card, files, tmp_path, format, *kinds, adapter=adapter)
    assert certificate.is_passed, told(certificate)
    if format != "ollama":
        return
    base, made = (
        GGUFReader(path).fields
        for path in (files / "model.gguf", tmp_path / "out" / f"{SMOLLM}-q8_0.gguf")
    )
    taken_over = [name for name in base if name.startswith(("llama.", "tokenizer."))]
    assert len(taken_over) > 15
    for name in taken_over:
        assert made[name].contents() == base[name].contents(), name
    text = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert f'SYSTEM """{card.system_prompt}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
