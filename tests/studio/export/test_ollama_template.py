"""Chat templates as Ollama writes them."""

from __future__ import annotations

from typing import Any

import pytest
from chat_tokenizers import TEMPLATES as FAMILIES
from chat_tokenizers import byte_level, pieces, plain, tokenizer_of

from multimodal.studio.export.ollama_template import convert_template, differing, render_go

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}"
    "{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if loop.index0 == 0 and system %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}"
    "{% else %}{{ ' ' + content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] "
    "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
NUMBERED = (
    "{% for m in messages %}{{ loop.index }}. {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}> {% endif %}"
)
TOKENIZERS: dict[str, tuple[Any, bool]] = {
    "chatml with words of the system": (tokenizer_of("chatml", plain(FAMILIES["chatml"])), False),
    "llama 3": (tokenizer_of("headers", plain(FAMILIES["headers"])), True),
    "mistral": (tokenizer_of("brackets", plain(FAMILIES["brackets"])), True),
    "llama 2": (pieces(LLAMA2), True),
    "gemma": (byte_level(GEMMA, "<|im_end|>", "<s>"), True),
    "phi-3": (byte_level(PHI3, "<|im_end|>"), False),
    "plain": (byte_level(PLAIN, "<|im_end|>"), False),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_known_template_is_written_in_go(kind: str) -> None:
    tokenizer, adds_bos = TOKENIZERS[kind]
    found = convert_template(tokenizer, adds_bos)
    assert found is not None
    bos = tokenizer.bos_token if adds_bos else ""
    assert differing(found, tokenizer, bos) == []
    assert ("You help." in found.system) == (kind.startswith("chatml"))
    assert "<s>" not in found.template.partition("{{ .Response }}")[0], "the engine puts it there"


def test_llama_2_is_written_as_ollama_writes_it() -> None:
    found = convert_template(*TOKENIZERS["llama 2"])
    assert found is not None
    assert found.template == (
        "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}"
        "{{ .Prompt }} [/INST]{{ if .Response }} {{ end }}{{ .Response }} </s><s>"
    )


def test_a_template_that_ollama_has_no_words_for_is_left_to_it() -> None:
    assert convert_template(byte_level(NUMBERED, "<|im_end|>"), False) is None


def test_a_wrong_template_is_found_by_what_it_writes() -> None:
    tokenizer, _ = TOKENIZERS["phi-3"]
    found = convert_template(tokenizer, False)
    assert found is not None
    for right, wrong in (("<|end|>", "<|stop|>"), ("<|system|>", "<|user|>")):
        changed = type(found)(found.template.replace(right, wrong), found.system)
        assert differing(changed, tokenizer, "")


def test_turns_are_filled_in_one_by_one() -> None:
    template = "{{ if .System }}S:{{ .System }} {{ end }}U:{{ .Prompt }} A:{{ .Response }};"
    said = [("system", "be"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = [{"role": role, "content": text} for role, text in said]
    assert render_go(template, messages) == "S:be U:one A:two;U:three A:"
    assert render_go(template, messages[1:2], "usual") == "S:usual U:one A:"
    with pytest.raises(ValueError, match="an end without an if"):
        render_go("{{ end }}", messages)
