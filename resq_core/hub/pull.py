"""An entry of the catalogue → weights on disk that our networks load."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from resq_core.errors import CheckpointError, DownloadError, LicenceError
from resq_core.hub.archives import extract
from resq_core.hub.download import Limits, Progress, StoppedError, download, sha256_matches
from resq_core.hub.lock import alone_with
from resq_core.models import PublishedWeights, convert
from resq_core.models.checkpoint_files import sha256_of

__all__ = ["Pulled", "cache_dir", "pull"]

_FOLDER = "checkpoints"


@dataclass(frozen=True)
class Pulled:
    """Published weights on this machine.

    Attributes:
        weights: the `.safetensors` file with official names.
        download: the published file.
        sha256, bytes: of the published file.
        checksum: `matches` the published one; `differs` where that one is advisory; `pinned`, as
            at the first download; or `unknown`, which is pinned from now on.
    """

    weights: Path
    download: Path
    sha256: str
    bytes: int
    checksum: str


def cache_dir() -> Path:
    """`RESQ_CACHE` of the environment, or the user's folder for caches."""
    chosen = os.environ.get("RESQ_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resq"


def pull(
    entry: PublishedWeights,
    cache: Path | None = None,
    *,
    accept_licence: bool = False,
    again: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Download published weights, verify them, and write them with official names beside.

    What is there already is verified and not downloaded again. A file without a published
    checksum must later be what it was at first: its sha256 is kept in `FILE.json`.

    Args:
        entry: of the catalogue.
        cache: folder; None takes `cache_dir()`.
        accept_licence: needed where the licence forbids commercial use.
        again: download even so.
        limits, progress: of the download; None takes `Limits()`, and shows nothing.

    Raises:
        LicenceError: the licence has to be accepted.
        DownloadError: no address gave the right file, or another process is fetching it.
        CheckpointError: the file does not fit the network.
    """
    if entry.non_commercial and not accept_licence:
        raise LicenceError(
            f"{entry.name} is for non-commercial use only ({entry.licence}); "
            "expected --accept-licence from whoever agrees"
        )
    target = (cache or cache_dir()) / _FOLDER / entry.file
    with alone_with(target):
        return _pulled(entry, target, again, limits or Limits(), progress)


def _pulled(
    entry: PublishedWeights, target: Path, again: bool, limits: Limits, progress: Progress | None
) -> Pulled:
    receipt = target.with_name(f"{target.name}.json")
    pinned = None if entry.sha256 and not entry.sha256_advisory else _pinned(receipt)
    expected = pinned if entry.sha256_advisory else entry.sha256 or pinned
    digest = "" if again else _verified(target, expected)
    if not digest:
        digest = _from_anywhere(entry, target, expected, limits, progress)
    weights = target.with_name(f"{entry.name}.safetensors")
    if again or _made_from(weights) != digest:
        try:
            _convert(entry, target, digest, weights, limits)
        except (CheckpointError, DownloadError):
            if not expected:
                target.unlink()  # perhaps a page that says sorry: not to be found here next time
            raise
    size = target.stat().st_size
    receipt.write_text(json.dumps({"sha256": digest, "bytes": size}), "utf-8")
    return Pulled(weights, target, digest, size, _verdict(entry, digest, pinned))


def _verdict(entry: PublishedWeights, digest: str, pinned: str | None) -> str:
    if entry.sha256:
        return "matches" if sha256_matches(digest, entry.sha256) else "differs"
    return "pinned" if pinned else "unknown"


def _verified(target: Path, expected: str | None) -> str:
    """The digest of a file that is there and right; a wrong one is removed."""
    if not target.is_file():
        return ""
    digest = sha256_of(target)
    if sha256_matches(digest, expected):
        return digest
    target.unlink()
    return ""


def _from_anywhere(
    entry: PublishedWeights,
    target: Path,
    expected: str | None,
    limits: Limits,
    progress: Progress | None,
) -> str:
    """The digest of the download from the first address that gives it."""
    urls = [url for url in (entry.url, entry.alternative_url) if url]
    failures = []
    for url in urls:
        try:
            return download(url, target, expected, entry.bytes, limits, progress)
        except StoppedError:
            raise  # another address would start from nothing
        except DownloadError as error:
            failures.append(error)
    raise DownloadError("; ".join(str(error) for error in failures)) from failures[-1]


def _convert(entry: PublishedWeights, source: Path, digest: str, out: Path, limits: Limits) -> None:
    if entry.archive_member is None:
        convert(source, entry.arch, out, entry.options)
        return
    notes = {"archive": source.name, "archive_sha256": digest}
    unpacked = source.with_name(f".{os.getpid()}-{Path(entry.archive_member).name}")
    try:
        extract(source, entry.archive_member, unpacked, limits.bytes)
        convert(unpacked, entry.arch, out, entry.options, notes)
    finally:
        unpacked.unlink(missing_ok=True)


def _made_from(weights: Path) -> str:
    """The digest of the download that a safetensors file was made from, empty if unknown."""
    try:
        with safe_open(weights, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return ""
    return str(metadata.get("archive_sha256") or metadata.get("source_sha256", ""))


def _pinned(receipt: Path) -> str | None:
    try:
        content = json.loads(receipt.read_text("utf-8"))
        return str(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
