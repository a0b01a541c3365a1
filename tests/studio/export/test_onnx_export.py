"""Models are exported in ONNX, each as its source, and one that is broken on purpose is found."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli_w
import transformers
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession
from tiny_adapters import save_adapter
from tiny_classifiers import CONFIGS, LABELS, classifier_card, save_classifier
from tiny_exports import failed, run_export, save_model, text_card, told

from multimodal.backends.onnx.layout import MODEL
from multimodal.catalog.cards import ModelCard
from multimodal.errors import ConfigurationError, JobError
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Task
from multimodal.studio.export.formats import FORMATS, WrittenFile, formats_for
from multimodal.studio.export.onnx_card import CARD, read_exported_card
from multimodal.studio.export.plan import Certificate
from multimodal.studio.recipes import check_packages

Spoil = Callable[[Path], None]


def certify(folder: Path, card: ModelCard, kind: str = "f32", **more: Any) -> Certificate:
    return run_export(card, folder / "model", folder, "onnx", kind, **more)


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {}),
        ("gemma2", {"sliding_window": 16, "tie_word_embeddings": True}),
    ],
)
def test_each_architecture_is_as_its_source(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """One of them with a window that is shorter than the texts which are compared."""
    card = text_card(save_model(tmp_path / "model", kind, **changes))
    certificate = certify(tmp_path, card)
    assert certificate.is_passed, told(certificate)
    names = {check.name for check in certificate.checks}
    assert names == {
        *("greedy tokens", "divergence", "most likely token"),
        *("tokens of texts", "chat template", "end tokens"),
    }
    (latency,) = certificate.latencies
    assert latency.unit == "token"
    assert latency.source_ms > 0 < latency.export_ms
    out = tmp_path / "out"
    assert set(certificate.files) == {it.name for it in out.iterdir()} - {"certificate.json"}
    onnx.checker.check_model(out / MODEL)
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == 3


@pytest.mark.slow
def test_an_adapter_is_merged_and_half_the_width_takes_half_the_bytes(tmp_path: Path) -> None:
    config = save_model(tmp_path / "model", "llama")
    adapter = save_adapter(tmp_path / "adapter", config, std=0.1)
    taught = {"name": "taught", "base_model": "tiny", "adapter": adapter}
    card = text_card(config).model_copy(update=taught)
    certificate = certify(tmp_path, card, "f16", adapter=adapter)
    assert certificate.is_passed, told(certificate)
    out = tmp_path / "out"
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    parameters = sum(one.numel() for one in model.parameters())
    assert (out / f"{MODEL}.data").stat().st_size == pytest.approx(2 * parameters, rel=0.1)
    made = read_exported_card(out)
    assert (made.name, made.base_model, made.quantization) == ("taught-onnx", "tiny", ("fp16",))
    assert made.adapter is None, "it is in the weights"
    held = footprint(made).weights - (out / MODEL).stat().st_size
    assert held == pytest.approx(4 * parameters, rel=0.1), "they are held in 32 bits"
    assert any("half as large" in notice for notice in certificate.notices)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_a_classifier_is_as_its_source(tmp_path: Path, family: str, format: str) -> None:
    card = classifier_card(save_classifier(tmp_path / "model", family))
    kind = FORMATS[format].usual
    certificate = run_export(card, tmp_path / "model", tmp_path, format, kind)
    assert certificate.is_passed, told(certificate)
    names = [check.name for check in certificate.checks]
    assert names == ["probabilities", "likeliest class", "classes", "prepared pictures"]
    assert certificate.latencies[0].unit == "picture"
    if format == "onnx":
        session = InferenceSession(tmp_path / "out" / MODEL)
        pixels = np.zeros((3, 3, 32, 32), np.float32)
        (logits,) = session.run(None, {"pixel_values": pixels})
        assert np.asarray(logits).shape == (3, len(LABELS)), "several pictures at once"


# ---------------------------------------------------------------- what is broken


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, tuple[ModelCard, Path]]:
    """An export of a text model and of a classifier that passed, each below its folder."""
    found = {}
    for task in (Task.TEXT, Task.IMAGE):
        folder = tmp_path_factory.mktemp(task.name.lower())
        if task is Task.TEXT:
            card = text_card(save_model(folder / "model", "llama"))
        else:
            card = classifier_card(save_classifier(folder / "model", "vit"))
        certificate = certify(folder, card)
        assert certificate.is_passed, told(certificate)
        found[task] = card, folder
    return found


def spoilt(folder: Path, card: ModelCard, source: Path, spoil: Spoil) -> Certificate:
    """Of what was written into `source` once, which `spoil` changes before it is compared."""
    exporter = FORMATS["onnx"].make(card.task)

    def write(_source: Any, kind: str, out: Path, _name: str) -> WrittenFile:
        shutil.copytree(source / "out", out, dirs_exist_ok=True)
        spoil(out)
        return WrittenFile(out, kind)

    exporter.write = write  # type: ignore[method-assign]
    files = source / "model"
    return run_export(card, files, folder, "onnx", "f32", exporter=lambda: exporter)


def change_graph(out: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(out / MODEL)
    change(model)
    (out / f"{MODEL}.data").unlink()
    onnx.save(model, out / MODEL, save_as_external_data=True, location=f"{MODEL}.data")


def swap_layers(out: Path) -> None:
    """The cache of each layer goes into the other one."""

    def change(model: onnx.ModelProto) -> None:
        for one in model.graph.input:
            if one.name.startswith("past_key_values"):
                _, layer, part = one.name.split(".")
                rename(model, one.name, f"swapped.{1 - int(layer)}.{part}")
        for one in model.graph.input:
            rename(model, one.name, one.name.replace("swapped", "past_key_values"))

    change_graph(out, change)


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for one in model.graph.input:
        one.name = new if one.name == old else one.name
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = new if name == old else name


def shift_positions(out: Path) -> None:
    """Every token but those of a prompt is a place further."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for at, name in enumerate(node.input):
                node.input[at] = "later" if name == "position_ids" else name
        one = numpy_helper.from_array(np.array(1, np.int64), "one")
        model.graph.initializer.append(one)
        nodes = [
            helper.make_node("Min", ["position_ids", "one"], ["begun"]),
            helper.make_node("Mul", ["begun", "position_ids"], ["scaled"]),
            helper.make_node("Add", ["scaled", "begun"], ["later"]),
        ]
        for at, node in enumerate(nodes):
            model.graph.node.insert(at, node)

    change_graph(out, change)


