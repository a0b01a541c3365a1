"""Conversations in SQL.

Every call names the owner, so that one person can never read or change what is another's. A
message is written before it is answered and a reply while it streams, so a kill loses at most the
last third of a second. A row that is damaged is shown as damaged, and the others are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    CursorResult,
    Select,
    delete,
    exists,
    func,
    insert,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from multimodal.chats import versions
from multimodal.chats.database import (
    ConversationRow,
    Database,
    MediaRow,
    MessageRow,
    VersionRow,
    raw_column,
)
from multimodal.chats.rows import (
    FeedbackCounts,
    FormerAnswer,
    Heading,
    controls_adapter,
    digests_in,
    outcome_adapter,
    parts_adapter,
    read_controls,
    read_heading,
    read_message,
)
from multimodal.chats.titles import NEW, PICTURE, PICTURES, PROVISIONAL, title_of
from multimodal.errors import ConversationNotFoundError, StoreError
from multimodal.messages import Controls, Conversation, Message, Rating, new_id


class Store:
    """All conversations of one database. Raises StoreError, one sentence, for any failure.

    `data` is the folder of the media, so that a database that is moved with it stays the same one.
    """

    def __init__(self, url: str, data: Path | None = None) -> None:
        self._database = Database(url)
        place = self._database.location
        if data is not None and Path(place).is_relative_to(data):
            place = Path(place).relative_to(data).as_posix()
        # A copy of a database has its identity; where it lies tells the two apart.
        told = f"{self._database.identity} {place}"
        self.media_owner = hashlib.sha256(told.encode()).hexdigest()[:16]
        if not self._database.had_media_table:
            self.record_media(self.media_in_use())

    def close(self) -> None:
        self._database.close()

    # ------------------------------------------------------------ conversations

    def create(
        self,
        owner: str,
        controls: Controls | None = None,
        conversation: str | None = None,
        first: Message | None = None,
    ) -> str:
        """Begin a conversation and return its id; with its `first` message, if any, or not at all.

        Raises StoreError where there is one of that id.
        """
        conversation = conversation or new_id()
        values = {
            "id": conversation,
            "owner": owner,
            "title": NEW,
            "controls": controls_adapter.dump_python(controls or Controls(), mode="json"),
            "updated_at": datetime.now(UTC),
        }
        with self._database.session() as session:
            try:
                session.execute(insert(ConversationRow).values(**values))
            except IntegrityError as error:
                raise StoreError("That conversation was begun already. Open it.") from error
            if first is not None:
                self._put(session, conversation, first)
        return conversation

    def headings(self, owner: str, limit: int | None = 200) -> list[Heading]:
        """The owner's conversations that hold a message, the newest first; None for all."""
        row = ConversationRow
        query = (
            select(row.id, raw_column(row.title), raw_column(row.updated_at))
            .where(row.owner == owner)
            .where(exists().where(MessageRow.conversation_id == row.id))
            .order_by(row.updated_at.desc())
            .limit(limit)
        )
        with self._database.session() as session:
            return [read_heading(found) for found in session.execute(query)]

    def load(self, owner: str, conversation: str) -> Conversation:
        """Raises ConversationNotFoundError; a message that cannot be read has its `damage`."""
        row = MessageRow
        query = (
            select(
                row.id,
                raw_column(row.role),
                raw_column(row.parts),
                raw_column(row.outcome),
                raw_column(row.created_at),
            )
            .where(row.conversation_id == conversation)
            .order_by(row.position)
        )
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            messages = tuple(read_message(found) for found in session.execute(query))
            messages = versions.with_versions(session, conversation, messages)
            kept = select(raw_column(ConversationRow.controls)).where(
                ConversationRow.id == conversation
            )
            return Conversation(messages, read_controls(session.scalar(kept), conversation))

    def rename(self, owner: str, conversation: str, title: str) -> None:
        if words := " ".join(title.split())[:255]:
            self._change(owner, conversation, title=words)

    def set_controls(self, owner: str, conversation: str, controls: Controls) -> None:
        kept = controls_adapter.dump_python(controls, mode="json")
        self._change(owner, conversation, controls=kept)

    def delete(self, owner: str, conversation: str) -> None:
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            session.execute(delete(MessageRow).where(MessageRow.conversation_id == conversation))
            session.execute(delete(ConversationRow).where(ConversationRow.id == conversation))

    # ------------------------------------------------------------ messages

    def put_message(self, owner: str, conversation: str, message: Message) -> None:
        """Append `message`, or replace the one with its id."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            self._put(session, conversation, message)

    def has_message(self, owner: str, conversation: str, message: str) -> bool:
        """Whether that message is in that conversation of the owner's."""
        query = (
            select(MessageRow.id)
            .join(ConversationRow, ConversationRow.id == MessageRow.conversation_id)
            .where(MessageRow.id == message, ConversationRow.id == conversation)
            .where(ConversationRow.owner == owner)
        )
        with self._database.session() as session:
            return session.scalar(query) is not None

    def truncate(self, owner: str, conversation: str, message: str) -> None:
        """Remove the message with that id and all that follow it."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            self._cut(session, conversation, message)

    def replace_message(self, owner: str, conversation: str, message: Message) -> None:
        """Put `message` in the place of the one with its id, and remove all that follow it."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            self._cut(session, conversation, message.id)
            self._put(session, conversation, message)

    # ------------------------------------------------------------ answers

    def archive_answer(self, owner: str, conversation: str, answer: str) -> None:
        """Keep the answer of that id as a former one to its question, and remove it and all that
        follow it. Raises StoreError where it is gone."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            versions.archive(session, conversation, answer)
            self._cut(session, conversation, answer)

    def choose_version(self, owner: str, conversation: str, version: str) -> None:
        """Show this answer in the place of another one to the same question. Raises StoreError
        where it is gone."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            versions.choose(session, conversation, version)

    def restore_former(self, owner: str, conversation: str, answer: str) -> None:
        """Show, in the place of `answer`, the one that was shown before it; if there is none,
        nothing changes."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            if (former := versions.latest_former(session, conversation, answer)) is not None:
                versions.choose(session, conversation, former)

    def former_answers(self, owner: str, conversation: str) -> list[FormerAnswer]:
        """The answers that are not shown now, in the order they were made."""
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            return versions.former_answers(session, conversation)

    def rate(self, owner: str, conversation: str, answer: str, rating: Rating | None) -> None:
        """Note what the person thinks of an answer, shown now or not; None forgets that. Raises
        StoreError where it is gone."""
        for is_last_try in (False, True):
            try:
                with self._database.session() as session:
                    self._check_owner(session, owner, conversation)
                    versions.rate(session, conversation, answer, rating)
                return
            except StoreError as error:  # another tab was faster
                if is_last_try or not isinstance(error.__cause__, IntegrityError):
                    raise

    def count_feedback(self, owner: str) -> FeedbackCounts:
        """Of all conversations of the owner."""
        with self._database.session() as session:
            return versions.count_feedback(session, owner)

    def conversations_with_versions(self, owner: str) -> list[str]:
        """Those of the owner in which an answer is rated or has versions."""
        with self._database.session() as session:
            return versions.conversations_with_versions(session, owner)

    # ------------------------------------------------------------ media

    def media_in_use(self) -> set[str]:
        """The SHA-256 digests of every picture and recording that some message or former answer
        holds, those of damaged ones too as far as they can still be read."""
        # One query: between two, an answer could change its place.
        query = union_all(
            select(raw_column(MessageRow.parts)),
            select(raw_column(VersionRow.parts)).where(VersionRow.parts.is_not(None)),
        ).execution_options(yield_per=1000)
        with self._database.session() as session:
            return {digest for kept in session.scalars(query) for digest in digests_in(kept)}

    def record_media(self, digests: Iterable[str]) -> None:
        """Note that these were added to the media folder now, or again."""
        now = datetime.now(UTC)
        with self._database.session() as session:
            for digest in digests:
                session.merge(MediaRow(sha256=digest, added_at=now))

    def recorded_media(self) -> set[str]:
        """Everything that this database once added and did not forget."""
        with self._database.session() as session:
            return set(session.scalars(select(MediaRow.sha256)))

    def unused_media(self, older_than_s: float) -> set[str]:
        """Of those, what was added longer ago than that and is in no message."""
        query = select(MediaRow.sha256).where(MediaRow.added_at < _ago(older_than_s))
        with self._database.session() as session:
            old = set(session.scalars(query))
        return old - self.media_in_use() if old else old

    def forget_media(self, digest: str, older_than_s: float) -> bool:
        """Forget that it was added; False where it was added again meanwhile."""
        row = MediaRow
        old = delete(row).where(row.sha256 == digest, row.added_at < _ago(older_than_s))
        with self._database.session() as session:
            return cast("CursorResult[Any]", session.execute(old)).rowcount > 0

    # ------------------------------------------------------------ inside

    def _check_owner(self, session: Session, owner: str, conversation: str) -> None:
        query = select(ConversationRow.owner).where(ConversationRow.id == conversation)
        if session.scalar(query) != owner:
            raise _not_found()

    def _change(self, owner: str, conversation: str, **values: Any) -> None:
        with self._database.session() as session:
            self._check_owner(session, owner, conversation)
            session.execute(
                update(ConversationRow).where(ConversationRow.id == conversation).values(**values)
            )

    def _put(self, session: Session, conversation: str, message: Message) -> None:
        row = MessageRow
        home = session.scalar(select(row.conversation_id).where(row.id == message.id))
        if home not in {None, conversation}:
            raise StoreError("That message belongs to another conversation.")
        values = {
            "role": message.role,
            "parts": parts_adapter.dump_python(message.parts, mode="json"),
            "outcome": outcome_adapter.dump_python(message.outcome, mode="json"),
            "created_at": message.created_at,
        }
        if home is None:
            position = self._next_position(session, conversation)
            new = {"id": message.id, "conversation_id": conversation, "position": position}
            try:
                session.execute(insert(row).values(**new, **values))
            except IntegrityError as error:  # it was deleted since its owner was looked up
                raise _not_found() from error
        else:
            session.execute(update(row).where(row.id == message.id).values(**values))
        heading = update(ConversationRow).where(ConversationRow.id == conversation)
        session.execute(heading.values(updated_at=datetime.now(UTC)))
        if (title := title_of(message)) != NEW:
            # What is said in a recording names it, not the answer to that.
            replaced = PROVISIONAL if message.role == "user" else (PICTURE, PICTURES)
            unnamed = heading.where(ConversationRow.title.in_(replaced))
            session.execute(unnamed.values(title=title))

    def _cut(self, session: Session, conversation: str, message: str) -> None:
        row = MessageRow
        query: Select[tuple[int]] = select(row.position)
        query = query.where(row.id == message, row.conversation_id == conversation)
        if (position := session.scalar(query)) is None:
            raise StoreError("That message is no longer part of this conversation.")
        session.execute(
            delete(row).where(row.conversation_id == conversation, row.position >= position)
        )

    def _next_position(self, session: Session, conversation: str) -> int:
        last = func.max(MessageRow.position)
        query = select(last).where(MessageRow.conversation_id == conversation)
        return (session.scalar(query) or 0) + 1


def _not_found() -> ConversationNotFoundError:
    return ConversationNotFoundError("That conversation does not exist, or it is somebody else's.")


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
