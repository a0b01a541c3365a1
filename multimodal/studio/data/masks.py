"""Which tokens of a sample are trained; decided here and nowhere else.

The tokens are those that TRL's `SFTTrainer` makes of the same row (`trl/trainer/sft_trainer.py`,
`_prepare_dataset`), and with `loss_on="answers"` the mask is that of `completion_only_loss=True`
for a prompt and its completion and of `assistant_only_loss=True` for a chat:

- `{"text"}`: every token, and the token that ends a text (EOS), which is added unless it is there.
- `{"prompt", "completion"}` of strings: what follows the tokens that the prompt has in common with
  both, and the EOS.
- `{"prompt", "completion"}` of messages: what follows the prompt as it is rendered for an answer.
- `{"messages"}`: every turn of the assistant, from where the prompt of that turn ends up to and
  with the token that ends the turn.

What is done differently, each because TRL refuses the sample or leaves out the token that ends a
turn, so that the model would never learn to stop:

- A chat template without `{% generation %}` marks: TRL has variants with marks of some published
  templates and refuses others. Here the turns are found by rendering parts of the chat, so that
  the tokens are those that the model reads in a chat. (TRL's variant for Qwen 2.5 trains the line
  break before an answer, too.)
- A template whose marks leave out the token that ends a turn: as one without marks.
- A template that ends an answer with no special token: the EOS is added at the end of the sample.
- A template that refuses a message of the system: its words open the first message of the user, as
  in a chat.
- A tokenizer without a chat template: `PLAIN_TEMPLATE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal

from jinja2 import TemplateError

from multimodal.errors import DataError

PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last or m['role'] != 'assistant' %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models that were never taught to chat: a name before each turn, as the chat prompts them, and
the EOS after each answer."""
IGNORED = -100
"""The label of a token without loss, in torch's cross entropy and TRL's collators."""

_GENERATION = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")
_STAND_IN = "Q7stand0in9Z"
"""Words that no template changes and no chat has."""

LossOn = Literal["answers", "everything"]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """`input_ids` and `is_trained` have the same length, at most the one allowed; `is_cut` says
    that the sample was longer."""

    input_ids: list[int]
    is_trained: list[bool]
    is_cut: bool

    @property
    def labels(self) -> list[int]:
        """The tokens with `IGNORED` in place of those that are not trained."""
        pairs = zip(self.input_ids, self.is_trained, strict=True)
        return [token if is_trained else IGNORED for token, is_trained in pairs]


@dataclass(frozen=True, slots=True)
class TokenizedRows:
    """Samples as they are trained, and how many of them were cut, or left out because nothing of
    them was trained after the cut."""

    rows: list[TokenizedRow]
    max_length: int
    cut: int = 0
    dropped: int = 0

    @property
    def notices(self) -> tuple[str, ...]:
        count = len(self.rows) + self.dropped
        told = []
        if self.cut:
            told.append(
                f"{self.cut} of {count} samples ({self.cut / count:.0%}) are longer than "
                f"{self.max_length} tokens and are cut there."
            )
        if self.dropped:
            told.append(
                f"{self.dropped} of {count} samples are left out, because their answers begin "
                f"after {self.max_length} tokens."
            )
        return tuple(told)


