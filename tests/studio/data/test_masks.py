"""Trained are the tokens that TRL trains, and always the one that ends a turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from chat_tokenizers import TEMPLATES, byte_level, marked, plain, tokenizer_of
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import SFTConfig, SFTTrainer

from multimodal.errors import DataError
from multimodal.studio.data.masks import (
    IGNORED,
    PLAIN_TEMPLATE,
    add_plain_template,
    tokenize_row,
    tokenize_rows,
)

LENGTH = 100_000
LAST = ("user", "Is the car red, or green?"), ("assistant", "The fox — 日本 🚗 — sleeps.")
TURNS = (("user", "What colour is the sea?"), ("assistant", "  The sun is warm.\n"), *LAST)


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


CHAT = {"messages": said(*TURNS)}
COMPLETION = {"prompt": said(*TURNS[:-1]), "completion": said(TURNS[-1])}
STRINGS = {"prompt": "What colour is the ", "completion": "car? Red."}
TEXT = {"text": "The river runs to the sea."}


def trained_text(row: Any, tokenizer: Any, max_length: int = LENGTH) -> str:
    made = tokenize_row(row, tokenizer, max_length, "answers")
    pairs = zip(made.input_ids, made.is_trained, strict=True)
    return str(tokenizer.decode([token for token, is_trained in pairs if is_trained]))


def trained_turns(row: Any, tokenizer: Any) -> list[str]:
    """What is trained, piece by piece."""
    made = tokenize_row(row, tokenizer, LENGTH, "answers")
    runs: list[list[int]] = []
    before = False
    for token, is_trained in zip(made.input_ids, made.is_trained, strict=True):
        if is_trained and not before:
            runs.append([])
        if is_trained:
            runs[-1].append(token)
        before = is_trained
    return [str(tokenizer.decode(run)) for run in runs]


def prepared_by_trl(folder: Path, tokenizer: Any, row: Any, **how: Any) -> dict[str, list[int]]:
    """The row as `SFTTrainer` trains it."""
    config = tiny_models.causal_config("gpt2", vocab_size=len(tokenizer))
    torch.manual_seed(1)
    trainer = SFTTrainer(
        transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**{**config, "n_layer": 1})
        ),
        SFTConfig(str(folder), use_cpu=True, report_to=[], bf16=False, disable_tqdm=True, **how),
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )
    made: dict[str, list[int]] = trainer.train_dataset[0]
    return made


def check_as_trl(folder: Path, tokenizer: Any, row: Any, max_length: int = LENGTH) -> None:
    for loss_on, is_only in (("answers", True), ("everything", False)):
        key = "assistant_only_loss" if "messages" in row else "completion_only_loss"
        how = {} if "text" in row else {key: is_only}
        if "messages" in row and is_only:
            tokenizer = marked_one(tokenizer)
        theirs = prepared_by_trl(folder, tokenizer, row, max_length=max_length, **how)
        ours = tokenize_row(row, unmarked_one(tokenizer), max_length, loss_on)  # type: ignore[arg-type]
        assert ours.input_ids == theirs["input_ids"]
        assert ours.labels == theirs["labels"]


def marked_one(tokenizer: Any) -> Any:
    return _with(tokenizer, marked)


def unmarked_one(tokenizer: Any) -> Any:
    return _with(tokenizer, plain)


def _with(tokenizer: Any, change: Any) -> Any:
    """With the template of the same family that has marks, or has none."""
    for template in TEMPLATES.values():
        if tokenizer.chat_template in {marked(template), plain(template)}:
            tokenizer.chat_template = change(template)
    return tokenizer


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return tokenizer_of(request.param, plain(TEMPLATES[request.param]))


@pytest.mark.parametrize("row", [CHAT, COMPLETION, STRINGS, TEXT], ids=lambda row: "+".join(row))
def test_tokens_and_labels_are_those_of_trl(tmp_path: Path, tokenizer: Any, row: Any) -> None:
    check_as_trl(tmp_path, tokenizer, row)


@pytest.mark.parametrize("row", [COMPLETION, STRINGS, TEXT], ids=lambda row: "+".join(row))
def test_samples_are_cut_where_trl_cuts_them(tmp_path: Path, tokenizer: Any, row: Any) -> None:
    length = len(tokenize_row(row, tokenizer, LENGTH, "answers").input_ids) - 3
    check_as_trl(tmp_path, tokenizer, row, length)


@pytest.mark.parametrize("row", [STRINGS, TEXT], ids=lambda row: "+".join(row))
def test_a_tokenizer_without_template_is_as_trl_has_it(tmp_path: Path, row: Any) -> None:
    check_as_trl(tmp_path, byte_level(None, "<|endoftext|>"), row)


def test_smollm2_is_as_trl_has_it(tmp_path: Path, smollm2: Any) -> None:
    check_as_trl(tmp_path, smollm2, COMPLETION)
    # The line break before the first answer is one token with the blanks it begins with.
    assert trained_turns(CHAT, smollm2) == [
        "\n  The sun is warm.\n<|im_end|>\n",
        f"{TURNS[-1][1]}<|im_end|>\n",
    ]


@pytest.fixture(scope="module")
def smollm2(weights_of: Callable[[str], Path]) -> Any:
    folder = weights_of("smollm2-135m-instruct")
    return transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")


# ---------------------------------------------------------------- the end of a turn

THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{% set words = m['content'] %}{% if '</think>' in words and loop.index0 < ns.last %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last and '</think>' not in words %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ words + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Leaves the thoughts out of all answers but the last, as Qwen 3's."""
SYSTEM_LATE = (
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (told if loop.index0 == (messages | length - 2 + messages | length % 2)"
    " else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
"""Puts the words of the system before the last message of the user, as Mistral's."""
OPEN_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% if not loop.last %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ eos_token + '<|im_start|>assistant\n' }}{% endif %}"
)
"""Ends a turn only where another follows."""
ENDLESS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Has no sign for the end of a turn."""
BACKWARDS = "{% for m in messages | reverse %}{{ m['content'] }}<|im_end|>{% endfor %}"
"""Writes what was said last before the rest."""
UNSTOPPED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Has marks that leave out the end of a turn."""
ODD = {
    "thinking": THINKING,
    "system late": SYSTEM_LATE,
    "open end": OPEN_END,
    "unstopped": UNSTOPPED,
    "plain": PLAIN_TEMPLATE,
    "endless": ENDLESS,
}
EVERY = {**{name: plain(it) for name, it in TEMPLATES.items()}, **ODD}


