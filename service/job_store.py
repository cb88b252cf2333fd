"""Where clip jobs and pulled streams are remembered: SQLite in the data folder, or another database
by its URL."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

if sys.platform != "win32":
    import fcntl

__all__ = ["SCHEMA", "JobStore", "PullRecord", "Record", "StoreError"]

SCHEMA = 1
_BUSY_SECONDS = 5.0  # how long SQLite waits for a lock
_PG_DISK_FULL, _PG_LOCKED = "53100", "55P03"

_META = MetaData()
_VERSION = Table("resq_schema", _META, Column("version", Integer, primary_key=True))
_JOBS = Table(
    "resq_jobs",
    _META,
    Column("id", String(16), primary_key=True),
    Column("created", Double, nullable=False),
    Column("ended", Double),
    Column("state", String(16), nullable=False),
    Column("error", Text),
    Column("spec", Text, nullable=False),
    Column("results", BigInteger, nullable=False),
    Column("expected", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("checkpoint", Text),
    Column("interruptions", Integer, nullable=False),
    Column("interrupted_at", BigInteger, nullable=False),
)
_PULLS = Table(
    "resq_pulls",
    _META,
    Column("id", String(64), primary_key=True),
    Column("created", Double, nullable=False),
    Column("client", String(128), nullable=False),
    Column("options", Text, nullable=False),
)


class StoreError(Exception):
    """The store cannot be used; the message tells the operator why.

    public: what clients may know, who are told no paths and hosts. full: its disk is.
    """

    def __init__(self, message: str, public: str | None = None, full: bool = False) -> None:
        super().__init__(message)
        self.public = public or "the job store cannot be used; the server's log says why"
        self.full = full


@dataclass(frozen=True, slots=True)
class Record:
    """A row: one job.

    Attributes:
        id, state, error: as the REST API says them.
        created, ended: seconds since the epoch; None while it is not finished.
        spec, checkpoint: JSON.
        results, expected: frames.
        size: bytes that are kept of it.
        interruptions: how often in a row a server died at frame `interrupted_at`.
    """

    id: str
    created: float
    ended: float | None
    state: str
    error: str | None
    spec: str
    results: int
    expected: int
    size: int
    checkpoint: str | None
    interruptions: int
    interrupted_at: int


@dataclass(frozen=True, slots=True)
class PullRecord:
    """A row: one pulled stream.

    Attributes:
        id: of the stream.
        created: seconds since the epoch.
        client: whose place it takes.
        options: JSON, credentials included.
    """

    id: str
    created: float
    client: str
    options: str


class JobStore:
    """The tables of jobs and of pulled streams. Methods block; several threads may call them.

    Args:
        folder: the data folder, which this process alone uses until `close` (on Windows nothing
            is locked); holds `jobs.db` where no URL is given.
        url: of another database, which belongs to this server alone.

    Raises:
        StoreError: the folder is in use, the database cannot be reached, is damaged, or was
            written by a newer version; here and by every method.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._url = _parsed(url) if url else URL.create("sqlite", database=str(folder / "jobs.db"))
        self._lock = (folder / ".lock").open("a")
        try:
            self._take_hold(folder)
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def _take_hold(self, folder: Path) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"another server uses the data folder {folder}; give each one its own "
                    "with RESQ_DATA_DIR"
                ) from error

    def _open(self) -> None:
        lite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS}} if lite else {}
        try:
            self._engine = create_engine(self._url, pool_pre_ping=not lite, **options)
        except (ImportError, SQLAlchemyError) as error:
            raise StoreError(
                f"RESQ_DATABASE_URL names {self._url.drivername}, which cannot be used here: "
                f"{error}; expected sqlite, or postgresql+psycopg with resq[postgres] installed"
            ) from error
        if lite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            _keep_private(self._url.database)
        try:
            with self._transaction() as connection:
                if lite and connection.execute(text("PRAGMA quick_check")).scalar() != "ok":
                    raise self._damaged("its own check fails")
                self._check_version(connection)
                _JOBS.create(connection, checkfirst=True)
                _PULLS.create(connection, checkfirst=True)
        except BaseException:
            self._engine.dispose()
            raise

    def _check_version(self, connection: Connection) -> None:
        _VERSION.create(connection, checkfirst=True)
        found = connection.execute(select(_VERSION.c.version)).scalar()
        if found is None:
            connection.execute(insert(_VERSION).values(version=SCHEMA))
        elif found != SCHEMA:
            raise StoreError(
                f"the job store {self._name} has schema {found}; this version of ResQ knows "
                f"schema {SCHEMA}: use the version that wrote it, or another database"
            )

    def load(self) -> list[Record]:
        """Every job, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(select(_JOBS).order_by(_JOBS.c.created, _JOBS.c.id))
            return [Record(**row._mapping) for row in rows]

    def save(self, record: Record) -> None:
        """Write a job, new or known, to the disk."""
        values = asdict(record)
        with self._transaction() as connection:
            known = connection.execute(update(_JOBS).where(_JOBS.c.id == record.id).values(values))
            if known.rowcount == 0:
                connection.execute(insert(_JOBS).values(values))

    def delete(self, name: str) -> None:
        """Forget a job; one that is not there is no error."""
        with self._transaction() as connection:
            connection.execute(delete(_JOBS).where(_JOBS.c.id == name))

    def load_pulls(self) -> list[PullRecord]:
        """Every pulled stream, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(select(_PULLS).order_by(_PULLS.c.created, _PULLS.c.id))
            return [PullRecord(**row._mapping) for row in rows]

    def save_pull(self, record: PullRecord) -> None:
        """Remember a pulled stream in place of one with its id."""
        with self._transaction() as connection:
            connection.execute(delete(_PULLS).where(_PULLS.c.id == record.id))
            connection.execute(insert(_PULLS).values(asdict(record)))

    def delete_pull(self, name: str) -> bool:
        """Forget a pulled stream; whether it was there."""
        with self._transaction() as connection:
            return connection.execute(delete(_PULLS).where(_PULLS.c.id == name)).rowcount > 0

    def close(self) -> None:
        """Release the database and the folder."""
        self._engine.dispose()
        self._lock.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self._translated(error) from error

    @property
    def _name(self) -> str:
        if self._url.get_backend_name() == "sqlite":
            return str(self._url.database)
        return self._url.render_as_string(hide_password=True)

    def _damaged(self, why: str) -> StoreError:
        return StoreError(
            f"the job store {self._name} is damaged: {why}; put a backup in its place, or move it "
            "away to begin a new one"
        )

    def _translated(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # without the details
        state = getattr(cause, "sqlstate", None)
        if code == sqlite3.SQLITE_FULL or state == _PG_DISK_FULL:
            why = "the disk of the job store is full"
            return StoreError(why, why, full=True)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or state == _PG_LOCKED:
            why = "another program keeps the job store locked; try again later"
            return StoreError(why, why)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(str(cause))
        return StoreError(f"the job store {self._name} cannot be used: {cause}")


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:  # without the URL: it may hold a password
        raise StoreError(
            "RESQ_DATABASE_URL is no database URL; expected for example "
            "postgresql+psycopg://user:password@host/name"
        ) from error


def _keep_private(path: str | None) -> None:
    """Nobody else reads the database: it may hold the credentials of cameras."""
    if path and path != ":memory:":
        with contextlib.suppress(OSError):  # the first transaction says what is wrong
            Path(path).touch(0o600)
            Path(path).chmod(0o600)


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