def change_end(out: Path) -> None:
    path = out / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "eos_token_id": 0}), "utf-8")


def change_template(out: Path) -> None:
    path = out / "chat_template.jinja"
    text = path.read_text("utf-8")
    assert "<|im_start|>assistant" in text
    path.write_text(text.replace("<|im_start|>assistant", "<|im_start|>model"), "utf-8")


def swap_labels(out: Path) -> None:
    path = out / "config.json"
    config = json.loads(path.read_text("utf-8"))
    names = config["id2label"]
    config["id2label"] = {**names, "0": names["1"], "1": names["0"]}
    path.write_text(json.dumps(config), "utf-8")


def change_mean(out: Path) -> None:
    path = out / "preprocessor_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "image_mean": [0.1, 0.2, 0.3]}), "utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (swap_layers, "greedy tokens"),
        (shift_positions, "divergence"),
        (change_end, "end tokens"),
        (change_template, "chat template"),
    ],
)
def test_each_fault_of_a_text_model_is_found(
    written: dict[Task, tuple[ModelCard, Path]], tmp_path: Path, spoil: Spoil, found: str
) -> None:
    certificate = spoilt(tmp_path, *written[Task.TEXT], spoil)
    assert found in failed(certificate), told(certificate)


@pytest.mark.parametrize(
    ("spoil", "found"), [(swap_labels, {"classes"}), (change_mean, {"prepared pictures"})]
)
def test_each_fault_of_a_classifier_is_found(
    written: dict[Task, tuple[ModelCard, Path]], tmp_path: Path, spoil: Spoil, found: set[str]
) -> None:
    certificate = spoilt(tmp_path, *written[Task.IMAGE], spoil)
    assert found <= failed(certificate), told(certificate)


# ---------------------------------------------------------------- what is refused


def test_a_model_with_other_states_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("mamba", num_hidden_layers=1, hidden_size=32)
    config.save_pretrained(tmp_path / "model")
    card = text_card({"model_type": "mamba"})
    with pytest.raises(JobError, match=r"'mamba' models keep other states.*as safetensors"):
        run_export(card, tmp_path / "model", tmp_path, "onnx", "f32")


def test_what_is_missing_is_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"needs xyzzy, which .*multimodal-chat\[studio\]"):
        check_packages(("xyzzy", "torch"))
    check_packages(FORMATS["onnx"].packages)
    assert set(formats_for(Task.IMAGE)) == {"safetensors", "onnx"}


def test_a_folder_without_a_card_of_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=rf"There is no {CARD} in"):
        read_exported_card(tmp_path)
    (tmp_path / CARD).write_text('name = "tiny"\ntask = "text-generation"\n', "utf-8")
    with pytest.raises(JobError, match=rf"{CARD}: the field '\w+' is missing"):
        read_exported_card(tmp_path)
    card = text_card({"model_type": "llama"})
    facts = card.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    (tmp_path / CARD).write_text(tomli_w.dumps(facts), "utf-8")
    with pytest.raises(JobError, match="holds no model in ONNX"):
        read_exported_card(tmp_path)
    assert tomllib.loads((tmp_path / CARD).read_text("utf-8"))["family"] == "causal_lm"