def any_tokenizer(name: str) -> Any:
    if name in TEMPLATES:
        return tokenizer_of(name, EVERY[name])
    return byte_level(EVERY[name], "</s>" if name == "system late" else "<|im_end|>")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("row", [CHAT, COMPLETION], ids=lambda row: "+".join(row))
def test_the_token_that_ends_the_last_turn_is_trained(name: str, row: Any) -> None:
    tokenizer = any_tokenizer(name)
    end = {"headers": "<|eot_id|>"}.get(name, tokenizer.eos_token)
    words, _, behind = trained_text(row, tokenizer).partition("sleeps.")
    assert "The fox" in words
    assert behind.split() == [end]


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"endless"}))
def test_the_token_that_ends_each_turn_is_trained_and_nothing_of_the_user(name: str) -> None:
    tokenizer = any_tokenizer(name)
    end = {"headers": "<|eot_id|>"}.get(name, tokenizer.eos_token)
    turns = trained_turns(CHAT, tokenizer)
    assert len(turns) == 2
    for words, turn in zip(("The sun is warm.", TURNS[-1][1]), turns, strict=True):
        assert words in turn
        assert turn.rstrip().endswith(end)
        assert not [it for it in WORDS_OF_USER if it in turn]


WORDS_OF_USER = ("car red", "colour", "user", "User", "ssistant", "[INST]", "<|im_start|>")


def test_thoughts_that_a_template_leaves_out_of_earlier_turns_are_not_trained() -> None:
    tokenizer = byte_level(THINKING)
    first, last = "<think>\nblue?\n</think>\n\nThe sea.", "<think>\nred?\n</think>\n\nThe car."
    turns = ("user", "What?"), ("assistant", first), ("user", "Which?"), ("assistant", last)
    assert trained_turns({"messages": said(*turns)}, tokenizer) == [
        "The sea.<|im_end|>\n",
        f"{last}<|im_end|>\n",
    ]


def test_a_system_message_that_a_template_refuses_opens_the_first_message() -> None:
    tokenizer = tokenizer_of("brackets", plain(TEMPLATES["brackets"]))
    told = tokenize_row(
        {"messages": said(("system", "Be brief."), *TURNS)}, tokenizer, LENGTH, "answers"
    )
    merged = said(("user", f"Be brief.\n\n{TURNS[0][1]}"), *TURNS[1:])
    assert told == tokenize_row({"messages": merged}, tokenizer, LENGTH, "answers")