def add_plain_template(tokenizer: Any) -> None:
    """Give a tokenizer that has no chat template `PLAIN_TEMPLATE`."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE


def tokenize_rows(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int, loss_on: LossOn
) -> TokenizedRows:
    """All rows, without those of which nothing would be trained after the cut. Raises DataError
    that names the sample, by its number from 1."""
    made, cut, dropped = [], 0, 0
    for number, row in enumerate(rows, 1):
        try:
            one = tokenize_row(row, tokenizer, max_length, loss_on)
        except DataError as error:
            raise DataError(f"Sample {number}: {error}") from error
        cut += one.is_cut
        if any(one.is_trained):
            made.append(one)
        else:
            dropped += 1
    if dropped and not made:
        raise DataError(
            f"Every answer begins after {max_length} tokens, so that nothing would be trained; "
            "allow more with --max-length, or shorten the prompts."
        )
    return TokenizedRows(made, max_length, cut, dropped)


def tokenize_row(
    row: Mapping[str, Any], tokenizer: Any, max_length: int, loss_on: LossOn
) -> TokenizedRow:
    """The first `max_length` tokens of a row of text, prompt and completion, or messages, and which
    of them are trained; none may be left of a row that `is_cut`. `tokenizer` is transformers' own.
    Raises DataError for a row that cannot be masked, or of which no token would be trained."""
    if "messages" in row:
        ids, is_trained = _tokenize_chat(row["messages"], tokenizer, loss_on)
    elif "completion" in row:
        ids, is_trained = _tokenize_completion(row["prompt"], row["completion"], tokenizer)
    else:
        ids = _encode(_append_eos(row["text"], tokenizer), tokenizer, add_special_tokens=True)
        is_trained = [True] * len(ids)
    if loss_on == "everything":
        is_trained = [True] * len(ids)
    if not any(is_trained):
        raise DataError("no token of it would be trained, because its answers are empty.")
    return TokenizedRow(ids[:max_length], is_trained[:max_length], len(ids) > max_length)


def tokenize_prompt(prompt: str | Sequence[Message], tokenizer: Any) -> list[int]:
    """All tokens after which the model is to answer. Raises DataError for messages that the chat
    template refuses."""
    if isinstance(prompt, str):
        return _encode(prompt, tokenizer, add_special_tokens=True)
    chat = _Chat(prompt, tokenizer)
    return _encode(chat.render(chat.messages, is_prompt=True), tokenizer)


def _tokenize_completion(
    prompt: str | Sequence[Message], completion: str | Sequence[Message], tokenizer: Any
) -> tuple[list[int], list[bool]]:
    if isinstance(prompt, str) or isinstance(completion, str):
        text = _append_eos(f"{prompt}{completion}", tokenizer)
        before = _encode(str(prompt), tokenizer, add_special_tokens=True)
        ids = _encode(text, tokenizer, add_special_tokens=True)
    else:
        chat = _Chat([*prompt, *completion], tokenizer)
        prompts = len(chat.messages) - len(completion)
        before = _encode(chat.render(chat.messages[:prompts], is_prompt=True), tokenizer)
        ids = chat.ids
    known = _common(before, ids)
    return ids, [False] * known + [True] * (len(ids) - known)


def _tokenize_chat(
    messages: Sequence[Message], tokenizer: Any, loss_on: LossOn
) -> tuple[list[int], list[bool]]:
    chat = _Chat(messages, tokenizer)
    if loss_on == "everything":
        return chat.ids, [True] * len(chat.ids)
    marked = chat.marked()
    if marked is not None:
        return chat.ids, marked
    is_trained = [False] * len(chat.ids)
    for first, last in chat.turns():
        is_trained[first:last] = [True] * (last - first)
    return chat.ids, is_trained


class _Chat:
    """A chat as the template renders it, and where in it the turns of the assistant are."""

    def __init__(self, messages: Sequence[Message], tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template: str = (
            tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN_TEMPLATE
        )
        self.messages = list(messages)
        try:
            self.text = self.render(self.messages)
        except DataError:
            self.messages = _without_system(self.messages)
            self.text = self.render(self.messages)
        is_answer = bool(self.messages) and self.messages[-1]["role"] == "assistant"
        self._added = "" if self._ends_turn(self.text) or not is_answer else _eos(tokenizer)
        self.text += self._added
        self._border = (0, 0)
        """A character that is known to lie between two tokens, and how many are before it."""

    @cached_property
    def _encoding(self) -> Any:
        return self._tokenizer(
            self.text, add_special_tokens=False, return_offsets_mapping=self._tokenizer.is_fast
        )

    @cached_property
    def ids(self) -> list[int]:
        return list(self._encoding["input_ids"])

    def render(self, messages: Sequence[Message], *, is_prompt: bool = False) -> str:
        """Raises DataError for messages that the template refuses. `is_prompt`: with the words
        after which the model answers."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._template,
                add_generation_prompt=is_prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"the model's chat template refuses it ({error}).") from error
        return text

    def marked(self) -> list[bool] | None:
        """What the template itself marks as the words of the model; None if it marks nothing, or
        leaves out the token that ends a turn."""
        if not _GENERATION.search(self._template) or self._added:
            return None
        marks = self._tokenizer.apply_chat_template(
            self.messages,
            chat_template=self._template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )["assistant_masks"]
        ends = [i for i, mark in enumerate(marks, 1) if mark and not any(marks[i : i + 1])]
        pieces = [self._tokenizer.decode(self.ids[:end]) for end in ends]
        if not pieces or not all(map(self._ends_turn, pieces)):
            return None
        return [bool(mark) for mark in marks]

    def turns(self) -> Iterable[tuple[int, int]]:
        """The first token of each turn of the assistant and the one behind its last. Raises
        DataError where they cannot be told apart from the rest."""
        known = 0
        for index, message in enumerate(self.messages):
            if message["role"] == "assistant":
                begin, end = self._begin(index), self._end(index)
                if not known <= begin < end:
                    raise self._unmaskable()
                known = end
                yield self._token(begin, is_first=True), self._token(end, is_first=False)

    def _begin(self, index: int) -> int:
        """The character at which the model begins to answer in message `index`: behind the prompt
        of this turn, or behind what that has in common with the chat, or, where the template
        renders a part of the chat differently, at the message's own words."""
        before, prompt = self._part(index), self._part(index, is_prompt=True)
        if prompt is not None and self.text.startswith(prompt):
            return len(prompt)
        if prompt is not None and before is not None and self.text.startswith(before):
            return max(_common(prompt, self.text), len(before))
        opening, _ = self._around(self.messages, index)
        if not self.text.startswith(opening):
            raise self._unmaskable()
        return len(opening)

    def _end(self, index: int) -> int:
        """The character behind the turn `index` and what ends it."""
        if index == len(self.messages) - 1:
            return len(self.text)
        part = self._part(index + 1)
        if part is None or not self.text.startswith(part):
            _, rest = self._around(self.messages, index)
            _, ending = self._around(self.messages[: index + 1], index)
            if not (self.text.endswith(rest) and rest.startswith(ending)):
                raise self._unmaskable()
            part = self.text[: len(self.text) - len(rest) + len(ending)]
        return len(part) + self._missed_ending(part)

    def _missed_ending(self, part: str) -> int:
        """Some templates end a turn only once another follows it."""
        eos = _eos(self._tokenizer)
        is_missed = not self._ends_turn(part) and self.text.startswith(eos, len(part))
        return len(eos) if is_missed else 0

    def _part(self, count: int, *, is_prompt: bool = False) -> str | None:
        """The first messages; None for what cannot be rendered without those that follow."""
        if not count and not is_prompt:
            return ""
        try:
            return self.render(self.messages[:count], is_prompt=is_prompt)
        except DataError:
            return None

    def _around(self, messages: Sequence[Message], index: int) -> tuple[str, str]:
        """What the template writes before and behind the words of message `index`."""
        changed = [*messages]
        changed[index] = {**changed[index], "content": _STAND_IN}
        before, found, behind = self.render(changed).partition(_STAND_IN)
        if not found or _STAND_IN in behind:
            raise self._unmaskable()
        return before, behind + (self._added if len(messages) == len(self.messages) else "")

    def _ends_turn(self, text: str) -> bool:
        """Whether a token that is no text is the last of `text`, but for white space."""
        tokens = self._tokenizer.added_tokens_decoder.values()
        return text.rstrip().endswith(tuple(token.content for token in tokens if token.content))

    def _token(self, character: int, *, is_first: bool) -> int:
        """The token that begins at that character. Where one lies across it, that one if it
        `is_first` of the answer, and else the one behind it."""
        for known, count in (self._border, (0, 0)):
            piece = _encode(self.text[known:character], self._tokenizer)
            if piece == self.ids[count : count + len(piece)]:
                self._border = (character, count + len(piece))
                return count + len(piece)
        if not self._tokenizer.is_fast:
            raise self._unmaskable()
        offsets = self._encoding["offset_mapping"]
        behind = (
            index
            for index, (begin, end) in enumerate(offsets)
            if (end > character if is_first else begin >= character)
        )
        return next(behind, len(offsets))

    @staticmethod
    def _unmaskable() -> DataError:
        return DataError(
            "the model's chat template renders its answers so that they cannot be told apart from "
            "the rest; use --loss-on everything, or a card with another chat_template."
        )


def _without_system(messages: list[Message]) -> list[Message]:
    """With the words of the system before those of the first message of the user."""
    match messages:
        case [{"role": "system", "content": str(system)}, {"role": "user"} as first, *rest]:
            return [{**first, "content": f"{system}\n\n{first['content']}"}, *rest]
    return messages


def _append_eos(text: str, tokenizer: Any) -> str:
    eos = _eos(tokenizer)
    return text if text.endswith(eos) else text + eos


def _eos(tokenizer: Any) -> str:
    return tokenizer.eos_token or ""


def _encode(text: str, tokenizer: Any, *, add_special_tokens: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items both begin with."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )
