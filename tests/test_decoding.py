"""The ways to decode that a card may ask for: each says what `generate` says."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from tiny_models import CAUSAL, every_causal, hub_card, save_causal
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from multimodal.backends.base import TextRequest, load
from multimodal.backends.causal_lm import CausalLM
from multimodal.backends.cuda_graph import Replay, Work
from multimodal.backends.decoder import COMPILING, Decoder
from multimodal.backends.generation import Reply
from multimodal.backends.lookup import MOST, SHORTEST, Lookup
from multimodal.backends.prefix_cache import empty_cache
from multimodal.backends.static_step import (
    StaticStep,
    can_be_static,
    kept_cache,
    length_for,
    static_cache,
)
from multimodal.errors import CardError
from multimodal.events import Event, Progress, TextDelta, Usage
from multimodal.messages import Role, Sampling

QUESTION: tuple[Role, str] = ("user", "The river runs to the sea. The river runs to the sea.")
LONG = 24
WINDOWED = "mistral"
"""The family whose tiny model attends to its newest tokens only."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    return every_causal(tmp_path_factory)


def model_of(found: tuple[Path, dict[str, Any]], kind: str = "fp32", **engine: Any) -> CausalLM:
    folder, config = found
    card = hub_card("causal_lm", "AutoModelForCausalLM", config, quantization=[kind], engine=engine)
    model = load(card, folder, "cpu")
    assert isinstance(model, CausalLM)
    return model


def ask(
    model: CausalLM, *turns: tuple[Role, str], **sampling: Any
) -> tuple[str, Usage, list[Event]]:
    chosen = Sampling(**{"temperature": 0.0, "max_tokens": LONG, **sampling})
    events = list(model.run(TextRequest(turns, sampling=chosen), threading.Event()))
    assert isinstance(events[-1], Usage)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, events[-1], events


def second(answer: str) -> tuple[tuple[Role, str], ...]:
    return (QUESTION, ("assistant", answer), ("user", "What colour is the car?"))


@pytest.mark.parametrize("kind", ["fp32", "nf4-double"])
@pytest.mark.parametrize("way", ["prompt_lookup", "static_cache"])
@pytest.mark.parametrize("family", CAUSAL)
def test_both_turns_say_what_the_plain_way_says(
    folders: Any, family: str, way: str, kind: str
) -> None:
    plain = model_of(folders[family], kind)
    quick = model_of(folders[family], kind, **{way: True})
    said, _, _ = ask(plain, QUESTION)
    answer, first, _ = ask(quick, QUESTION)
    assert answer == said
    again, usage, _ = ask(quick, *second(answer))
    assert again == ask(plain, *second(answer))[0]
    assert usage.cached_tokens >= first.prompt_tokens, "what was read is not read again"


@pytest.mark.parametrize("way", ["prompt_lookup", "static_cache"])
def test_what_is_drawn_is_the_same_whichever_way(folders: Any, way: str) -> None:
    drawn = {"temperature": 0.7, "top_p": 0.9, "repeat_penalty": 1.1, "seed": 5}
    plain, quick = model_of(folders["llama"]), model_of(folders["llama"], **{way: True})
    assert ask(quick, QUESTION, **drawn)[0] == ask(plain, QUESTION, **drawn)[0]
    assert ask(quick, QUESTION, **drawn | {"seed": 6})[0] != ask(plain, QUESTION, **drawn)[0]


def forgetful(model: CausalLM) -> Any:
    """Its next token hangs on the last one alone, so it soon goes round in a circle."""
    inside: Any = model._model
    for layer in inside.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    return inside


def test_a_reply_that_repeats_itself_takes_fewer_passes_than_tokens(folders: Any) -> None:
    plain, quick = model_of(folders["llama"]), model_of(folders["llama"], prompt_lookup=True)
    forgetful(plain)
    passes: list[int] = []
    forgetful(quick).register_forward_pre_hook(lambda *_: passes.append(1))
    text, usage, _ = ask(quick, QUESTION, max_tokens=200)
    assert text == ask(plain, QUESTION, max_tokens=200)[0]
    assert usage.completion_tokens == 200
    assert len(passes) < 100