def test_a_system_message_before_the_last_question_does_not_move_the_answers() -> None:
    row = {"messages": said(("system", "Be brief."), *TURNS)}
    assert trained_turns(row, any_tokenizer("system late")) == [
        " The sun is warm.</s>",
        f" {TURNS[-1][1]}</s>",
    ]


def test_a_tokenizer_without_template_is_asked_in_the_plain_form_of_the_chat() -> None:
    tokenizer = byte_level(None, "<|endoftext|>")
    made = tokenize_row(CHAT, tokenizer, LENGTH, "answers")
    assert tokenizer.decode(made.input_ids) == (
        "User: What colour is the sea?\nAssistant:   The sun is warm.\n<|endoftext|>\n"
        f"User: {TURNS[2][1]}\nAssistant: {TURNS[3][1]}<|endoftext|>"
    )
    add_plain_template(tokenizer)
    assert tokenizer.apply_chat_template(
        said(TURNS[0]), tokenize=False, add_generation_prompt=True
    ).endswith("\nAssistant:")
    assert tokenize_row(CHAT, tokenizer, LENGTH, "answers") == made


def test_a_template_of_its_own_is_kept() -> None:
    tokenizer = byte_level(ENDLESS)
    add_plain_template(tokenizer)
    assert tokenizer.chat_template == ENDLESS


# ---------------------------------------------------------------- refusals and cuts


def test_a_template_whose_answers_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be told apart") as caught:
        tokenize_row(CHAT, byte_level(BACKWARDS), LENGTH, "answers")
    assert "--loss-on everything" in str(caught.value)


def test_a_chat_that_the_template_refuses_names_the_sample() -> None:
    tokenizer = byte_level("{{ raise_exception('no chats here') }}")
    with pytest.raises(DataError, match=r"^Sample 2: .*refuses.*no chats here"):
        tokenize_rows([TEXT, CHAT], tokenizer, LENGTH, "answers")


def test_an_empty_mask_is_refused_and_names_the_sample() -> None:
    tokenizer = byte_level(plain(TEMPLATES["chatml"]))
    with pytest.raises(DataError, match=r"^Sample 2: no token of it would be trained"):
        tokenize_rows([CHAT, {"messages": said(("user", "What?"))}], tokenizer, LENGTH, "answers")


def test_samples_without_an_answer_before_the_cut_are_left_out_and_told() -> None:
    tokenizer = byte_level(plain(TEMPLATES["chatml"]))
    long = {"prompt": said(("user", "What? " * 200)), "completion": said(LAST[1])}
    found = tokenize_rows([TEXT, long, COMPLETION], tokenizer, 95, "answers")
    assert [len(row.input_ids) for row in found.rows] == [
        len(tokenize_row(TEXT, tokenizer, 95, "answers").input_ids),
        95,
    ]
    assert found.notices == (
        "2 of 3 samples (67%) are longer than 95 tokens and are cut there.",
        "1 of 3 samples are left out, because their answers begin after 95 tokens.",
    )
    with pytest.raises(DataError, match="--max-length"):
        tokenize_rows([long], tokenizer, 95, "answers")


def test_labels_are_the_trained_tokens_and_ignored_ones() -> None:
    made = tokenize_row(COMPLETION, byte_level(plain(TEMPLATES["chatml"])), LENGTH, "answers")
    pairs = zip(made.input_ids, made.is_trained, strict=True)
    assert made.labels == [token if is_trained else IGNORED for token, is_trained in pairs]
    assert IGNORED in made.labels


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(EVERY.keys() - {"endless"})),
    contents=st.lists(words, min_size=2, max_size=6).filter(lambda told: len(told) % 2 == 0),
)
def test_whatever_is_said_each_answer_is_trained_whole(name: str, contents: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    turns = [(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    found = trained_turns({"messages": said(*turns)}, tokenizer)
    assert len(found) == len(contents) // 2
    for (_, content), turn in zip(turns[1::2], found, strict=True):
        as_read = tokenizer.decode(tokenizer.encode(content.strip(), add_special_tokens=False))
        assert as_read.strip() in turn


TOKENIZERS = {name: any_tokenizer(name) for name in EVERY}
