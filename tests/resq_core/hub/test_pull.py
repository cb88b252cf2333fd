from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from resq_core.errors import CheckpointError, DownloadError, LicenceError
from resq_core.hub import cache_dir, pull
from resq_core.hub.download import StoppedError
from resq_core.hub.lock import alone_with
from resq_core.models import build, load_weights
from tests.resq_core.hub.published import ARCH, checkpoint, packed, published
from tests.resq_core.hub.shelf import Shelf, serving


@pytest.fixture(scope="module")
def weights() -> bytes:
    return checkpoint()


@pytest.fixture
def shelf(weights: bytes) -> Iterator[Shelf]:
    with serving(Shelf(weights)) as running:
        yield running


def files(cache: Path) -> list[str]:
    """All but locks."""
    found = (p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if not p.name.endswith(".lock"))


def assert_loads(path: Path) -> None:
    with torch.device("meta"):
        net = build(ARCH).to_empty(device="cpu")
    load_weights(net, path)


def test_weights_are_fetched_once(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf)
    first = pull(entry, tmp_path)
    assert first.checksum == "matches"
    assert first.bytes == len(shelf.content)
    assert_loads(first.weights)
    assert pull(entry, tmp_path) == first
    assert len(shelf.asked) == 1
    assert files(tmp_path) == [
        f"checkpoints/{n}" for n in ("small.safetensors", "w.pth", "w.pth.json")
    ]
    pull(entry, tmp_path, again=True)
    assert len(shelf.asked) == 2


def test_what_was_damaged_on_disk_is_made_again(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf)
    first = pull(entry, tmp_path)
    first.download.write_bytes(b"damaged")
    first.weights.write_bytes(b"damaged")
    assert pull(entry, tmp_path) == first
    assert_loads(first.weights)
    assert len(shelf.asked) == 2


def test_a_stopped_download_goes_on(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf, alternative_url=shelf.url("/other"))
    shelf.stop_after = 1_000_000
    with pytest.raises(StoppedError):
        pull(entry, tmp_path)
    shelf.stop_after = None
    assert_loads(pull(entry, tmp_path).weights)
    assert shelf.asked == [("/w.pth", None), ("/w.pth", "bytes=1000000-")]


def test_a_wrong_checksum(tmp_path: Path, shelf: Shelf) -> None:
    got = hashlib.sha256(shelf.content).hexdigest()
    with pytest.raises(DownloadError, match=f"sha256 {got}; expected 00000000"):
        pull(published(shelf, sha256="00000000"), tmp_path)
    assert files(tmp_path) == []


def test_an_advisory_checksum_only_says_so(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf, sha256="00000000", sha256_advisory=True)
    pulled = pull(entry, tmp_path)
    assert pulled.checksum == "differs"
    shelf.content += b" "
    with pytest.raises(DownloadError, match=f"expected {pulled.sha256}"):
        pull(entry, tmp_path, again=True)


def test_without_a_checksum_the_first_download_counts(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf, sha256=None)
    assert pull(entry, tmp_path).checksum == "unknown"
    assert pull(entry, tmp_path).checksum == "pinned"
    shelf.content += b" "
    with pytest.raises(DownloadError, match="expected"):
        pull(entry, tmp_path, again=True)


def test_a_page_instead_of_weights_is_not_kept(tmp_path: Path, shelf: Shelf) -> None:
    whole, shelf.content = shelf.content, b"<html>Too many requests</html>"
    entry = published(shelf, sha256=None)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        pull(entry, tmp_path)
    assert files(tmp_path) == []
    shelf.content = whole
    assert pull(entry, tmp_path).checksum == "unknown"


def test_weights_of_another_network(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.raises(CheckpointError, match=f"its keys look like {ARCH}"):
        pull(published(shelf, arch="hrnet_w18_small"), tmp_path)


def test_the_alternative_address(tmp_path: Path, shelf: Shelf) -> None:
    shelf.redirects = {"/gone": "ftp://127.0.0.1/w"}
    entry = published(shelf, url=shelf.url("/gone"), alternative_url=shelf.url())
    assert_loads(pull(entry, tmp_path).weights)
    shelf.redirects["/w.pth"] = "ftp://127.0.0.1/w"
    with pytest.raises(DownloadError, match=r"/gone redirects to.*; .*w\.pth redirects to"):
        pull(entry, tmp_path, again=True)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_member_of_an_archive(tmp_path: Path, shelf: Shelf, kind: str) -> None:
    shelf.content = packed(shelf.content, kind)
    entry = published(shelf, file=f"all.{kind}", archive_member="train/w.pth")
    pulled = pull(entry, tmp_path)
    assert_loads(pulled.weights)
    assert pull(entry, tmp_path) == pulled
    other = published(shelf, name="other", file=f"all.{kind}", archive_member="train/w.pth")
    assert_loads(pull(other, tmp_path).weights)
    assert len(shelf.asked) == 1  # both share the archive
    assert files(tmp_path) == [
        f"checkpoints/{name}"
        for name in (f"all.{kind}", f"all.{kind}.json", "other.safetensors", "small.safetensors")
    ]
    with pytest.raises(CheckpointError, match="cannot be read"):
        pull(
            published(shelf, name="log", file=f"all.{kind}", archive_member="train/log.p"), tmp_path
        )


def test_a_licence_that_has_to_be_accepted(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf, non_commercial=True, licence="CC BY-NC-SA 4.0")
    with pytest.raises(LicenceError, match=r"non-commercial use only \(CC BY-NC-SA 4\.0\)"):
        pull(entry, tmp_path)
    assert shelf.asked == []
    assert_loads(pull(entry, tmp_path, accept_licence=True).weights)


def test_one_process_at_a_time(tmp_path: Path, shelf: Shelf) -> None:
    entry = published(shelf)
    with (
        alone_with(tmp_path / "checkpoints" / "w.pth"),
        pytest.raises(DownloadError, match="another process is fetching"),
    ):
        pull(entry, tmp_path)
    assert_loads(pull(entry, tmp_path).weights)


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("RESQ_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "resq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "resq"
