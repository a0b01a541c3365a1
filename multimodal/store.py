"""Conversations in SQL: SQLite in WAL mode by default, any SQLAlchemy URL if asked for.

Every call names the owner, so that one person can never read or change what is another's. A
message is written before it is answered and a reply while it streams, so a kill loses at most the
last third of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    String,
    create_engine,
    delete,
    event,
    func,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from multimodal.errors import ConversationNotFoundError, SettingsError, StoreError
from multimodal.messages import Controls, Conversation, Message, Outcome, Part, new_id

TITLE_CHARACTERS = 60
NEW = "New chat"

_parts = TypeAdapter(tuple[Part, ...])
_outcome = TypeAdapter(Outcome | None)
_controls = TypeAdapter(Controls)


class _Base(DeclarativeBase):
    pass


class _Conversation(_Base):
    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_owner", "owner", "updated_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(String(255))
    controls: Mapped[dict[str, Any]] = mapped_column(JSON)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class _Message(_Base):
    __tablename__ = "messages"
    __table_args__ = (Index("ix_messages_conversation", "conversation_id", "position"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"))
    position: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    parts: Mapped[list[Any]] = mapped_column(JSON)
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


@dataclass(frozen=True, slots=True)
class Heading:
    """A conversation as a list shows it."""

    id: str
    title: str
    updated_at: datetime


class Store:
    """All conversations of one database. Raises StoreError, one sentence, for any failure."""

    def __init__(self, url: str) -> None:
        self._place = url
        try:
            address = make_url(url)
            self._place = address.database or url
            self._engine = create_engine(address)
        except ImportError as error:
            raise SettingsError(
                f"--database {address!r} needs the Python package '{error.name}': "
                f"pip install {error.name}"
            ) from error
        except ArgumentError as error:
            raise SettingsError(
                "--database is not an address SQLAlchemy knows. Write one such as "
                "sqlite:////folder/chats.sqlite3 or postgresql+psycopg://user@host/name."
            ) from error
        if address.get_backend_name() == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        with self._translated():
            self._check(self._engine)
            _Base.metadata.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    # ------------------------------------------------------------ conversations

    def create(self, owner: str, controls: Controls | None = None) -> str:
        """Begin an empty conversation and return its id."""
        row = _Conversation(
            id=new_id(),
            owner=owner,
            title=NEW,
            controls=_controls.dump_python(controls or Controls(), mode="json"),
            updated_at=datetime.now(UTC),
        )
        with self._session() as session:
            session.add(row)
            return row.id

    def headings(self, owner: str, limit: int = 200) -> list[Heading]:
        """The owner's conversations that hold a message, the newest first."""
        query = (
            select(_Conversation)
            .where(_Conversation.owner == owner)
            .where(select(_Message.id).where(_Message.conversation_id == _Conversation.id).exists())
            .order_by(_Conversation.updated_at.desc())
            .limit(limit)
        )
        with self._session() as session:
            return [Heading(r.id, r.title, _utc(r.updated_at)) for r in session.scalars(query)]

    def load(self, owner: str, conversation: str) -> Conversation:
        with self._session() as session:
            row = self._owned(session, owner, conversation)
            messages = tuple(_message(m) for m in self._rows(session, conversation))
            return Conversation(messages, _controls.validate_python(row.controls))

    def rename(self, owner: str, conversation: str, title: str) -> None:
        with self._session() as session:
            row = self._owned(session, owner, conversation)
            row.title = " ".join(title.split())[:255] or row.title

    def delete(self, owner: str, conversation: str) -> None:
        with self._session() as session:
            row = self._owned(session, owner, conversation)
            session.execute(delete(_Message).where(_Message.conversation_id == conversation))
            session.delete(row)

    def set_controls(self, owner: str, conversation: str, controls: Controls) -> None:
        with self._session() as session:
            row = self._owned(session, owner, conversation)
            row.controls = _controls.dump_python(controls, mode="json")

    # ------------------------------------------------------------ messages

    def put(self, owner: str, conversation: str, message: Message) -> None:
        """Append `message`, or replace the one with its id."""
        with self._session() as session:
            heading = self._owned(session, owner, conversation)
            row = session.get(_Message, message.id)
            if row is None:
                row = _Message(id=message.id, position=self._next_position(session, conversation))
                row.conversation_id = conversation
                session.add(row)
            elif row.conversation_id != conversation:
                raise StoreError("That message belongs to another conversation.")
            row.role, row.created_at = message.role, message.created_at
            row.parts = _parts.dump_python(message.parts, mode="json")
            row.outcome = _outcome.dump_python(message.outcome, mode="json")
            heading.updated_at = datetime.now(UTC)
            if heading.title == NEW and message.role == "user":
                heading.title = title_of(message)

    def cut(self, owner: str, conversation: str, message: str) -> None:
        """Remove the message with that id and all that follow it."""
        with self._session() as session:
            self._owned(session, owner, conversation)
            row = session.get(_Message, message)
            if row is None or row.conversation_id != conversation:
                raise StoreError("That message is no longer part of this conversation.")
            session.execute(
                delete(_Message)
                .where(_Message.conversation_id == conversation)
                .where(_Message.position >= row.position)
            )

    def media_in_use(self) -> set[str]:
        """The SHA-256 digests of every picture and recording that some message holds."""
        with self._session() as session:
            parts = session.scalars(select(_Message.parts).execution_options(yield_per=1000))
            return {part["sha256"] for row in parts for part in row if "sha256" in part}

    # ------------------------------------------------------------ inside

    def _owned(self, session: Session, owner: str, conversation: str) -> _Conversation:
        row = session.get(_Conversation, conversation)
        if row is None or row.owner != owner:
            raise ConversationNotFoundError(
                "That conversation does not exist, or it is somebody else's."
            )
        return row

    def _rows(self, session: Session, conversation: str) -> Iterator[_Message]:
        query = select(_Message).where(_Message.conversation_id == conversation)
        yield from session.scalars(query.order_by(_Message.position))

    def _next_position(self, session: Session, conversation: str) -> int:
        last = func.max(_Message.position)
        query = select(last).where(_Message.conversation_id == conversation)
        return (session.scalar(query) or 0) + 1

    def _check(self, engine: Engine) -> None:
        if engine.dialect.name != "sqlite":
            return
        with engine.connect() as connection:
            verdict = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if verdict != "ok":
            raise StoreError(self._unreadable(str(verdict)))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._translated(), Session(self._engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(self._sentence(str(getattr(error, "orig", error)))) from error

    def _sentence(self, cause: str) -> str:
        if "full" in cause:
            return f"There is no space left to save the conversation in {self._place}. Free some."
        if "readonly" in cause or "unable to open" in cause or "attempt to write" in cause:
            return f"{self._place} cannot be written. Check its permissions, or choose --data DIR."
        if "not a database" in cause or "malformed" in cause:
            return self._unreadable(cause)
        return f"The conversations in {self._place} cannot be reached: {cause}"

    def _unreadable(self, cause: str) -> str:
        return (
            f"The conversations in {self._place} cannot be read ({cause}). Nothing was changed: "
            "move the file away or put a backup in its place, then start again."
        )


def title_of(message: Message) -> str:
    """What a conversation is called by the first thing that a person says."""
    said = (p.transcript for p in message.recordings if p.transcript)
    words = message.text or next(said, "") or next((p.name for p in message.images), "")
    line = " ".join(words.split())
    if len(line) > TITLE_CHARACTERS:
        line = line[: TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"
    return line or NEW


def _message(row: _Message) -> Message:
    return Message(
        "assistant" if row.role == "assistant" else "user",
        _parts.validate_python(row.parts),
        row.id,
        _utc(row.created_at),
        _outcome.validate_python(row.outcome),
    )


def _utc(moment: datetime) -> datetime:
    """SQLite keeps no time zone; everything written here is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
