"""Whisper is exported in ONNX as its source, and one that is broken on purpose is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import tiny_onnx
from tiny_transcribe import make_job, save_tones

from multimodal.backends.onnx.layout import ENCODER, MODEL
from multimodal.errors import BackendError
from multimodal.messages import Task
from multimodal.studio.export.formats import FORMATS, WrittenFile
from multimodal.studio.export.onnx_card import read_exported_card
from multimodal.studio.export.plan import read_certificate
from multimodal.studio.export.speech_source import (
    SpeechReference,
    compare_speech,
    load_speech_source,
    measure_speech,
)

CHECKS = {
    *("spectra", "keys and values of the sound", "divergence", "most likely token"),
    *("written tokens", "tokens that are no words", "tokens of texts"),
}
Spoil = Callable[[Path], None]


@pytest.fixture(scope="module")
def exported() -> Path:
    return tiny_onnx.exported_whisper()[1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> SpeechReference:
    folder = tmp_path_factory.mktemp("job")
    card, _ = tiny_onnx.exported_whisper()
    job = make_job(folder / "job", save_tones(folder / "data", 4, 2), card)
    return measure_speech(load_speech_source(job, card))


def found(folder: Path, reference: SpeechReference) -> set[str]:
    """The checks that the export in `folder` fails."""
    exporter = FORMATS["onnx"].make(Task.SPEECH)
    opened = exporter.open(WrittenFile(folder, "f32"))
    return {it.name for it in compare_speech(opened, reference, "f32", "it") if not it.is_passed}


def test_it_is_as_its_source_and_has_a_card(exported: Path, reference: SpeechReference) -> None:
    out = exported / "out"
    certificate = read_certificate(out)
    assert certificate is not None
    assert certificate.is_passed
    assert {check.name for check in certificate.checks} == CHECKS
    (latency,) = certificate.latencies
    assert latency.unit == "recording of 5 s with 24 tokens"
    assert set(certificate.files) == {it.name for it in out.iterdir()} - {"certificate.json"}
    for graph in (ENCODER, MODEL):
        onnx.checker.check_model(out / graph)
    inputs = {one.name for one in onnx.load(out / ENCODER, load_external_data=False).graph.input}
    assert inputs == {"input_features"}, "nothing of the decoder's words is left in it"
    card = read_exported_card(out)
    assert (card.family, card.task, card.languages) == ("onnx_whisper", Task.SPEECH, ("en", "de"))
    assert card.name == "tiny-openai-whisper-onnx"
    assert len({it.prompt for it in reference.heard}) == 3, "in two languages, of two tasks"
    assert found(out, reference) == set()


def change_graph(out: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(out / name)
    change(model)
    (out / f"{name}.data").unlink()
    onnx.save(model, out / name, save_as_external_data=True, location=f"{name}.data")


def swap_sound_of_layers(out: Path) -> None:
    """What a layer looks at of the sound goes into the other one, already in the encoder."""
    _swap_outputs(out, ENCODER, "present.{}.encoder.key")


def swap_words_of_layers(out: Path) -> None:
    """The cache of each layer comes out as the other one's."""
    _swap_outputs(out, MODEL, "present.{}.decoder.value")


def _swap_outputs(out: Path, name: str, output: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        first, second = output.format(0), output.format(1)
        swapped = {first: second, second: first}
        for node in model.graph.node:
            for names in (node.input, node.output):
                for at, one in enumerate(names):
                    names[at] = swapped.get(one, one)
        made = {one.name: one for one in model.graph.output}
        types = {it: onnx.TypeProto() for it in swapped}
        for it, other in swapped.items():
            types[it].CopyFrom(made[other].type)
        for it, kind in types.items():
            made[it].type.CopyFrom(kind)

    change_graph(out, name, change)


def forget_suppressed(out: Path) -> None:
    _rewrite(out / "generation_config.json", suppress_tokens=[])


def swap_languages(out: Path) -> None:
    path = out / "generation_config.json"
    named = json.loads(path.read_text("utf-8"))["lang_to_id"]
    _rewrite(path, lang_to_id={**named, "<|en|>": named["<|de|>"], "<|de|>": named["<|en|>"]})


def widen_frames(out: Path) -> None:
    """Spectra of as many frames and bands, each of a longer piece."""
    _rewrite(out / "preprocessor_config.json", n_fft=512)


def _rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "fails"),
    [
        (swap_sound_of_layers, "keys and values of the sound"),
        (swap_words_of_layers, "divergence"),
        (forget_suppressed, "tokens that are no words"),
        (swap_languages, "tokens that are no words"),
        (widen_frames, "spectra"),
    ],
)
def test_each_fault_is_found(
    exported: Path, reference: SpeechReference, tmp_path: Path, spoil: Spoil, fails: str
) -> None:
    out = Path(shutil.copytree(exported / "out", tmp_path / "out"))
    spoil(out)
    assert fails in found(out, reference)


def test_a_folder_without_its_encoder_is_one_sentence(exported: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported / "out", tmp_path / "out"))
    (out / ENCODER).unlink()
    with pytest.raises(BackendError, match=f"there is no {ENCODER} in"):
        FORMATS["onnx"].make(Task.SPEECH).open(WrittenFile(out, "f32"))
