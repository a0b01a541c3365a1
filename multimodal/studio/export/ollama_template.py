"""A chat template of Jinja as one of Ollama's, in Go's template language.

Ollama fills `.System`, `.Prompt` and `.Response` in once a turn, and leaves the last turn at
`.Response` (ollama/ollama, template/template.go, `Execute`). Whatever writes fixed words around
each message can be told so: ChatML, Llama 2, Llama 3, Mistral, Gemma, Phi-3, plain names and what
is like them. The words are found by rendering the original with marks in place of messages; whether
the result is the same is seen by rendering both (`render_go`), so nothing goes by a model's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multimodal.studio.export.opened import Messages
from multimodal.studio.export.reference import CONVERSATIONS, render

_S, _U, _A, _V = (f"\N{SYMBOL FOR NULL}{letter}\N{SYMBOL FOR NULL}" for letter in "SUAV")
_SYSTEM, _USER = {"role": "system", "content": _S}, {"role": "user", "content": _U}
_ANSWER, _NEXT = {"role": "assistant", "content": _A}, {"role": "user", "content": _V}
ACTION = re.compile(r"{{\s*(if \.\w+|end|\.\w+)\s*}}")


@dataclass(frozen=True, slots=True)
class OllamaTemplate:
    """`template` in Go's language; `system`: what the original says where nobody gives a system
    message."""

    template: str
    system: str = ""


def convert_template(tokenizer: Any, adds_bos: bool) -> OllamaTemplate | None:
    """None where the chat template is none of fixed words around each message. `adds_bos`: whether
    the token that begins texts is put there by the engine itself."""
    bos = (tokenizer.bos_token or "") if adds_bos else ""
    try:
        found = _convert(tokenizer, bos)
    except ValueError:
        return None
    return found if not differing(found, tokenizer, bos) else None


def differing(
    template: OllamaTemplate, tokenizer: Any, bos: str, system: str = ""
) -> list[Messages]:
    """The conversations that the template writes otherwise than the tokenizer does; those that the
    tokenizer refuses are left out. `system`: what is given where a conversation has no system
    message, in place of what the tokenizer says then."""
    rendered = [(it, render(tokenizer, _with_system(it, system))) for it in CONVERSATIONS]
    return [
        messages
        for messages, text in rendered
        if text is not None
        and render_go(template.template, messages, template.system) != text.removeprefix(bos)
    ]


def _with_system(messages: Messages, system: str) -> Messages:
    if not system or messages[0]["role"] == "system":
        return messages
    return ({"role": "system", "content": system}, *messages)


def render_go(template: str, messages: Messages, system: str = "") -> str:
    """What Ollama writes of a conversation up to where the answer begins. `system`: the Modelfile's
    SYSTEM, which stands where the conversation has none. Understands `.System`, `.Prompt`,
    `.Response`, `if` and `end`."""
    told, turn = "", {"System": "", "Prompt": "", "Response": ""}
    if system and messages[0]["role"] != "system":
        turn["System"] = system
    for message in messages:
        field = {"system": "System", "user": "Prompt", "assistant": "Response"}[message["role"]]
        if field != "Response" and (turn["Response"] or (field == "System" and turn["Prompt"])):
            told += _execute(template, turn)
            turn = dict.fromkeys(turn, "")
        turn[field] = message["content"]
    return told + _execute(template.partition("{{ .Response }}")[0], turn)


def _execute(template: str, values: Mapping[str, str]) -> str:
    """Raises ValueError for an `end` too many."""
    told, shown = "", [True]
    for place, piece in enumerate(ACTION.split(template)):
        if place % 2 == 0:
            told += piece if all(shown) else ""
        elif piece.startswith("if "):
            shown.append(bool(values[piece.removeprefix("if .")]))
        elif piece == "end":
            if len(shown) == 1:
                raise ValueError("an end without an if")
            shown.pop()
        elif all(shown):
            told += values[piece.removeprefix(".")]
    return told


# ------------------------------------------------------------ the words around messages


def _convert(tokenizer: Any, bos: str) -> OllamaTemplate:
    """Raises ValueError where a message is not written as it is."""
    words = _around(tokenizer)
    first, between, after = words.first, words.between, words.after
    closing = _closing(tokenizer)
    if not between.startswith(closing):
        raise ValueError("an answer ends otherwise before another turn")
    opening = between.removeprefix(closing)
    if bos and opening.startswith(bos):  # as Llama 2, which begins each turn anew
        opening, closing = opening.removeprefix(bos), closing + bos
    first = first.removeprefix(bos)
    system, default = _system(tokenizer, bos, first, opening)
    if not default and first != opening:
        raise ValueError("the first turn begins otherwise")
    space = words.before_answer.removeprefix(after)
    if space:  # only before an answer that is there, as Mistral's
        after += f"{{{{ if .Response }}}}{space}{{{{ end }}}}"
    return OllamaTemplate(f"{system}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{closing}", default)


@dataclass(frozen=True, slots=True)
class _Words:
    """What stands before the first message, before an answer, between an answer and the next
    message, and behind the last message."""

    first: str
    before_answer: str
    between: str
    after: str


def _around(tokenizer: Any) -> _Words:
    told = _rendered(tokenizer, (_USER, _ANSWER, _NEXT))
    first, rest = _cut(told, _U)
    before_answer, rest = _cut(rest, _A)
    between, after = _cut(rest, _V)
    if not before_answer.startswith(after):
        raise ValueError("an answer begins otherwise than one that is to come")
    return _Words(first, before_answer, between, after)


def _closing(tokenizer: Any) -> str:
    """What stands behind an answer."""
    told: str = tokenizer.apply_chat_template(
        [_USER, _ANSWER], add_generation_prompt=False, tokenize=False
    )
    return _cut(told, _A)[1]


def _system(tokenizer: Any, bos: str, first: str, opening: str) -> tuple[str, str]:
    """All that stands before a message, in Go, and the system message where nobody gives one."""
    told = render(tokenizer, (_SYSTEM, _USER))
    if told is None or _S not in told:  # as this program does, in the message itself
        return f"{opening}{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ end }}}}", ""
    before, rest = _cut(told.removeprefix(bos), _S)
    behind, _ = _cut(rest, _U)
    default = ""
    if first != opening and first.startswith(before) and first.endswith(behind):
        default = first[len(before) : len(first) - len(behind)]
    if behind.endswith(opening):  # a turn of its own
        words = behind.removesuffix(opening) if opening else behind
        return (
            f"{{{{ if .System }}}}{before}{{{{ .System }}}}{words}{{{{ end }}}}{opening}",
            default,
        )
    if not before.startswith(opening):
        raise ValueError("a system message that stands elsewhere")
    words = before.removeprefix(opening)
    return f"{opening}{{{{ if .System }}}}{words}{{{{ .System }}}}{behind}{{{{ end }}}}", default


def _rendered(tokenizer: Any, messages: Messages) -> str:
    told = render(tokenizer, messages)
    if told is None:
        raise ValueError("the template refuses a conversation")
    if "{{" in told:
        raise ValueError("words that Go would take for its own")
    return told


def _cut(text: str, mark: str) -> tuple[str, str]:
    if text.count(mark) != 1:
        raise ValueError("a message is not written once")
    before, _, after = text.partition(mark)
    return before, after
