"""The database behind the conversations: its tables, one session a call, its errors as sentences.

SQLite in WAL mode by default, any SQLAlchemy URL if asked for. A file of SQLite is readable by its
owner alone. Values are handed out as they lie there (`raw_column`), so that one damaged row is the
business of whoever reads it and no end of the query.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    ForeignKey,
    Index,
    String,
    create_engine,
    event,
    inspect,
    select,
    text,
    type_coerce,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, Session, mapped_column
from sqlalchemy.sql.elements import ColumnElement

from multimodal.errors import SettingsError, StoreError
from multimodal.messages import new_id
from multimodal.paths import expand_home
from multimodal.private_files import FILE_MODE, make_private

CREATE_TRIES = 4
CREATE_AGAIN_S = 0.1

log = logging.getLogger(__name__)


class Base(DeclarativeBase):
    pass


class ConversationRow(Base):
    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_owner", "owner", "updated_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(String(255))
    controls: Mapped[dict[str, Any]] = mapped_column(JSON)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class MessageRow(Base):
    __tablename__ = "messages"
    __table_args__ = (Index("ix_messages_conversation", "conversation_id", "position"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"))
    position: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    parts: Mapped[list[Any]] = mapped_column(JSON)
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class VersionRow(Base):
    """The place of an answer among all those to one question, and the person's rating of it; its
    content, too, while another one is shown (see `versions.py`). It goes with the question."""

    __tablename__ = "versions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    question_id: Mapped[str] = mapped_column(
        ForeignKey("messages.id", ondelete="CASCADE"), index=True
    )
    number: Mapped[int]
    rating: Mapped[str | None] = mapped_column(String(8))
    parts: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    replaced_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class MediaRow(Base):
    """A picture or recording that this database once added to the media folder."""

    __tablename__ = "media"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    added_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class PropertyRow(Base):
    """A fact about the whole database."""

    __tablename__ = "properties"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))


class Database:
    """An open database. Raises StoreError, one sentence, for any failure."""

    def __init__(self, url: str) -> None:
        address = _address(url)
        self.name = address.database or url
        """What sentences call it: the file, or the database on its server."""
        try:
            self.engine = create_engine(address)
        except ImportError as error:
            raise SettingsError(
                f"--database {address!r} needs the Python package '{error.name}': "
                f"pip install {error.name}"
            ) from error
        except ArgumentError as error:
            raise _no_address() from error
        self.location = address.render_as_string(hide_password=True)
        if address.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            self.location = self._make_private(address) or self.location
        with self.translated_errors():
            self.had_media_table = self._make_tables()
        self.identity = self._read_identity()
        """Random, made with the database; a copy of the file carries it, too."""

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction, kept at the end."""
        with self.translated_errors(), Session(self.engine) as session:
            yield session
            session.commit()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(self._sentence(str(getattr(error, "orig", error)))) from error

    def _make_tables(self) -> bool:
        """Check the file and make what is missing; return whether the media were listed before."""
        for tries_left in reversed(range(CREATE_TRIES)):
            try:
                self._check()
                had_media_table = inspect(self.engine).has_table(MediaRow.__tablename__)
                Base.metadata.create_all(self.engine)
                return had_media_table
            except DBAPIError:  # another program may be making the same tables
                if not tries_left:
                    raise
                time.sleep(CREATE_AGAIN_S)
        raise AssertionError("the last try returns or raises")

    def _read_identity(self) -> str:
        query = select(PropertyRow.value).where(PropertyRow.name == "identity")
        with self.session() as session:
            if (known := session.scalar(query)) is not None:
                return known
        try:
            with self.translated_errors(), Session(self.engine) as session:
                session.add(PropertyRow(name="identity", value=new_id()))
                session.commit()
        except StoreError as error:  # another process was faster
            if not isinstance(error.__cause__, IntegrityError):
                raise
        with self.session() as session:
            return session.scalars(query).one()

    def _make_private(self, address: URL) -> str | None:
        """Make the file, for its owner alone (SQLite gives those beside it the same mode); return
        its path. A file whose name is an URI is left to SQLite."""
        if address.database in {None, "", ":memory:"} or str(address.database).startswith("file:"):
            return None
        path = Path(str(address.database)).absolute()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
        except OSError as error:
            raise StoreError(self._sentence("unable to open")) from error
        beside = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]
        if [each for each in beside if make_private(each)]:
            log.warning("Others could read %s; now only you can.", path)
        return str(path)

    def _check(self) -> None:
        if self.engine.dialect.name != "sqlite":
            return
        with self.engine.connect() as connection:
            verdict = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if verdict != "ok":
            raise StoreError(self._unreadable(str(verdict)))

    def _sentence(self, cause: str) -> str:
        if "full" in cause:
            return f"There is no space left to save the conversation in {self.name}. Free some."
        if "readonly" in cause or "unable to open" in cause or "attempt to write" in cause:
            return f"{self.name} cannot be written. Check its permissions, or choose --data DIR."
        if "not a database" in cause or "malformed" in cause:
            return self._unreadable(cause)
        return f"The conversations in {self.name} cannot be reached: {cause}"

    def _unreadable(self, cause: str) -> str:
        beside = f"{self.name}-wal and {self.name}-shm"
        return (
            f"The conversations in {self.name} cannot be read ({cause}). Nothing was changed, and "
            "no picture or recording is removed. Put a backup in its place, or rename the file to "
            f"{self.name}.damaged (with {beside}, where they are) and start again with no "
            "conversations; once repaired it can be put back."
        )


def raw_column(column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """The column's values as the driver hands them out, with nothing read into them."""
    return type_coerce(column, String).label(column.key)


def decode_json(value: object) -> Any:
    """The JSON of a stored value, None for NULL. Raises ValueError where it is none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        return json.loads(value) if isinstance(value, str) else value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def decode_moment(value: object) -> datetime:
    """The moment of a stored value, in UTC: SQLite keeps no time zone, and everything written here
    is UTC. Raises ValueError where it is none."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        raise ValueError(f"{value!r} is no moment")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise _no_address() from error
    if address.get_backend_name() != "sqlite" or not (address.database or "").startswith("~"):
        return address
    try:
        return address.set(database=str(expand_home(Path(str(address.database)))))
    except ValueError as error:
        raise SettingsError(f"--database {error}.") from error


def _no_address() -> SettingsError:
    return SettingsError(
        "--database is not an address SQLAlchemy knows. Write one such as "
        "sqlite:////folder/chats.sqlite3 or postgresql+psycopg://user@host/name."
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.text_factory = _readable  # one wrong byte would end the query
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _readable(data: bytes) -> str:
    return data.decode("utf-8", "replace")
