from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from resq_core.errors import DownloadError
from resq_core.hub.archives import extract

LIMIT = 1 << 16
WEIGHTS = bytes(range(256)) * 16


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_one_member_comes_out(tmp_path: Path, kind: str) -> None:
    make = zipped if kind == "a.zip" else tarred
    members = {"x/other.p": b"no", "x/w.pth": WEIGHTS, "../evil": b"no", "/evil": b"no"}
    archive = make(tmp_path / kind, members)
    extract(archive, "x/w.pth", tmp_path / "out", LIMIT)
    assert (tmp_path / "out").read_bytes() == WEIGHTS
    assert sorted(path.name for path in tmp_path.iterdir()) == [kind, "out"]


@pytest.mark.parametrize("member", ["../evil", "/evil", "x/../../evil", "x\\evil", "", "."])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_paths_that_lead_elsewhere(tmp_path: Path, kind: str, member: str) -> None:
    make = zipped if kind == "a.zip" else tarred
    archive = make(tmp_path / kind, {"../evil": b"no"})
    with pytest.raises(DownloadError, match="no path inside an archive"):
        extract(archive, member, tmp_path / "out", LIMIT)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_member_that_is_absent_or_too_large(tmp_path: Path, kind: str) -> None:
    make = zipped if kind == "a.zip" else tarred
    archive = make(tmp_path / kind, {"big": bytes(LIMIT + 1)})
    assert archive.stat().st_size < LIMIT
    with pytest.raises(DownloadError, match="65537 bytes; the limit is 65536"):
        extract(archive, "big", tmp_path / "out", LIMIT)
    with pytest.raises(DownloadError, match=r"members? called w"):
        extract(archive, "w", tmp_path / "out", LIMIT)
    assert not (tmp_path / "out").exists()


def test_a_tar_that_unpacks_without_end(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar.gz", {"first": bytes(LIMIT * 20), "w": WEIGHTS})
    with pytest.raises(DownloadError, match="too large once unpacked"):
        extract(archive, "w", tmp_path / "out", LIMIT)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_and_folders_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("w")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DownloadError, match="no plain file"):
        extract(tmp_path / "a.tar.gz", "w", tmp_path / "out", LIMIT)


def test_a_link_and_a_name_given_twice_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("w")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("twice", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice", "2")
    with pytest.raises(DownloadError, match="no plain, readable file"):
        extract(tmp_path / "a.zip", "w", tmp_path / "out", LIMIT)
    with pytest.raises(DownloadError, match="has 2 members called twice"):
        extract(tmp_path / "a.zip", "twice", tmp_path / "out", LIMIT)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    make = zipped if kind == "a.zip" else tarred
    noise = bytes((i * i * 7919 >> 5) & 255 for i in range(20_000))
    whole = make(tmp_path / kind, {"w": noise}).read_bytes()
    for broken in (b"", b"nothing", whole[: len(whole) // 2], gzip.compress(b"no tar")):
        (tmp_path / kind).write_bytes(broken)
        with pytest.raises(DownloadError, match=r"cannot be unpacked|has no member"):
            extract(tmp_path / kind, "w", tmp_path / "out", LIMIT)
        assert not (tmp_path / "out").exists()
