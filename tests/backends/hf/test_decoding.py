"""What a card may ask of transformers' `generate`: each option says what plain `generate` says."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from text_requests import Reply, Turn, ask, text_request
from tiny_models import (
    CAUSAL,
    DECODING,
    Checkpoint,
    causal_card,
    every_causal,
    load_causal,
    save_causal,
)
from transformers import DynamicCache

from multimodal.backends.hf.causal_lm import CausalLM
from multimodal.backends.hf.prefix_cache import (
    CACHE_ARGUMENT,
    PrefixCaches,
    dynamic_copy,
    static_cache,
    static_length,
)
from multimodal.errors import CardError
from multimodal.events import TextDelta
from multimodal.messages import Sampling, Usage

QUESTION: Turn = ("user", "The river runs to the sea. The river runs to the sea.")
LONG = 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return every_causal(tmp_path_factory)


def model_of(checkpoint: Checkpoint, kind: str = "fp32", **engine: Any) -> CausalLM:
    return load_causal(checkpoint, quantization=[kind], engine=engine)


def say(model: CausalLM, *turns: Turn, **sampling: Any) -> Reply:
    chosen = Sampling(**{"temperature": 0.0, "max_tokens": LONG, **sampling})
    return ask(model, *turns, sampling=chosen)


def second(answer: str) -> tuple[Turn, ...]:
    return (QUESTION, ("assistant", answer), ("user", "What colour is the car?"))


@pytest.mark.usefixtures("fp32_arithmetic")
@pytest.mark.parametrize("kind", ["fp32", "nf4-double"])
@pytest.mark.parametrize("option", DECODING)
@pytest.mark.parametrize("family", CAUSAL)
def test_both_turns_say_what_the_plain_way_says(
    folders: Any, family: str, option: str, kind: str
) -> None:
    plain = model_of(folders[family], kind)
    other = model_of(folders[family], kind, **DECODING[option])
    said, _, _ = say(plain, QUESTION)
    answer, first, _ = say(other, QUESTION)
    assert answer == said
    again, usage, _ = say(other, *second(answer))
    assert again == say(plain, *second(answer))[0]
    if option == "static" and family != "mistral":  # whose layers keep their newest tokens only
        assert usage.cached_tokens >= first.prompt_tokens, "what was read is not read again"


@pytest.mark.parametrize("option", DECODING)
def test_a_seed_gives_the_same_answer_whatever_the_card_asks_for(folders: Any, option: str) -> None:
    drawn = {"temperature": 0.7, "top_p": 0.9, "repeat_penalty": 1.1, "seed": 5}
    plain, other = model_of(folders["llama"]), model_of(folders["llama"], **DECODING[option])
    assert say(other, QUESTION, **drawn)[0] == say(plain, QUESTION, **drawn)[0]
    assert say(other, QUESTION, **drawn | {"seed": 6})[0] != say(plain, QUESTION, **drawn)[0]


def test_a_seed_gives_the_same_answer_whatever_else_draws_meanwhile(folders: Any) -> None:
    drawn = {"temperature": 1.5, "seed": 5}
    model, other = model_of(folders["llama"]), model_of(folders["gpt2"])
    alone = say(model, QUESTION, **drawn)[0]
    noise = threading.Event()

    def disturb() -> None:
        while not noise.is_set():
            torch.manual_seed(7)
            say(other, QUESTION, **drawn)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert [say(model, QUESTION, **drawn)[0] for _ in range(3)] == [alone] * 3
    finally:
        noise.set()
        thread.join()


def forgetful(model: CausalLM) -> Any:
    """Its next token hangs on the last one alone, so it soon goes round in a circle."""
    inside: Any = model.modules()[0]
    for layer in inside.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    return inside


def passes(model: CausalLM, **sampling: Any) -> tuple[str, int]:
    """The reply to the question, and how often the model was run for it."""
    counted: list[int] = []
    handle = forgetful(model).register_forward_pre_hook(lambda *_: counted.append(1))
    text, usage, _ = say(model, QUESTION, max_tokens=200, **sampling)
    handle.remove()
    assert usage.completion_tokens == 200
    return text, len(counted)


def test_guesses_are_made_only_where_a_card_asks_for_them(folders: Any) -> None:
    asked = model_of(folders["llama"], **DECODING["prompt lookup"])
    said, plain = passes(model_of(folders["llama"]))
    assert plain == 200
    again, fewer = passes(asked)
    assert again == said
    assert fewer < 100
    assert passes(asked, temperature=0.01, seed=1)[1] == 200, "what is drawn is not guessed"


@pytest.mark.parametrize("option", DECODING)
@pytest.mark.parametrize("longest", [1, 2, 7])
def test_a_reply_is_never_longer_than_asked(folders: Any, option: str, longest: int) -> None:
    model = model_of(folders["llama"], **DECODING[option])
    assert say(model, QUESTION, max_tokens=longest)[1].completion_tokens <= longest


@pytest.mark.parametrize("option", ["plain", *DECODING])
def test_a_stopped_reply_can_be_gone_on_with(folders: Any, option: str) -> None:
    model = model_of(folders["llama"], **DECODING.get(option, {}))
    stop = threading.Event()
    words = []
    request = text_request((QUESTION,), sampling=Sampling(temperature=0.0, max_tokens=LONG))
    for event in model.run(request, stop):
        if isinstance(event, TextDelta):
            words.append(event.text)
            stop.set()
        if isinstance(event, Usage):
            assert event.finish == "stopped"
    answer = "".join(words)
    plain = model_of(folders["llama"])
    assert say(model, *second(answer))[0] == say(plain, *second(answer))[0]


@pytest.mark.parametrize("option", DECODING)
def test_a_sliding_window_says_the_same_with_every_option(
    folders: Any, option: str, tmp_path: Path
) -> None:
    found = (tmp_path, save_causal(tmp_path, "mistral", sliding_window=16))
    said = say(model_of(found), QUESTION)[0]
    model = model_of(found, **DECODING[option])
    assert say(model, QUESTION)[0] == said
    assert say(model, *second(said))[0] == say(model_of(found), *second(said))[0]


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        ({"prompt_lookup": True}, r"did you mean engine\.prompt_lookup_num_tokens"),
        ({"compile": True}, r"it has engine\.cache_implementation, "),
        ({"static_cache": True}, "is no option of causal_lm; "),
        ({"prompt_lookup_num_tokens": True}, "is True; write a whole number of at least 0"),
        ({"prompt_lookup_num_tokens": -1}, "is -1; write a whole number of at least 0"),
        ({"prompt_lookup_num_tokens": 10}, "write 'prompt_cache_mib = 0' beside it"),
        ({"cache_implementation": "quantized"}, "write 'dynamic' or 'static'"),
        (
            {"prompt_lookup_num_tokens": 10, "cache_implementation": "static"},
            "leave one of the two out",
        ),
    ],
)
def test_what_the_library_does_not_do_is_refused_when_the_model_is_loaded(
    folders: Any, engine: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CardError, match=sentence):
        model_of(folders["llama"], **engine)


def test_states_that_cannot_be_cut_take_no_option(folders: Any) -> None:
    whole = model_of(folders["llama"])
    inside: Any = whole.modules()[0]
    inside.config.layer_types = ["linear_attention", "full_attention"]
    card = causal_card(folders["llama"][1])
    for engine in DECODING.values():
        with pytest.raises(CardError, match="makes its cache itself"):
            CausalLM(card.model_copy(update={"engine": engine}), inside, whole.tokenizer)
    CausalLM(card, inside, whole.tokenizer)


@torch.no_grad()
def test_a_cache_goes_to_a_fixed_size_and_back_unchanged(folders: Any) -> None:
    inside: Any = model_of(folders["llama"]).modules()[0]
    known = DynamicCache(config=inside.config)
    inside(input_ids=torch.arange(20)[None], use_cache=True, **{CACHE_ARGUMENT: known})
    there = static_cache(inside, 64, known)
    assert int(there.get_seq_length()) == 20
    back = dynamic_copy(inside, there)
    assert back is not None
    for before, after in zip(known.layers, back.layers, strict=True):
        assert torch.equal(before.keys, after.keys)
        assert torch.equal(before.values, after.values)
        assert after.keys.untyped_storage().nbytes() == after.keys.nbytes, "and no more is held"


def test_a_closed_model_is_gone_whatever_its_card_asks_for(folders: Any) -> None:
    for engine in ({}, *DECODING.values()):
        model = model_of(folders["llama"], **engine)
        say(model, QUESTION)
        held = weakref.ref(model.modules()[0])
        model.close()
        assert held() is None


def test_lengths_are_few() -> None:
    asked = range(1, 8193, 37)
    assert {static_length(tokens, 8192) for tokens in asked} == {1024, 2048, 4096, 8192}
    assert {static_length(tokens, 3000) for tokens in range(1, 3000, 37)} == {1024, 2048, 3000}
    assert all(static_length(tokens, 8192) >= tokens for tokens in asked)


def cache_of(tokens: int) -> DynamicCache:
    """Of one layer, 8 bytes a token."""
    made = DynamicCache()
    made.update(torch.zeros(1, 1, tokens, 1), torch.zeros(1, 1, tokens, 1), 0)
    return made


def test_conversations_are_kept_while_host_memory_has_room_for_them() -> None:
    spare = [100]
    caches = PrefixCaches(300, lambda: spare[0])

    def has(first: int) -> bool:
        found = caches.take([first, 2, 3, 4, 9], torch.device("cpu"))
        if found is not None:
            caches.keep([first, 2, 3, 4], found)
        return found is not None

    for first in (1, 5):
        caches.keep([first, 2, 3, 4], cache_of(4))
    assert has(1)
    assert has(5)
    caches.keep([6] * 60, cache_of(60))
    assert has(1), "what does not fit anyway makes nobody leave"
    spare[0] = -20
    caches.keep([7, 2, 3, 4], cache_of(4))
    assert not has(5), "the longest unused one left"
    assert not caches.take([6] * 60, torch.device("cpu"))
    spare[0] = -1000
    caches.keep([8, 2, 3, 4], cache_of(4))
    spare[0] = 100
    assert not any(has(first) for first in (1, 5, 7, 8)), "memory is short, so nothing is kept"
