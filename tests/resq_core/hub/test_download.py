from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from resq_core.errors import DownloadError
from resq_core.hub.download import Limits, StoppedError, download
from tests.resq_core.hub.shelf import Shelf, serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with serving(Shelf(CONTENT)) as running:
        yield running


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sha256", [None, SHA256, SHA256[:8]])
@pytest.mark.parametrize("say_length", [True, False])
def test_a_whole_file(tmp_path: Path, shelf: Shelf, sha256: str | None, say_length: bool) -> None:
    shelf.say_length = say_length
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "w.pth"
    digest = download(
        shelf.url(), target, sha256, progress=lambda done, total: seen.append((done, total))
    )
    assert digest == SHA256
    assert target.read_bytes() == CONTENT
    assert left(target.parent) == ["w.pth"]
    assert seen[0][0] == 0
    assert seen[-1] == (len(CONTENT), len(CONTENT) if say_length else None)


@pytest.mark.parametrize("tag", ['"one"', ""])
def test_the_next_call_goes_on_where_the_server_stopped(
    tmp_path: Path, shelf: Shelf, tag: str
) -> None:
    target, shelf.tag, shelf.stop_after = tmp_path / "w.pth", tag, 300_000
    with pytest.raises(StoppedError, match=r"after 300000 of 1048576 bytes .* pull again"):
        download(shelf.url(), target, SHA256)
    assert not target.exists()
    assert (tmp_path / "w.pth.part").read_bytes() == CONTENT[:300_000]
    with pytest.raises(StoppedError, match="after 600000 of 1048576"):
        download(shelf.url(), target, SHA256)
    shelf.stop_after = None
    seen: list[int] = []
    download(shelf.url(), target, SHA256, progress=lambda done, total: seen.append(done))
    assert [wanted for _, wanted in shelf.asked] == [None, "bytes=300000-", "bytes=600000-"]
    assert seen[0] == 600_000
    assert target.read_bytes() == CONTENT
    assert left(tmp_path) == ["w.pth"]


def test_a_server_without_ranges_starts_over(tmp_path: Path, shelf: Shelf) -> None:
    shelf.stop_after = 300_000
    with pytest.raises(StoppedError):
        download(shelf.url(), tmp_path / "w.pth")
    shelf.ranges, shelf.stop_after = False, None
    assert download(shelf.url(), tmp_path / "w.pth") == SHA256
    assert left(tmp_path) == ["w.pth"]


def test_a_file_that_changed_meanwhile_starts_over(tmp_path: Path, shelf: Shelf) -> None:
    shelf.stop_after = 300_000
    with pytest.raises(StoppedError):
        download(shelf.url(), tmp_path / "w.pth")
    shelf.content, shelf.tag, shelf.stop_after = CONTENT[::-1], '"two"', None
    download(shelf.url(), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT[::-1]


def test_a_file_that_became_shorter_starts_over(tmp_path: Path, shelf: Shelf) -> None:
    shelf.tag, shelf.stop_after = "", 300_000
    with pytest.raises(StoppedError):
        download(shelf.url(), tmp_path / "w.pth")
    shelf.content, shelf.stop_after = CONTENT[:1000], None
    download(shelf.url(), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT[:1000]


def test_bytes_of_another_address_are_not_gone_on_with(tmp_path: Path, shelf: Shelf) -> None:
    shelf.stop_after = 300_000
    with pytest.raises(StoppedError):
        download(shelf.url("/a"), tmp_path / "w.pth")
    shelf.stop_after = None
    download(shelf.url("/b"), tmp_path / "w.pth", SHA256)
    assert shelf.asked == [("/a", None), ("/b", None)]


def test_a_wrong_checksum_removes_the_file(tmp_path: Path, shelf: Shelf) -> None:
    shelf.content = CONTENT[:-1] + b"!"
    got = hashlib.sha256(shelf.content).hexdigest()
    with pytest.raises(DownloadError, match=f"sha256 {got}; expected {SHA256}"):
        download(shelf.url(), tmp_path / "w.pth", SHA256)
    assert left(tmp_path) == []


def test_a_wrong_size_removes_the_file(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.raises(DownloadError, match="gave 1048576 bytes; expected 7"):
        download(shelf.url(), tmp_path / "w.pth", size=7)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("say_length", "message"), [(True, "has 1048576 bytes; the limit"), (False, "gives more than")]
)
def test_too_big(tmp_path: Path, shelf: Shelf, say_length: bool, message: str) -> None:
    shelf.say_length = say_length
    with pytest.raises(DownloadError, match=message):
        download(shelf.url(), tmp_path / "w.pth", limits=Limits(bytes=len(CONTENT) - 1))
    assert left(tmp_path) == []
    download(shelf.url(), tmp_path / "w.pth", limits=Limits(bytes=len(CONTENT)))


def test_redirections_are_followed_a_few_times(tmp_path: Path, shelf: Shelf) -> None:
    shelf.redirects = {"/0": "/1", "/1": shelf.url("/2"), "/2": "/w.pth", "/round": "/round"}
    download(shelf.url("/0"), tmp_path / "w.pth", SHA256)
    with pytest.raises(DownloadError, match="more than 2 redirections"):
        download(shelf.url("/0"), tmp_path / "x.pth", limits=Limits(redirects=2))
    with pytest.raises(DownloadError, match="more than 5 redirections"):
        download(shelf.url("/round"), tmp_path / "x.pth")


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://127.0.0.1/w", "http://example.org/w", "data:,w"]
)
def test_other_schemes_and_plain_http_elsewhere(tmp_path: Path, shelf: Shelf, address: str) -> None:
    shelf.redirects = {"/away": address}
    with pytest.raises(DownloadError, match="redirects to is not allowed; expected an https://"):
        download(shelf.url("/away"), tmp_path / "w.pth")
    with pytest.raises(DownloadError, match="is not allowed; expected an https://"):
        download(address, tmp_path / "w.pth")
    assert left(tmp_path) == []


@pytest.mark.parametrize("address", ["", "https://", "https://[::1", "w.pth", "https://a b/c"])
def test_what_is_no_address(tmp_path: Path, address: str) -> None:
    with pytest.raises(DownloadError):
        download(address, tmp_path / "w.pth")


def test_other_answers_than_the_file(tmp_path: Path, shelf: Shelf) -> None:
    shelf.status = 404
    with pytest.raises(DownloadError, match="answers 404 Not Found; expected 200"):
        download(shelf.url(), tmp_path / "w.pth")
    shelf.status, shelf.sent_headers = 200, {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="the file as it is"):
        download(shelf.url(), tmp_path / "w.pth")


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DownloadError, match="cannot be fetched"):
            download(f"http://127.0.0.1:{port}/w", tmp_path / "w.pth")


def test_silence_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DownloadError, match="timed out"):
            download(f"http://127.0.0.1:{port}/w", tmp_path / "w.pth", limits=Limits(silence=0.1))


def test_a_call_takes_only_so_long(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.raises(StoppedError, match="took more than 0 seconds"):
        download(shelf.url(), tmp_path / "w.pth", limits=Limits(seconds=0))
    assert (tmp_path / "w.pth.part").stat().st_size > 0