@pytest.mark.parametrize("way", ["prompt_lookup", "static_cache"])
@pytest.mark.parametrize("longest", [1, 2, 7])
def test_a_reply_is_never_longer_than_asked(folders: Any, way: str, longest: int) -> None:
    model = model_of(folders["llama"], **{way: True})
    _, usage, _ = ask(model, QUESTION, max_tokens=longest)
    assert usage.completion_tokens <= longest


@pytest.mark.parametrize("way", ["prompt_lookup", "static_cache"])
def test_a_stopped_reply_can_be_gone_on_with(folders: Any, way: str) -> None:
    model = model_of(folders["llama"], **{way: True})
    stop = threading.Event()
    words = []
    request = TextRequest((QUESTION,), sampling=Sampling(temperature=0.0, max_tokens=LONG))
    for event in model.run(request, stop):
        if isinstance(event, TextDelta):
            words.append(event.text)
            stop.set()
        if isinstance(event, Usage):
            assert event.finish == "stopped"
    answer = "".join(words)
    plain = model_of(folders["llama"])
    assert ask(model, *second(answer))[0] == ask(plain, *second(answer))[0]


def test_a_model_with_a_sliding_window_is_decoded_the_plain_way(
    folders: Any, tmp_path: Path
) -> None:
    found = (tmp_path, save_causal(tmp_path, WINDOWED, sliding_window=16))
    said = ask(model_of(found), QUESTION)[0]
    for way in ("static_cache", "prompt_lookup"):
        model = model_of(found, **{way: True})
        assert ask(model, QUESTION)[0] == said
    assert not can_be_static(model._model)


def test_guesses_are_made_on_a_cpu_unless_the_card_says_otherwise(folders: Any) -> None:
    inside: Any = model_of(folders["llama"])._model
    card = hub_card("causal_lm", "AutoModelForCausalLM", folders["llama"][1])
    for engine, expected in (
        ({}, True),
        ({"prompt_lookup": False}, False),
        ({"compile": True}, False),
    ):
        decoder = Decoder(card.model_copy(update={"engine": engine}), inside)
        cache = decoder.cache(inside, empty_cache(inside), 8, 64)
        reply = Reply(model_of(folders["llama"])._tokenizer, (), lambda _: None, lambda: False)
        made = decoder.decoding(inside, cache, reply, [1, 2, 3], lambda _: None)
        assert (made.lookup is not None) == expected


def test_ways_that_exclude_each_other_are_named(folders: Any) -> None:
    with pytest.raises(CardError, match="'prompt_lookup' needs a cache that can be cut"):
        model_of(folders["llama"], prompt_lookup=True, compile=True)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_says_the_same_and_is_compiled_once(folders: Any) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = model_of(folders["llama"], compile=True)
    answer, _, events = ask(model, QUESTION)
    assert events.count(Progress(COMPILING)) == 1
    assert answer == ask(model_of(folders["llama"]), QUESTION)[0]
    again, _, events = ask(model, *second(answer))
    assert Progress(COMPILING) not in events
    assert again == ask(model_of(folders["llama"]), *second(answer))[0]
    assert counters["stats"]["unique_graphs"] == 1
    held = weakref.ref(model._model)
    with uncollected():
        model.close()
        assert held() is None, "what was compiled keeps no model"


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing that lies in a circle is found."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@torch.no_grad()
def test_nothing_of_a_fixed_cache_stays_once_its_turn_is_over(folders: Any) -> None:
    inside: Any = model_of(folders["llama"])._model
    with uncollected():
        cache = static_cache(inside, 64, empty_cache(inside))
        inside(input_ids=torch.tensor([[5, 9]]), past_key_values=cache, use_cache=True)
        keys = weakref.ref(cache.layers[0].keys)
        step = StaticStep(inside, cache, False, Played())
        for place in range(5):
            step(torch.tensor([[4]]), 2 + place)
        del cache, step
        assert keys() is None


class Played:
    """A recorder that notes what is asked of it, and plays a recording by running the work again
    and filling the same tensor."""

    def __init__(self, records: bool = True) -> None:
        self.asked: list[str] = []
        self._records = records

    def beside(self, work: Work) -> torch.Tensor:
        self.asked.append("beside")
        return work()

    def record(self, work: Work) -> Replay | None:
        self.asked.append("record")
        if not self._records:
            return None
        made: list[torch.Tensor] = []
        # What a graph holds is memory, not the step.
        again = weakref.WeakMethod(work)  # type: ignore[arg-type]

        def replay() -> torch.Tensor:
            self.asked.append("replay")
            run = again()
            assert run is not None
            new = run()
            made[:] = [made[0].copy_(new) if made else new]
            return made[0]

        return replay


