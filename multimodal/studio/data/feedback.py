"""Training data from what a person thinks of the answers in their own chats.

Thumbs make unpaired rows, which KTO learns from; answers that others took the place of make pairs,
which DPO learns from. Both are in the conversational format of TRL
(https://huggingface.co/docs/trl/dataset_formats): the prompt is the conversation above the answer
as a text model reads it, pictures and recordings as the words that were found in them.

A pair is made only where the person's choice is evident: one answer was rated up and the other
down, or the one that is shown was rated up or gone on with, and nothing that was said of the other
contradicts that. Only whole answers of text models teach anything, and only those to words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations
from typing import Any

from multimodal.chats.rows import DAMAGED_OUTCOME, FeedbackCounts, FormerAnswer, Heading
from multimodal.chats.store import Store
from multimodal.errors import ConversationNotFoundError
from multimodal.messages import Controls, Conversation, Message, Rating, Task
from multimodal.turn.request_builder import turns

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a row was made of: the ids of its conversation, its question and its answers (of a pair,
    the chosen one first). `id` names the row among all of its owner's."""

    id: str
    conversation: str
    title: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class FeedbackRows:
    """Rows as TRL's trainers read them, those of the newest conversation first; the origin of each
    has the same index.

    rated: {"prompt": [message, ...], "completion": [message], "label": bool}, for KTO.
    preferences: {"prompt": [message, ...], "chosen": [message], "rejected": [message]}, for DPO.
    A message is {"role": str, "content": str}.
    """

    rated: list[Row] = field(default_factory=list)
    preferences: list[Row] = field(default_factory=list)
    rated_origins: list[Origin] = field(default_factory=list)
    preference_origins: list[Origin] = field(default_factory=list)
    left_out: int = 0
    """Ratings that make no row: of answers that are not whole, are no words of a text model, or
    were rated both ways."""

    def revised(self, changes: Mapping[str, Row | None]) -> FeedbackRows:
        """These rows with others in the place of those whose origin has such an id; None drops
        one."""
        rated = _revised(self.rated, self.rated_origins, changes)
        pairs = _revised(self.preferences, self.preference_origins, changes)
        return replace(
            self,
            rated=[row for row, _ in rated],
            preferences=[row for row, _ in pairs],
            rated_origins=[origin for _, origin in rated],
            preference_origins=[origin for _, origin in pairs],
        )


def read_feedback(store: Store, owner: str) -> FeedbackRows:
    """All rows that the conversations of one owner make. Raises StoreError."""
    found = FeedbackRows()
    left_out = 0
    wanted = set(store.conversations_with_versions(owner))
    for heading in store.headings(owner, limit=None):
        if heading.id not in wanted:
            continue
        with suppress(ConversationNotFoundError):  # it was deleted meanwhile
            known, former = store.load(owner, heading.id), store.former_answers(owner, heading.id)
            for question in _questions(known, former):
                left_out += _add_rows(found, heading, known.controls, question)
    return replace(found, left_out=left_out)


def count_feedback(store: Store, owner: str) -> FeedbackCounts:
    """How much the owner's conversations hold, in words: `str()` of it. Raises StoreError."""
    return store.count_feedback(owner)


# ------------------------------------------------------------ one question


@dataclass(frozen=True)
class _Question:
    """A question, with the conversation above it, and all answers to it: the shown one first.
    `is_kept`: whether the conversation went on with that one."""

    before: tuple[Message, ...]
    answers: tuple[Message, ...]
    is_kept: bool

    @property
    def id(self) -> str:
        return self.before[-1].id


def _questions(known: Conversation, former: Sequence[FormerAnswer]) -> Iterator[_Question]:
    """Those of which an answer is rated or has versions."""
    for index, (question, shown) in enumerate(pairwise(known.messages), 1):
        if shown.role != "assistant" or question.role != "user":
            continue
        others = [answer for answer in former if answer.question == question.id]
        if shown.rating is None and not others:
            continue
        # Who looks at another version of an early answer has not gone on with it.
        decided = max((answer.replaced_at for answer in others), default=shown.created_at)
        is_kept = any(later.created_at > decided for later in known.messages[index + 1 :])
        answers = (shown, *(answer.message for answer in others))
        yield _Question(known.messages[:index], answers, is_kept)


