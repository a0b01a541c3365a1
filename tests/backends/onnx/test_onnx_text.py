"""A text model in ONNX answers as transformers does with the same weights."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
import torch
import transformers
from text_requests import text_request
from tiny_engines import made_of
from tiny_models import causal_card, causal_config, save_causal

from multimodal.backends.base import Backend, load
from multimodal.backends.compute_device import runs_on_cpu
from multimodal.backends.onnx.causal_lm import OnnxCausalLM
from multimodal.backends.onnx.decoder import Decoder
from multimodal.backends.onnx.layout import MODEL, PIECE_TOKENS
from multimodal.catalog.cards import ModelCard
from multimodal.errors import BackendError, ContextLengthError
from multimodal.events import EngineEvent, Notice, Progress, TextDelta
from multimodal.memory.estimate.footprint import footprint
from multimodal.messages import Sampling, Usage

QUESTION = ("user", "What colour is the car?")
WARM = Sampling(temperature=0.9, top_p=0.8, repeat_penalty=1.2, max_tokens=16, seed=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelCard, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return tiny_onnx.save_onnx_text(folder), folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    """The same weights on transformers."""
    folder = tmp_path_factory.mktemp("source")
    return load(causal_card(save_causal(folder, "llama")), folder, "cpu")


def answer(backend: Backend, *said: tuple[str, str], **more: object) -> list[EngineEvent]:
    return list(backend.run(text_request(said, **more), threading.Event()))


def usage(events: list[EngineEvent]) -> Usage:
    last = events[-1]
    assert isinstance(last, Usage)
    return last


@pytest.mark.parametrize("sampling", [Sampling(), WARM], ids=["greedy", "drawn"])
def test_it_writes_what_transformers_writes(
    exported: tuple[ModelCard, Path], source: Backend, sampling: Sampling
) -> None:
    backend = load(*exported, "cpu")
    ours, theirs = (answer(it, QUESTION, sampling=sampling) for it in (backend, source))
    assert made_of(ours) == made_of(theirs) != []
    assert usage(ours).prompt_tokens == usage(theirs).prompt_tokens
    assert usage(ours).completion_tokens == usage(theirs).completion_tokens
    assert usage(ours).finish == usage(theirs).finish
    backend.close()


def test_what_ends_an_answer_ends_it(exported: tuple[ModelCard, Path]) -> None:
    """Any token is, where generation_config.json says so."""
    card, files = exported
    first = load(card, files, "cpu")
    assert isinstance(first, OnnxCausalLM)
    (word, *_) = [it.text for it in answer(first, QUESTION) if isinstance(it, TextDelta)]
    tokenizer, decoder = transformers.AutoTokenizer.from_pretrained(files), Decoder(files)
    said = [{"role": "user", "content": QUESTION[1]}]
    prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)
    token = int(decoder.read(prompt["input_ids"], decoder.empty())[0][-1].argmax())
    told = transformers.GenerationConfig(eos_token_id=[3, token])
    ended = usage(answer(OnnxCausalLM(card, decoder, tokenizer, told), QUESTION))
    assert (ended.finish, ended.completion_tokens) == ("stop", 1)
    assert usage(answer(first, QUESTION)).completion_tokens > 1
    stopped = answer(first, QUESTION, sampling=Sampling(stop=(word,)))
    assert (usage(stopped).finish, made_of(stopped)) == ("stop", [])


def test_a_long_prompt_is_read_in_pieces_and_its_oldest_turns_go(
    exported: tuple[ModelCard, Path],
) -> None:
    backend = load(*exported, "cpu")
    words = "The quick brown fox jumps over the lazy dog. " * 8
    turns = [("user", words), ("assistant", words)] * 4
    events = answer(backend, *turns, QUESTION)
    read = [it.fraction for it in events if isinstance(it, Progress)]
    assert read == sorted(read)
    assert len(read) == -(-usage(events).prompt_tokens // PIECE_TOKENS) - 1 > 0
    assert any("were left out" in it.text for it in events if isinstance(it, Notice))
    with pytest.raises(ContextLengthError):
        answer(backend, ("user", words * 10))


def test_the_cache_gives_what_one_pass_gives(exported: tuple[ModelCard, Path]) -> None:
    decoder, tokens = Decoder(exported[1]), list(range(5, 45))
    whole, _ = decoder.read(tokens, decoder.empty())
    past, rows = decoder.empty(), []
    for size in (17, 1, 5, 1, 16):
        logits, past = decoder.read(tokens[past.tokens : past.tokens + size], past)
        rows.append(logits)
    assert np.allclose(whole, np.concatenate(rows), atol=1e-4)
    again = decoder.restore([array[:, :, :20] for array in past.arrays()])
    logits, _ = decoder.read(tokens[20:], again)
    assert np.allclose(whole[20:], logits, atol=1e-4)


def test_its_card_states_its_bytes(exported: tuple[ModelCard, Path]) -> None:
    card, files = exported
    weights = sum(path.stat().st_size for path in files.glob(f"{MODEL}*"))
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**causal_config("llama")), dtype=torch.float32
    )
    parameters = sum(one.numel() for one in model.parameters())
    assert footprint(card).weights == weights >= 4 * parameters
    assert footprint(card).total > weights
    assert runs_on_cpu(card)


def test_what_is_no_export_is_refused_in_a_sentence(
    exported: tuple[ModelCard, Path], tmp_path: Path
) -> None:
    card = exported[0]
    with pytest.raises(BackendError, match=r"there is no model\.onnx in"):
        load(card, tmp_path, "cpu")
    (tmp_path / MODEL).write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"ONNX Runtime refuses model\.onnx"):
        load(card, tmp_path, "cpu")
    pictures = tiny_onnx.save_onnx_classifier(tmp_path / "pictures")
    with pytest.raises(BackendError, match="no text model with an attention cache"):
        load(card, tmp_path / "pictures", "cpu")
    assert pictures.family == "onnx_classifier"
