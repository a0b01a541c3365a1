"""Exports that are broken on purpose: the certificate finds each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_exports import failed, run_export, save_model, text_card, told

from multimodal.studio.export.formats import Exporter, WrittenFile
from multimodal.studio.export.gguf_format import GgufExporter
from multimodal.studio.export.ollama_format import OllamaExporter
from multimodal.studio.export.plan import Certificate
from multimodal.studio.export.safetensors_format import SafetensorsExporter
from multimodal.studio.export.source import Source

Change = Callable[[Source], None]
FORMATS: dict[str, tuple[Callable[[], Exporter], str]] = {
    "gguf": (GgufExporter, "f32"),
    "safetensors": (SafetensorsExporter, "source"),
}


def broken(make: Callable[[], Exporter], change: Change) -> Callable[[], Exporter]:
    """An exporter that writes a source which was changed after it was measured."""

    def made() -> Exporter:
        exporter = make()
        write = exporter.write

        def write_changed(source: Source, kind: str, folder: Path, name: str) -> WrittenFile:
            change(source)
            return write(source, kind, folder, name)

        exporter.write = write_changed  # type: ignore[method-assign]
        return exporter

    return made


def certify(folder: Path, format: str, change: Change, kind: str = "llama") -> Certificate:
    card = text_card(save_model(folder / "model", kind))
    make, quantization = FORMATS[format]
    return run_export(
        card, folder / "model", folder, format, quantization, exporter=broken(make, change)
    )


def change_template(source: Source) -> None:
    text = source.tokenizer.chat_template
    source.tokenizer.chat_template = text.replace("<|im_start|>assistant", "<|im_start|>model")


def change_end(source: Source) -> None:
    source.tokenizer.eos_token = "<pad>"
    source.model.generation_config.eos_token_id = 0
    object.__setattr__(source, "end_ids", (0,))


def turn_queries(source: Source) -> None:
    """Rows in llama.cpp's order, which are then laid out for it once more."""
    from multimodal.studio.export.gguf_tensors import in_pairs

    for layer in source.model.model.layers:
        weight = layer.self_attn.q_proj.weight
        weight.data = in_pairs(weight.data, source.config.num_attention_heads)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(change_template, "chat template", id="template"),
        pytest.param(change_end, "end tokens", id="end"),
        pytest.param(turn_queries, "divergence", id="queries"),
    ],
)
def test_each_fault_is_found_and_named(
    tmp_path: Path, format: str, change: Change, found: str
) -> None:
    certificate = certify(tmp_path, format, change)
    assert not certificate.is_passed
    assert found in failed(certificate), told(certificate)
    first = certificate.failed[0]
    assert f"failed “{first.name}”" in certificate.verdict
    assert first.figure in certificate.verdict
    if change is turn_queries:
        assert "greedy tokens" in failed(certificate)


def test_a_head_that_is_written_beside_a_tied_embedding_is_found_in_gguf(tmp_path: Path) -> None:
    class Untied(GgufExporter):
        def write(self, source: Source, kind: str, folder: Path, name: str) -> WrittenFile:
            source.config.tie_word_embeddings = False
            return super().write(source, kind, folder, name)

    card = text_card(save_model(tmp_path / "model", "qwen3"))
    certificate = run_export(card, tmp_path / "model", tmp_path, "gguf", "f32", exporter=Untied)
    assert failed(certificate) == {"embeddings"}, told(certificate)


def test_a_head_of_its_own_that_is_left_out_is_found_in_gguf(tmp_path: Path) -> None:
    class Tied(GgufExporter):
        def write(self, source: Source, kind: str, folder: Path, name: str) -> WrittenFile:
            source.config.tie_word_embeddings = True
            return super().write(source, kind, folder, name)

    card = text_card(save_model(tmp_path / "model", "llama"))
    certificate = run_export(card, tmp_path / "model", tmp_path, "gguf", "f32", exporter=Tied)
    assert {"embeddings", "greedy tokens"} <= failed(certificate), told(certificate)