def _add_rows(
    found: FeedbackRows, heading: Heading, controls: Controls, question: _Question
) -> int:
    """Add the rows of a question; return how many of its ratings make none."""
    rated = [answer for answer in question.answers if answer.rating is not None]
    prompt = _prompt(controls, question.before)
    if prompt is None:
        return len(rated)
    answers = _teachable(question.answers)

    def origin(*made_of: Message) -> Origin:
        ids = tuple(answer.id for answer in made_of)
        return Origin("-".join(ids), heading.id, heading.title, question.id, ids)

    for answer in answers:
        if answer.rating is not None:
            words = {"prompt": _copy(prompt), "completion": _completion(answer)}
            found.rated.append(words | {"label": answer.rating == "up"})
            found.rated_origins.append(origin(answer))
    for chosen, rejected in _pairs(answers, question):
        pair = {"chosen": _completion(chosen), "rejected": _completion(rejected)}
        found.preferences.append({"prompt": _copy(prompt)} | pair)
        found.preference_origins.append(origin(chosen, rejected))
    used = {_words(answer) for answer in answers if answer.rating is not None}
    return sum(_words(answer) not in used for answer in rated)


def _pairs(answers: Sequence[Message], question: _Question) -> Iterator[tuple[Message, Message]]:
    """The better and the worse one of each pair of which the person's choice is evident."""
    shown = _words(question.answers[0])
    for better, worse in permutations(answers, 2):
        if better.rating == "down" or worse.rating == "up":
            continue
        is_preferred = _words(better) == shown and (question.is_kept or better.rating == "up")
        if is_preferred or (better.rating == "up" and worse.rating == "down"):
            yield better, worse


def _teachable(answers: Sequence[Message]) -> list[Message]:
    """The whole answers of text models, each once, however often it was given in the same words;
    without those of which ratings contradict each other."""
    ratings: dict[str, set[Rating]] = {}
    first: dict[str, Message] = {}
    for answer in answers:
        if _is_teachable(answer):
            words = _words(answer)
            first.setdefault(words, answer)
            ratings.setdefault(words, set()).update({answer.rating} if answer.rating else ())
    return [
        replace(answer, rating=next(iter(ratings[words]), None))
        for words, answer in first.items()
        if len(ratings[words]) < 2
    ]


def _is_teachable(answer: Message) -> bool:
    outcome = answer.outcome
    if outcome is None or outcome.finish != "stop" or DAMAGED_OUTCOME in outcome.notices:
        return False
    if answer.damage is not None or not _words(answer):
        return False
    if not outcome.routes:
        return True
    route = outcome.routes[-1]
    if route.answer is not None or not route.steps:  # a rule's words, or those of a recording
        return False
    return route.steps[-1].task is Task.TEXT and not route.steps[-1].pictures


def _prompt(controls: Controls, before: tuple[Message, ...]) -> list[dict[str, str]] | None:
    """The conversation as a text model reads it; None where it cannot be read, or where the
    question has no words for one."""
    if any(message.damage for message in before) or not turns(Conversation(before[-1:])):
        return None
    said = [{"role": turn.role, "content": turn.words} for turn in turns(Conversation(before))]
    system = controls.system_prompt.strip()
    return [{"role": "system", "content": system}, *said] if system else said


def _completion(answer: Message) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": _words(answer)}]


def _words(answer: Message) -> str:
    return answer.text.strip()


def _copy(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """For one row alone, so that who edits it changes no other."""
    return [dict(message) for message in messages]


def _revised(
    rows: Sequence[Row], origins: Sequence[Origin], changes: Mapping[str, Row | None]
) -> list[tuple[Row, Origin]]:
    changed = (
        (changes.get(origin.id, row), origin) for row, origin in zip(rows, origins, strict=True)
    )
    return [(row, origin) for row, origin in changed if row is not None]
