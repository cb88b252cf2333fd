"""API keys at rest and on the command line, and the buckets that count for them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from resq_core.errors import OptionError
from service.cli import app
from service.config import ConfigError
from service.keys import FILE, KeyStore, Scope, add_key, read_keys, revoke_key
from service.rates import Rate

STREAM = (Scope.STREAM,)


def command(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments], env={"RESQ_DATA_DIR": str(folder)})


def test_a_key_is_shown_once_and_kept_hashed(tmp_path: Path) -> None:
    made = json.loads(
        command(tmp_path, "add", "cam", "--scope", "admin", "--scope", "stream", "--json").stdout
    )
    token = made.pop("key")
    assert re.fullmatch(r"resq_[0-9a-f]{8}_[0-9a-f]{64}", token), "a secret of 256 bits"
    assert (made["name"], made["scopes"], made["revoked"]) == ("cam", ["stream", "admin"], None)
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token.split("_")[2] not in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    listed = command(tmp_path, "list", "--json").stdout
    assert json.loads(listed) == [made]
    kept = json.loads(path.read_text())["keys"][0]
    assert kept["hash"] not in listed
    table = command(tmp_path, "list").stdout
    assert "cam" in table
    assert "stream, admin" in table
    found = KeyStore(tmp_path).find(token)
    assert found is not None
    assert found.id == made["id"] == token.split("_")[1]


def test_equal_secrets_would_not_look_equal(tmp_path: Path) -> None:
    keys = [add_key(tmp_path, f"k{i}", STREAM) for i in range(3)]
    assert len({token for _, token in keys}) == 3
    assert len({key.salt for key, _ in keys}) == 3


def test_only_the_whole_right_key_is_found(tmp_path: Path) -> None:
    key, token = add_key(tmp_path, "a", STREAM)
    other = add_key(tmp_path, "b", STREAM)[1]
    store = KeyStore(tmp_path)
    assert store.find(token) == key
    swapped = f"resq_{key.id}_{other.split('_')[2]}"
    last = "0" if token[-1] != "0" else "1"
    wrong = (swapped, token[:-1] + last, token[:-1], token + "0", token.upper(), "", "é", key.hash)
    assert [store.find(text) for text in wrong] == [None] * len(wrong)


def test_revoking_by_name_or_id(tmp_path: Path) -> None:
    (first, one), (_, two) = (add_key(tmp_path, name, STREAM) for name in ("a", "b"))
    store = KeyStore(tmp_path)
    assert command(tmp_path, "revoke", first.id).exit_code == 0
    assert json.loads(command(tmp_path, "revoke", "b", "--json").stdout)["revoked"]
    assert (store.find(one), store.find(two), store.in_use(first)) == (None, None, False)
    assert store.needed, "without the last key nobody gets in, not everybody"
    assert KeyStore(tmp_path).needed
    for gone in ("b", first.id, "nobody"):
        with pytest.raises(OptionError, match="no key in use"):
            revoke_key(tmp_path, gone)
    assert add_key(tmp_path, "b", STREAM)[0].name == "b", "a name is free again"


def test_a_running_server_follows_the_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    assert not store.needed
    key, token = add_key(tmp_path, "a", STREAM)
    assert store.needed
    assert store.find(token) == key
    (tmp_path / FILE).unlink()
    assert store.find(token) is None
    assert store.needed, "a lost file opens nothing"
    assert KeyStore(tmp_path / "none", required=True).needed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_text("{"), "damaged"),
        (lambda path: path.write_text('{"version": 2}'), "damaged: version"),
        (lambda path: path.chmod(0o620), "expected mode 600"),
    ],
)
def test_a_file_that_cannot_be_trusted_lets_nobody_in(
    tmp_path: Path, spoil: object, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, token = add_key(tmp_path, "a", STREAM)
    store = KeyStore(tmp_path)
    assert callable(spoil)
    path = tmp_path / FILE
    path.rename(tmp_path / "aside")
    path.write_bytes((tmp_path / "aside").read_bytes())  # another inode: it has changed for certain
    path.chmod(0o600)
    spoil(path)
    assert store.find(token) is None
    assert store.needed
    assert words in caplog.text
    with pytest.raises(ConfigError, match=words):
        KeyStore(tmp_path)


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add_key(tmp_path, f"k{i}", STREAM), range(16)))
    assert sorted(key.name for key in read_keys(tmp_path)) == sorted(f"k{i}" for i in range(16))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "a b", "--scope", "stream"), "name is 'a b'"),
        (("add", "deadbeef", "--scope", "stream"), "look like an id"),
        (("add", "taken", "--scope", "stream"), "expected another"),
        (("add", "new"), "Missing option '--scope'"),
        (("add", "new", "--scope", "all"), "'all' is not one of"),
        (("revoke", "nobody"), "no key in use"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    add_key(tmp_path, "taken", STREAM)
    before = (tmp_path / FILE).read_bytes()
    done = command(tmp_path, *arguments)
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("host", "settings", "words"),
    [
        ("0.0.0.0", {}, "resq keys add"),
        ("::", {}, "RESQ_INSECURE=true"),
        ("127.0.0.1", {"RESQ_ALLOWED_ORIGINS": "shop.example"}, "expected scheme://host"),
    ],
)
def test_a_server_that_would_be_open_to_all_does_not_start(
    tmp_path: Path, host: str, settings: dict[str, str], words: str
) -> None:
    code = "from service.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--host", host],
        env=os.environ | {"RESQ_DATA_DIR": str(tmp_path)} | settings,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: RESQ_")
    assert words in done.stderr
    assert "ResQ on" not in done.stderr


def test_a_bucket_refills_evenly() -> None:
    now = [100.0]
    rate = Rate(3, 60, clock=lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 20]
    assert rate.take("b") == 0, "each has its own"
    now[0] += 19
    assert rate.take("a") == pytest.approx(1)
    now[0] += 1
    assert rate.take("a") == 0
    now[0] += 6000
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 20], "it never holds more than fits"
    assert rate.wait("new", 4) == 60, "what never fits waits a whole refill"
    assert rate.take("new", 3) == 0


def test_the_table_of_buckets_is_finite() -> None:
    rate = Rate(1, 60, callers=10, clock=lambda: 0.0)
    rate.take("busy")
    for i in range(1000):
        rate.take(f"address {i}")
        assert rate.take("busy") > 0, "who keeps asking is not forgotten"
    assert len(rate) == 10
