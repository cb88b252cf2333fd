"""The store of jobs, on real databases."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from service import job_store
from service.cli import app
from service.job_store import SCHEMA, JobStore, Record, StoreError

RECORD = Record("0123456789abcdef", 1.5, None, "queued", None, "{}", 0, 9, 0, None, 0, 0)


def _program(name: str) -> str | None:
    """Of PostgreSQL, which Debian keeps out of the PATH."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(packaged[-1]) if packaged else None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL of its own."""
    initdb, server = _program("initdb"), _program("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, user)
        options = ["--auth", "trust", "--username", "resq", "--no-sync"]
        command = [initdb, "--pgdata", f"{folder}/data", *options]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        listen = ["-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-k", folder]
        with subprocess.Popen([server, *listen], stderr=subprocess.DEVNULL, user=user) as process:
            url = f"postgresql+psycopg://resq@127.0.0.1:{port}/postgres"
            deadline = time.monotonic() + 60
            try:
                while not _answers(url):
                    assert process.poll() is None, "PostgreSQL ended"
                    assert time.monotonic() < deadline, "PostgreSQL does not answer"
                    time.sleep(0.1)
                yield url
            finally:
                process.send_signal(signal.SIGINT)  # a fast shutdown


def _answers(url: str) -> bool:
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    found: str = request.getfixturevalue("postgres")
    return found


def test_what_is_saved_is_there_after_a_restart(tmp_path: Path, url: str | None) -> None:
    store = JobStore(tmp_path, url)
    later = replace(RECORD, id="f" * 16, created=2.5, size=1 << 40)
    for record in (later, RECORD, replace(RECORD, state="done", ended=3.25, error="ü")):
        store.save(record)
    store.close()
    store = JobStore(tmp_path, url)
    assert store.load() == [replace(RECORD, state="done", ended=3.25, error="ü"), later]
    for name in (RECORD.id, later.id, "nobody"):
        store.delete(name)
    assert store.load() == []
    store.close()


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    JobStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        other.execute("UPDATE resq_schema SET version = ?", (SCHEMA + 1,))
    other.close()
    with pytest.raises(StoreError, match=f"has schema {SCHEMA + 1}; .* knows schema {SCHEMA}"):
        JobStore(tmp_path)


def test_a_data_folder_has_one_server(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(StoreError, match="another server uses the data folder"):
        JobStore(tmp_path)
    store.close()
    JobStore(tmp_path).close()


def test_a_damaged_store_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    for i in range(200):
        store.save(replace(RECORD, id=f"{i:016x}", spec="x" * 500))
    store.close()
    path = tmp_path / "jobs.db"
    whole = path.read_bytes()
    monkeypatch.setenv("RESQ_DATA_DIR", str(tmp_path))
    for damaged in (b"no database " * 400, whole[:8192] + bytes(8192) + whole[16384:]):
        path.write_bytes(damaged)
        done = CliRunner().invoke(app, ["serve", "--port", "0"])
        assert isinstance(done.exception, StoreError)
        assert f"{path} is damaged" in str(done.exception)
        assert path.read_bytes() == damaged


def test_a_locked_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "_BUSY_SECONDS", 0.1)
    store = JobStore(tmp_path)
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.save(RECORD)
    other.execute("ROLLBACK")
    other.close()
    store.save(RECORD)
    store.close()


def test_a_wrong_url_is_refused_without_its_password(tmp_path: Path) -> None:
    for url in ("postgres//me:secret@host", "nosuch://me:secret@host/x"):
        with pytest.raises(StoreError, match="RESQ_DATABASE_URL") as caught:
            JobStore(tmp_path, url)
        assert "secret" not in str(caught.value)
