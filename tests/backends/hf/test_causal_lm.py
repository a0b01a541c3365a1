"""Text models of transformers, from tiny random checkpoints in the published layout.

What cannot be checked here: the published tokenizers and chat templates, which are not on this
machine; these tests bring their own.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from text_requests import QUESTION, Turn, ask, text_request
from tiny_engines import leave_and_return
from tiny_models import (
    CAUSAL,
    Checkpoint,
    causal_card,
    every_causal,
    load_causal,
    save_causal,
    tokenizer,
)
from tokenizers import Tokenizer, decoders, models

from multimodal.backends.hf.causal_lm import CausalLM
from multimodal.backends.hf.chat_model import PIECE_TOKENS, Prompt
from multimodal.backends.hf.chat_template import ChatTemplate
from multimodal.backends.hf.generation import TokenStreamer, processors
from multimodal.backends.hf.prefix_cache import can_be_kept
from multimodal.backends.sampling import ResolvedSampling
from multimodal.errors import BackendError, CardError, PromptError
from multimodal.events import EngineEvent, Progress, TextDelta
from multimodal.messages import Sampling, Usage
from multimodal.requests import TextRequest

CPU = torch.device("cpu")
RIVERS: tuple[Turn, ...] = (
    ("user", "The river runs to the sea. " * 6),
    ("assistant", "It is so. " * 6),
)
LONG: Turn = ("user", "The cat sleeps in the warm sun. " * 150)
VOCABULARY = {"<unk>": 0, "\n": 1, "<0xF0>": 2, "<0x9F>": 3, "a": 4, "b": 5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return every_causal(tmp_path_factory)


@pytest.fixture(scope="module")
def llama(folders: Any) -> Iterator[CausalLM]:
    backend = load_causal(folders["llama"])
    yield backend
    backend.close()


def reference(model: CausalLM, *turns: Turn) -> str:
    """What transformers itself answers, greedily and with nothing kept."""
    said = [{"role": role, "content": text} for role, text in turns]
    prompt = model.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    given = model.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    inner: Any = model.modules()[0]
    made = inner.generate(
        given["input_ids"],
        attention_mask=given["attention_mask"],
        max_new_tokens=24,
        do_sample=False,
    )
    new = made[0, given["input_ids"].shape[1] :]
    # Random bytes may end in the middle of a character, which is never shown.
    return str(model.tokenizer.decode(new, skip_special_tokens=True)).rstrip("\ufffd")


@pytest.mark.usefixtures("fp32_arithmetic")
@pytest.mark.parametrize("kind", ["fp32", "nf4-double"])
@pytest.mark.parametrize("family", CAUSAL)
def test_both_turns_say_what_generate_says(folders: Any, family: str, kind: str) -> None:
    model = load_causal(folders[family], quantization=[kind])
    answer, first, _ = ask(model, QUESTION)
    assert answer
    assert answer == reference(model, QUESTION)
    turns = (QUESTION, ("assistant", answer), ("user", "The river runs to the sea."))
    again, second, _ = ask(model, *turns)
    assert again == reference(model, *turns)
    assert second.cached_tokens >= first.prompt_tokens, "what was read is not read again"
    assert second.prompt_tokens > second.cached_tokens


def test_a_checkpoint_quantized_when_saved_is_taken_as_it_is(folders: Any, tmp_path: Path) -> None:
    quantized = load_causal(folders["llama"], quantization=["nf4"])
    inner: Any = quantized.modules()[0]
    inner.save_pretrained(tmp_path)
    quantized.tokenizer.save_pretrained(tmp_path)
    again = load_causal((tmp_path, folders["llama"][1]), quantization=["nf4"])
    assert ask(again, QUESTION)[0] == ask(quantized, QUESTION)[0]


def test_an_unknown_quantization_is_named(folders: Any) -> None:
    with pytest.raises(CardError, match=r"no quantization 'q4_k_m'. Known: nf4"):
        load_causal(folders["llama"], quantization=["q4_k_m"])


def test_a_folder_without_weights_is_named(folders: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BackendError, match="there is no file of safetensors in"):
        load_causal((tmp_path, folders["llama"][1]))


def test_a_checkpoint_that_lacks_weights_is_refused(folders: Any, tmp_path: Path) -> None:
    folder, config = folders["llama"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendError, match=r"lacks 1 of .* such as model.layers.1.mlp.up_proj"):
        load_causal((tmp_path, config))


def test_code_that_a_checkpoint_brings_is_not_run(folders: Any, tmp_path: Path) -> None:
    folder, config = folders["llama"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    told = (tmp_path / "config.json").read_text()
    stranger = '{"auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"},'
    (tmp_path / "config.json").write_text(stranger + told[1:].replace('"llama"', '"a_stranger"'))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BackendError):
        load_causal((tmp_path, config))
    assert not (tmp_path / "ran").exists()


def test_words_come_one_by_one(llama: CausalLM) -> None:
    text, usage, events = ask(llama, QUESTION)
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 5
    assert usage.completion_tokens == 24 or usage.finish == "stop"
    assert "".join(pieces) == text


def streamed(trained: Any, stop: tuple[str, ...], *pieces: list[int]) -> tuple[Any, list[Any]]:
    """A reply behind a prompt of one token, and what is told of it."""
    told: list[EngineEvent] = []
    reply = TokenStreamer(trained, stop, told.append, lambda: False)
    for piece in ([[1]], *pieces):
        reply.put(torch.tensor(piece))
    reply.end()
    return reply, told


def test_a_character_of_several_tokens_is_told_once_it_is_whole() -> None:
    trained = tokenizer()
    tokens = trained("a☃b", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 5
    _, told = streamed(trained, (), *([token] for token in tokens))
    assert told == [TextDelta("a"), TextDelta("☃"), TextDelta("b")]


def test_what_comes_with_a_stop_word_and_behind_it_is_not_counted() -> None:
    trained = tokenizer()
    tokens = trained("abcc", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 4
    reply, told = streamed(trained, ("b",), [tokens])
    assert told == [TextDelta("a")]
    assert reply.is_finished
    assert len(reply.tokens) == 2


def test_a_seed_gives_the_same_answer_and_another_another(llama: CausalLM) -> None:
    warm = [Sampling(temperature=1.5, seed=seed, max_tokens=16) for seed in (5, 5, 6)]
    one, same, other = (ask(llama, QUESTION, sampling=chosen)[0] for chosen in warm)
    assert one == same != other


def test_without_a_seed_one_is_drawn_and_told(llama: CausalLM) -> None:
    warm = Sampling(temperature=1.5, max_tokens=16)
    text, usage, _ = ask(llama, QUESTION, sampling=warm)
    again = Sampling(temperature=1.5, max_tokens=16, seed=usage.seed)
    assert ask(llama, QUESTION, sampling=again)[0] == text


def test_a_stop_word_ends_the_reply_and_is_not_said(llama: CausalLM) -> None:
    whole = reference(llama, QUESTION)
    middle = whole[len(whole) // 2 :][:3]
    text, usage, _ = ask(llama, QUESTION, sampling=Sampling(stop=(middle,)))
    assert text == whole[: whole.find(middle)]
    assert usage.finish == "stop"


def test_a_stop_word_that_never_comes_loses_nothing(llama: CausalLM) -> None:
    whole = reference(llama, QUESTION)
    never = whole[-2:] + "\u2603"
    assert ask(llama, QUESTION, sampling=Sampling(stop=(never,)))[0] == whole


def test_a_penalty_is_for_repeating_the_reply_not_the_prompt(llama: CausalLM) -> None:
    chosen = ResolvedSampling(0, 1, 2.0, 9, 1, ())
    lowered = processors(chosen, 2, CPU)(torch.tensor([[5, 6, 7]]), torch.ones(1, 9))
    assert lowered.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0.5, 1]]
    plain, wary = (
        ask(llama, QUESTION, sampling=Sampling(repeat_penalty=penalty, max_tokens=48))[0]
        for penalty in (1.0, 2.0)
    )
    assert plain != wary


def test_a_long_prompt_is_read_in_pieces_and_answered_alike(folders: Any) -> None:
    model = load_causal(folders["llama"], context_tokens=4096)
    text, usage, events = ask(model, LONG)
    assert usage.prompt_tokens > 2 * PIECE_TOKENS
    told = [event.fraction for event in events if isinstance(event, Progress)]
    assert len(told) >= 2
    assert all(a < b for a, b in pairwise(told))  # type: ignore[operator]
    assert text == reference(model, LONG)


def test_a_stop_while_a_long_prompt_is_read(folders: Any) -> None:
    model = load_causal(folders["llama"], context_tokens=4096)
    stop = threading.Event()
    stream = model.run(text_request((LONG,)), stop)
    assert isinstance(next(stream), Progress)
    stop.set()
    rest = list(stream)
    assert isinstance(rest[-1], Usage)
    assert (rest[-1].finish, rest[-1].completion_tokens) == ("stopped", 0)
    # What was read until then is not lost.
    assert ask(model, LONG).usage.cached_tokens >= PIECE_TOKENS


def test_the_oldest_turns_go_when_the_conversation_is_too_long(llama: CausalLM) -> None:
    turns = RIVERS * 12
    reply = ask(llama, *turns, ("user", "Is it red?"))
    assert reply.usage.prompt_tokens <= 512 - 24
    assert any("left out" in notice for notice in reply.notices)


def test_a_turn_may_be_given_less_context(llama: CausalLM) -> None:
    turns = RIVERS * 4
    question: Turn = ("user", "Is it red?")
    assert ask(llama, *turns, question)[1].prompt_tokens > 128
    assert ask(llama, *turns, question, context_tokens=128)[1].prompt_tokens <= 128 - 24


class Counted(CausalLM):
    """Counts how often a conversation is read; every turn of it takes TURN_TOKENS."""

    reads = 0
    stop: threading.Event | None = None

    def _prompt(self, request: TextRequest, system: str) -> Prompt:
        self.reads += 1
        if self.stop is not None:
            self.stop.set()
        return Prompt([5] * TURN_TOKENS * len(request.messages))


TURN_TOKENS = 2
SHRINKING: tuple[Turn, ...] = tuple(
    (role, "x" * (1 + int(2**18 * 0.7**i))) for i in range(150) for role in ("user", "assistant")
)
"""Each turn has fewer letters than the one before, for as many tokens."""


def test_a_long_conversation_is_read_a_few_times_to_be_shortened(folders: Any) -> None:
    whole = load_causal(folders["llama"])
    model = Counted(causal_card(folders["llama"][1]), whole.modules()[0], whole.tokenizer)
    _, usage, _ = ask(model, *SHRINKING, ("user", "Go on."), sampling=Sampling(max_tokens=4))
    assert 0 < usage.prompt_tokens < 512
    assert model.reads <= math.log2(len(SHRINKING)) + 1

    model.reads, model.stop = 0, threading.Event()
    events = list(model.run(text_request((*SHRINKING, ("user", "Go on."))), model.stop))
    assert isinstance(events[-1], Usage)
    assert (events[-1].finish, model.reads) == ("stopped", 1)


def test_a_message_that_is_too_long_is_refused_in_words(llama: CausalLM) -> None:
    with pytest.raises(PromptError, match=r"tokens long and Tiny reads 512. Shorten it"):
        ask(llama, ("user", "The quick brown fox jumps. " * 200))


def test_two_conversations_keep_what_was_computed_of_each(llama: CausalLM) -> None:
    one: Turn = ("user", "The quick brown fox jumps over the lazy dog. " * 3)
    other: Turn = ("user", "Is it red, green or blue? " * 5)
    first, _, _ = ask(llama, one)
    second, _, _ = ask(llama, other)
    for said, answer in ((one, first), (other, second)):
        usage = ask(llama, said, ("assistant", answer), ("user", "And the sea?"))[1]
        assert usage.cached_tokens > 40


def test_kept_conversations_take_no_more_than_they_may(folders: Any) -> None:
    model = load_causal(folders["llama"], engine={"prompt_cache_mib": 0})
    answer, _, _ = ask(model, QUESTION)
    usage = ask(model, QUESTION, ("assistant", answer), ("user", "And the sea?"))[1]
    assert usage.cached_tokens == 0


def test_a_sliding_window_answers_like_generate(folders: Any, tmp_path: Path) -> None:
    config = save_causal(tmp_path, "mistral", sliding_window=32)
    model = load_causal((tmp_path, config))
    long: Turn = ("user", "The cat sleeps in the warm sun. " * 8)
    answer, _, _ = ask(model, long)
    assert answer == reference(model, long)
    turns = (long, ("assistant", answer), ("user", "Is it red?"))
    assert ask(model, *turns)[0] == reference(model, *turns)


def read(model: CausalLM, said: str, system: str = "") -> str:
    """A first turn as the model reads it."""
    prompt = model.prompt(text_request((("user", said),), system_prompt=system))
    return str(model.tokenizer.decode(prompt.tokens))


def test_a_model_without_a_template_is_given_names_and_stops_at_the_next(tmp_path: Path) -> None:
    config = save_causal(tmp_path, "gpt2", template=None)
    model = load_causal((tmp_path, config))
    assert read(model, "Hello.", "Be kind.") == "Be kind.\n\nUser: Hello.\nAssistant:"
    assert "\nUser:" in ChatTemplate(model.tokenizer, causal_card(config)).stop_words
    reply = ask(model, QUESTION)
    assert reply.usage.completion_tokens
    (told,) = reply.notices
    assert "Tiny has no chat template" in told


def test_a_model_with_a_template_says_nothing_of_it(llama: CausalLM) -> None:
    assert not ask(llama, QUESTION).notices


def test_a_template_of_the_card_replaces_a_missing_one(tmp_path: Path) -> None:
    config = save_causal(tmp_path, "phi", template=None)
    phi = "{% for m in messages %}Instruct: {{ m['content'] }}\nOutput:{% endfor %}"
    model = load_causal((tmp_path, config), chat_template=phi)
    assert read(model, "Hi") == "Instruct: Hi\nOutput:"
    assert not ChatTemplate(model.tokenizer, causal_card(config, chat_template=phi)).stop_words
    assert not ask(model, QUESTION).notices


def test_a_template_that_refuses_a_system_message_gets_it_in_the_first_turn(tmp_path: Path) -> None:
    gemma = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
    )
    config = save_causal(tmp_path, "gemma", template=gemma)
    model = load_causal((tmp_path, config))
    assert read(model, "Hi", "Be kind.") == "<|im_start|>Be kind.\n\nHi"


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_eviction_between_two_turns_changes_no_word(folders: Any, kind: str) -> None:
    """The CPU plays the card. 4-bit layers cannot be run there once mirrored: the kernels for the
    CPU repack weights in place."""
    model, still = (load_causal(folders["llama"], quantization=[kind]) for _ in range(2))
    answer = ask(model, QUESTION)[0]
    turns = (QUESTION, ("assistant", answer), ("user", "The river runs to the sea."))
    for _ in range(3):
        leave_and_return(model)
    text, usage, _ = ask(model, *turns)
    ask(still, QUESTION)
    assert text == ask(still, *turns)[0]
    assert usage.cached_tokens, "what was computed survives the eviction"


def test_transformers_is_quiet(folders: Any, caplog: pytest.LogCaptureFixture) -> None:
    transformers.logging.enable_propagation()
    ask(load_causal(folders["llama"]), QUESTION)
    transformers.logging.disable_propagation()
    assert not [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_a_temperature_next_to_nothing_is_the_most_likely_word(llama: CausalLM) -> None:
    cold = Sampling(temperature=1e-38, seed=1)
    assert ask(llama, QUESTION, sampling=cold)[0] == reference(llama, QUESTION)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_overflowed_are_told_and_never_drawn_from(bad: float) -> None:
    drawn = processors(ResolvedSampling(1.0, 1, 1, 9, 1, ()), 0, CPU)
    with pytest.raises(BackendError, match="numbers overflowed"):
        drawn(torch.tensor([[1]]), torch.tensor([[0.0, bad, 1.0]]))


def test_bytes_that_are_no_character_end_no_reply() -> None:
    """A tokenizer that falls back to bytes, as Llama's does, and half of an emoji."""
    made = Tokenizer(models.BPE(VOCABULARY, [], byte_fallback=True, unk_token="<unk>"))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    trained = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    pieces = ("\n", "<0xF0>", "<0x9F>", "a", "b")
    _, told = streamed(trained, (), *([VOCABULARY[piece]] for piece in pieces))
    text = "".join(event.text for event in told if isinstance(event, TextDelta))
    assert text.startswith("\n")
    assert text.endswith("b")