@pytest.mark.parametrize("records", [True, False])
@torch.no_grad()
def test_a_step_runs_twice_is_recorded_and_repeated(folders: Any, records: bool) -> None:
    inside: Any = model_of(folders["llama"])._model
    ids = torch.tensor([[5, 9, 7, 3, 8, 2, 6]])
    wanted = inside(input_ids=ids).logits
    cache, recorder = static_cache(inside, 64, empty_cache(inside)), Played(records)
    inside(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    step = StaticStep(inside, cache, False, recorder)
    for place in range(1, ids.shape[1]):
        got = step(ids[:, place : place + 1], place).logits.clone()
        torch.testing.assert_close(got, wanted[:, place : place + 1], atol=1e-5, rtol=1e-5)
    played = ["replay"] * 4 if records else []
    assert recorder.asked == ["beside", "beside", "record", *played]


def test_steps_that_hang_on_values_are_never_fixed(folders: Any, tmp_path: Path) -> None:
    """bitsandbytes looks for outliers in 8 bits, and some models count places by pictures."""
    assert not can_be_static(model_of(folders["llama"], "int8")._model)
    inside: Any = model_of(folders["llama"])._model
    assert can_be_static(inside)
    inside.base_model.rope_deltas = None
    assert not can_be_static(inside)


class NothingIsReadBack(TorchDispatchMode):
    """Refuses what would make the processor wait for the card, or would look at values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"}, name
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in CAUSAL if name != WINDOWED])
def test_a_static_step_looks_at_no_value(folders: Any, family: str) -> None:
    """A recording repeats kernels over the same memory, so the step may not read back what they
    made. What bitsandbytes does inside its kernels, and the recording itself, need a card."""
    inside: Any = model_of(folders[family])._model
    assert can_be_static(inside)
    ids = torch.tensor([[5, 9, 7, 3, 8]])
    cache, plain = static_cache(inside, 64, empty_cache(inside)), DynamicCache(config=inside.config)
    for each in (cache, plain):
        inside(input_ids=ids, past_key_values=each, use_cache=True)
    step = StaticStep(inside, cache, compiled=False)
    step._token.copy_(torch.tensor([[4]]))
    step._position.fill_(5)
    with NothingIsReadBack():
        got = step._run()
    wanted = inside(input_ids=torch.tensor([[4]]), past_key_values=plain, use_cache=True).logits
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_goes_to_a_fixed_size_and_back_unchanged(folders: Any) -> None:
    inside: Any = model_of(folders["llama"])._model
    known = DynamicCache(config=inside.config)
    inside(input_ids=torch.arange(20)[None], past_key_values=known, use_cache=True)
    there = static_cache(inside, 64, known)
    assert int(there.get_seq_length()) == 20
    back = kept_cache(inside, there)
    for before, after in zip(known.layers, back.layers, strict=True):
        assert torch.equal(before.keys, after.keys)
        assert torch.equal(before.values, after.values)
        assert after.keys.untyped_storage().nbytes() == after.keys.nbytes, "and no more is held"


def test_lengths_are_few() -> None:
    asked = range(1, 8193, 37)
    assert {length_for(tokens, 8192) for tokens in asked} == {1024, 2048, 4096, 8192}
    assert {length_for(tokens, 3000) for tokens in range(1, 3000, 37)} == {1024, 2048, 3000}
    assert all(length_for(tokens, 8192) >= tokens for tokens in asked)


@given(some.lists(some.integers(0, 3), max_size=60), some.integers(-2, 20))
def test_guesses_are_what_followed_the_same_tokens(said: list[int], room: int) -> None:
    guesses = list(Lookup(said).guesses(room))
    assert len(guesses) <= max(min(room, MOST), 0)
    if guesses:
        ends = [*said[-SHORTEST:], *guesses]
        runs = [said[at : at + len(ends)] for at in range(len(said))]
        assert ends in runs
