"""Versions of an answer, and what the person thinks of each.

A question may be answered again; its answers are versions of one. The one that is shown, and that
later turns read, is a row of `messages`; the others keep their content in `versions`, where every
answer that has a rating or others beside it has its place. An answer without words, pictures or
sound becomes no version once another is shown.

All functions work within the caller's transaction, on a conversation that is its owner's.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, literal, null, select, update
from sqlalchemy.orm import Session

from multimodal.chats.database import ConversationRow, MessageRow, VersionRow, raw_column
from multimodal.chats.rows import (
    FeedbackCounts,
    FormerAnswer,
    is_empty,
    read_former,
    read_rating,
)
from multimodal.errors import StoreError
from multimodal.messages import Message, Rating

Query = Select[*tuple[Any, ...]]
CONTENT = ("parts", "outcome", "created_at")
GONE = "That answer is no longer part of this conversation."


def with_versions(
    session: Session, conversation: str, messages: tuple[Message, ...]
) -> tuple[Message, ...]:
    """The messages of a conversation, the answers with their rating and the ids of their
    versions."""
    row = VersionRow
    is_former = row.parts.is_not(None).label("is_former")
    query = _of_conversation(
        select(row.id, row.question_id, raw_column(row.rating), is_former), conversation
    )
    known: dict[str, list[Row[Any]]] = defaultdict(list)
    for found in session.execute(query.order_by(row.number)):
        known[found.question_id].append(found)
    if not known:
        return messages
    answers = (
        _with_versions(answer, known[question.id]) if answer.role == "assistant" else answer
        for question, answer in pairwise(messages)
    )
    return (*messages[:1], *answers)


def former_answers(session: Session, conversation: str) -> list[FormerAnswer]:
    """Those that are not shown now, of one question after another, in the order they were made."""
    row = VersionRow
    columns = (raw_column(getattr(row, name)) for name in (*CONTENT, "rating", "replaced_at"))
    query = select(row.id, row.question_id, literal("assistant").label("role"), *columns)
    query = _of_conversation(query, conversation).where(row.parts.is_not(None))
    return [read_former(found) for found in session.execute(query.order_by(row.number))]


def archive(session: Session, conversation: str, answer: str) -> None:
    """Keep the content of an answer that is shown, before its message goes; nothing of one that
    has none. Raises StoreError where it is gone."""
    row = MessageRow
    shown = select(raw_column(row.parts)).where(row.id == answer)
    if is_empty(session.scalar(shown.where(row.conversation_id == conversation))):
        session.execute(delete(VersionRow).where(VersionRow.id == answer))
        return
    _ensure(session, conversation, answer)
    content = {name: _content_of(MessageRow, name, answer) for name in CONTENT}
    kept = update(VersionRow).where(VersionRow.id == answer)
    session.execute(kept.values(**content, replaced_at=datetime.now(UTC)))


def choose(session: Session, conversation: str, version: str) -> None:
    """Show this version in the place of the one shown now. Raises StoreError where it is gone."""
    row = VersionRow
    query = select(row.question_id, row.parts.is_(None).label("is_shown"))
    query = _of_conversation(query, conversation).where(row.id == version)
    found = session.execute(query).one_or_none()
    answer = _answer_to(session, conversation, found.question_id) if found is not None else None
    if answer == version:
        return
    if found is None or answer is None or found.is_shown:
        raise StoreError(GONE)
    archive(session, conversation, answer)
    content = {name: _content_of(VersionRow, name, version) for name in CONTENT}
    shown = update(MessageRow).where(MessageRow.id == answer)
    session.execute(shown.values(id=version, **content))
    taken = update(row).where(row.id == version)
    session.execute(taken.values(parts=null(), outcome=null(), replaced_at=None))


def latest_former(session: Session, conversation: str, answer: str) -> str | None:
    """The version that was shown last before `answer`."""
    row = VersionRow
    question = _question_of(session, conversation, answer)
    query = select(row.id).where(row.question_id == question, row.parts.is_not(None))
    return session.scalar(query.order_by(row.replaced_at.desc(), row.number.desc()).limit(1))


def rate(session: Session, conversation: str, answer: str, rating: Rating | None) -> None:
    """Note what the person thinks of an answer, shown now or not. Raises StoreError where it is
    gone."""
    _ensure(session, conversation, answer)
    session.execute(update(VersionRow).where(VersionRow.id == answer).values(rating=rating))


def count_feedback(session: Session, owner: str) -> FeedbackCounts:
    row = VersionRow
    up, down, redos = (
        session.scalar(_of_owner(owner).with_only_columns(func.count(row.id)).where(condition)) or 0
        for condition in (row.rating == "up", row.rating == "down", row.parts.is_not(None))
    )
    return FeedbackCounts(up, down, redos)


def conversations_with_versions(session: Session, owner: str) -> list[str]:
    """The owner's conversations in which an answer is rated or has versions."""
    return list(session.scalars(_of_owner(owner).distinct()))


# ------------------------------------------------------------ inside


def _of_conversation(query: Query, conversation: str) -> Query:
    joined = query.join(MessageRow, MessageRow.id == VersionRow.question_id)
    return joined.where(MessageRow.conversation_id == conversation)


def _of_owner(owner: str) -> Select[str]:
    """The conversation of each version."""
    query = select(ConversationRow.id).select_from(VersionRow)
    query = query.join(MessageRow, MessageRow.id == VersionRow.question_id)
    return query.join(ConversationRow).where(ConversationRow.owner == owner)


def _with_versions(answer: Message, known: list[Row[Any]]) -> Message:
    rating = next((read_rating(row.rating) for row in known if row.id == answer.id), None)
    ids = [row.id for row in known if row.is_former or row.id == answer.id]
    if answer.id not in ids:
        ids.append(answer.id)
    return replace(answer, rating=rating, versions=tuple(ids) if len(ids) > 1 else ())


def _content_of(kind: type[MessageRow | VersionRow], name: str, answer: str) -> Any:
    """A column as it lies there, whatever it holds, for the database to copy."""
    return select(getattr(kind, name)).where(kind.id == answer).scalar_subquery()


def _ensure(session: Session, conversation: str, answer: str) -> None:
    """Give the answer its place among the versions, the last, where it has none."""
    row = VersionRow
    known = _of_conversation(select(row.id), conversation).where(row.id == answer)
    if session.scalar(known) is not None:
        return
    question = _question_of(session, conversation, answer)
    if question is None:
        raise StoreError(GONE)
    last = session.scalar(select(func.max(row.number)).where(row.question_id == question)) or 0
    place = {"id": answer, "question_id": question, "number": last + 1}
    session.execute(insert(row).values(**place, created_at=datetime.now(UTC)))


def _question_of(session: Session, conversation: str, answer: str) -> str | None:
    """The message right above the answer, which is shown; None where that is none."""
    row = MessageRow
    here = select(row.id, row.role).where(row.conversation_id == conversation)
    position = select(row.position).where(row.id == answer, row.role == "assistant")
    before = here.where(row.position < position.scalar_subquery())
    found = session.execute(before.order_by(row.position.desc()).limit(1)).one_or_none()
    return found.id if found is not None and found.role != "assistant" else None


def _answer_to(session: Session, conversation: str, question: str) -> str | None:
    """The message right below the question; None where that is no answer."""
    row = MessageRow
    here = select(row.id, row.role).where(row.conversation_id == conversation)
    position = select(row.position).where(row.id == question)
    after = here.where(row.position > position.scalar_subquery())
    found = session.execute(after.order_by(row.position).limit(1)).one_or_none()
    return found.id if found is not None and found.role == "assistant" else None