def test_a_conversation_larger_than_all_that_is_kept_takes_no_other_s_place(folders: Any) -> None:
    engine = {"prompt_cache_mib": 1}
    model = load_causal(folders["llama"], context_tokens=4096, engine=engine)
    answer, _, _ = ask(model, QUESTION)
    _, large, _ = ask(model, ("user", "The cat sleeps in the warm sun. " * 300))
    layers, keys_and_values, width, element_bytes = 2, 2, 32, 4
    token_bytes = layers * keys_and_values * width * element_bytes
    assert large.prompt_tokens * token_bytes > 1 << 20
    usage = ask(model, QUESTION, ("assistant", answer), ("user", "And the sea?"))[1]
    assert usage.cached_tokens


def test_states_of_other_kinds_are_not_kept() -> None:
    config = transformers.AutoConfig.for_model(
        "lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"]
    )
    assert not can_be_kept(transformers.DynamicCache(config=config))
    plain = transformers.AutoConfig.for_model("llama", num_hidden_layers=2)
    assert can_be_kept(transformers.DynamicCache(config=plain))


def test_what_was_left_out_is_told_once(folders: Any) -> None:
    model = load_causal(folders["llama"], context_tokens=256)
    turns: list[Turn] = []
    for number in range(30):
        turns += [("user", "A " * (number % 7)), ("assistant", "The river runs. " * 5)]
    assert len(ask(model, *turns, ("user", "Is it red?")).notices) == 1
