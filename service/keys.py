"""API keys: made, stored hashed in one file, looked up while the server runs.

A key is `resq_<id>_<secret>`. Its secret is 256 random bits, so there is nothing to guess: a slow
password hash would only slow down the server. SHA-256 with a salt for each key is enough to make a
stolen file useless, and says nothing about two keys being alike.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from resq_core.errors import OptionError
from service.config import ConfigError
from service.scopes import Scope

__all__ = ["FILE", "Key", "KeyStore", "Scope", "add_key", "read_keys", "revoke_key"]

_log = logging.getLogger("resq.keys")

FILE = "keys.json"
_TOKEN = re.compile(r"resq_([0-9a-f]{8})_([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{8}")
_MAX_KEYS = 10_000


class Key(BaseModel):
    """What is kept of a key: everything but the secret. Hash and salt are hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created: AwareDatetime
    revoked: AwareDatetime | None = None
    salt: str
    hash: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def read_keys(folder: Path) -> tuple[Key, ...]:
    """Every key of a data folder, oldest first, those that were revoked as well.

    Raises:
        ConfigError: the file is damaged, or others than its owner may write to it.
        OSError: it cannot be read.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except FileNotFoundError:
        return ()
    if mode & 0o022:
        raise ConfigError(f"others may write to {path}, and so add keys; expected mode 600")
    try:
        return _File.model_validate_json(data).keys
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in what["loc"])
        raise ConfigError(f"{path} is damaged: {where or 'the file'}: {what['msg']}") from None


def add_key(folder: Path, name: str, scopes: tuple[Scope, ...]) -> tuple[Key, str]:
    """Make a key; returns what is kept and the key itself, which nobody can tell afterwards.

    Raises:
        OptionError: the name is not one, or in use.
        ConfigError, OSError: see `read_keys`; or the file cannot be written.
    """
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        raise OptionError(
            f"name is {name!r}; expected 1 to 64 of A-Za-z0-9._-, the first a letter or digit, "
            "and not 8 hexadecimal digits, which would look like an id"
        )
    with _locked(folder):
        keys = read_keys(folder)
        if any(key.name == name and key.revoked is None for key in keys):
            raise OptionError(f"a key has the name {name!r}; expected another, or revoke it first")
        if len(keys) >= _MAX_KEYS:
            raise OptionError(f"{folder / FILE} holds {len(keys)} keys; expected fewer")
        taken = {key.id for key in keys}
        while (identity := secrets.token_hex(4)) in taken:
            pass
        secret, salt = secrets.token_hex(32), secrets.token_hex(16)
        key = Key(
            id=identity,
            name=name,
            scopes=tuple(scope for scope in Scope if scope in scopes),
            created=datetime.now(UTC),
            salt=salt,
            hash=_hash(salt, secret),
        )
        _write(folder, (*keys, key))
    return key, f"resq_{identity}_{secret}"


def revoke_key(folder: Path, which: str) -> Key:
    """Revoke a key by its id or name. It stays in the file, so that revoking the last key leaves
    a server that lets nobody in, not one that lets in everybody.

    Raises:
        OptionError: no key in use has this id or name.
        ConfigError, OSError: see `read_keys`; or the file cannot be written.
    """
    with _locked(folder):
        keys = read_keys(folder)
        found = [k for k in keys if which in (k.id, k.name) and k.revoked is None]
        if not found:
            raise OptionError(f"no key in use has the id or name {which[:64]!r}")
        revoked = found[0].model_copy(update={"revoked": datetime.now(UTC)})
        _write(folder, tuple(revoked if key.id == revoked.id else key for key in keys))
    return revoked


class KeyStore:
    """The keys of a running server. Not thread-safe: the event loop owns it.

    Every look-up compares the file's inode, time and size with what was read last: that costs
    microseconds, and a revoked key is refused from the next look-up on.

    Args:
        folder: the data folder.
        required: keys are needed even where there is none.

    Raises:
        ConfigError, OSError: see `read_keys`.
    """

    def __init__(self, folder: Path, required: bool = False) -> None:
        self._folder = folder
        self._stamp = self._look()
        self._keys = {key.id: key for key in read_keys(folder)}
        self._problem = ""
        self._needed = required or bool(self._keys)

    @property
    def needed(self) -> bool:
        """Callers need a key. Once true it stays so: a lost file opens nothing."""
        self._refresh()
        return self._needed

    def find(self, token: str) -> Key | None:
        """The key in use that a caller holds, or None."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        self._refresh()
        key = self._keys.get(match[1])
        # an unknown id is hashed as well, so that time does not tell which ids there are
        salt, expected = (key.salt, key.hash) if key else ("", _hash("", ""))
        same = hmac.compare_digest(_hash(salt, match[2]), expected)
        return key if key is not None and same and key.revoked is None else None

    def in_use(self, key: Key) -> bool:
        """The key was not revoked since it was found."""
        self._refresh()
        now = self._keys.get(key.id)
        return now is not None and now.hash == key.hash and now.revoked is None

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        try:
            self._keys = {key.id: key for key in read_keys(self._folder)}
            self._problem = ""
        except (ConfigError, PermissionError) as error:
            self._keys, self._needed = {}, True
            self._tell(f"no key is accepted: {error}")
        except OSError as error:  # of the machine, not of the file: looked at again next time
            self._tell(f"changes of the keys do not count for now: {error}")
            return
        self._stamp = stamp
        self._needed = self._needed or bool(self._keys)

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            _log.error("%s", problem)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = (self._folder / FILE).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One command changes the file at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(folder: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file at once; readers see the old one or the new one, whole."""
    path = folder / FILE
    owner = (path if path.exists() else folder).stat()
    fresh = folder / f"{FILE}.{secrets.token_hex(8)}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if os.geteuid() == 0:  # the server may run as somebody else, and has to read it
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(_File(keys=keys).model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