def test_a_head_that_is_written_beside_a_tied_embedding_is_found_in_safetensors(
    tmp_path: Path,
) -> None:
    class Untied(SafetensorsExporter):
        def write(self, source: Source, kind: str, folder: Path, name: str) -> WrittenFile:
            written = super().write(source, kind, folder, name)
            path = folder / "model.safetensors"
            weights = load_file(path)
            weights["lm_head.weight"] = torch.clone(weights["model.embed_tokens.weight"])
            save_file(weights, path, metadata={"format": "pt"})
            return written

    card = text_card(save_model(tmp_path / "model", "gemma"))
    certificate = run_export(
        card, tmp_path / "model", tmp_path, "safetensors", "source", exporter=Untied
    )
    assert failed(certificate) == {"embeddings"}, told(certificate)


def test_weights_that_were_rounded_otherwise_than_said_are_found(tmp_path: Path) -> None:
    """Four bits under the name of eight."""

    class Coarse(GgufExporter):
        def write(self, source: Source, kind: str, folder: Path, name: str) -> WrittenFile:
            return WrittenFile(super().write(source, "q4_0", folder, name).path, kind)

    card = text_card(save_model(tmp_path / "model", "llama"))
    certificate = run_export(card, tmp_path / "model", tmp_path, "gguf", "q8_0", exporter=Coarse)
    assert "divergence" in failed(certificate), told(certificate)


def test_a_modelfile_with_other_words_is_found(tmp_path: Path) -> None:
    class Wrong(OllamaExporter):
        def finish(self, *given: object) -> list[str]:
            notices = super().finish(*given)  # type: ignore[arg-type]
            for path in self._modelfiles.values():
                text = path.read_text("utf-8")
                text = text.replace("<|im_start|>user", "<|im_start|>person")
                path.write_text(text.replace('PARAMETER stop "<|im_end|>"\n', ""), "utf-8")
            return notices

    card = text_card(save_model(tmp_path / "model", "llama"))
    certificate = run_export(card, tmp_path / "model", tmp_path, "ollama", "f32", exporter=Wrong)
    assert failed(certificate) == {"Ollama template", "Ollama stops"}, told(certificate)


def test_a_modelfile_says_all_that_ollama_needs(tmp_path: Path) -> None:
    sampling = {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.1, "stop": ("END",)}
    card = text_card(
        save_model(tmp_path / "model", "llama"), sampling=sampling, license="Apache-2.0"
    )
    certificate = run_export(card, tmp_path / "model", tmp_path, "ollama", "q8_0", "f16")
    assert certificate.is_passed, told(certificate)
    text = (tmp_path / "out/Modelfile-q8_0").read_text("utf-8")
    assert text.startswith("FROM ./tiny-q8_0.gguf\n")
    for line in (
        'SYSTEM """You help."""',
        "PARAMETER temperature 0.2",
        "PARAMETER top_p 0.9",
        "PARAMETER repeat_penalty 1.1",
        "PARAMETER num_ctx 512",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "END"',
        'LICENSE """Apache-2.0"""',
    ):
        assert f"\n{line}\n" in text
    assert set(certificate.files) == {
        *("Modelfile-f16", "Modelfile-q8_0", "tiny-f16.gguf", "tiny-q8_0.gguf")
    }


def test_a_modelfile_gives_the_words_of_the_system_that_the_card_has(tmp_path: Path) -> None:
    card = text_card(save_model(tmp_path / "model", "llama"), system_prompt="Be brief.")
    certificate = run_export(card, tmp_path / "model", tmp_path, "ollama", "f16")
    assert certificate.is_passed, told(certificate)
    text = (tmp_path / "out/Modelfile").read_text("utf-8")
    assert '\nSYSTEM """Be brief."""\n' in text
    assert "You help." not in text
