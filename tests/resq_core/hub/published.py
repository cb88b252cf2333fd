"""A small network's weights, as somebody else would publish them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

import torch

from resq_core.models import PublishedWeights
from resq_core.models.catalogue import entry
from tests.resq_core.hub.shelf import Shelf
from tests.resq_core.models.foreign import mmseg_hrnet, network, without_bias

ARCH = "hrnet_w18_small_v1"


def checkpoint() -> bytes:
    """A PyTorch file under mmseg's names."""
    state = without_bias(network(ARCH), "last_layer.0.bias")
    buffer = io.BytesIO()
    torch.save({"state_dict": {mmseg_hrnet(key): v for key, v in state.items()}}, buffer)
    return buffer.getvalue()


def packed(content: bytes, kind: str) -> bytes:
    """An archive with `train/w.pth` and something else in it."""
    buffer = io.BytesIO()
    members = {"train/log.p": b"cos\nsystem\n", "train/w.pth": content}
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def published(shelf: Shelf, **changes: object) -> PublishedWeights:
    """A catalogue entry for what is on the shelf."""
    facts = {
        "name": "small",
        "arch": ARCH,
        "options": {"num_classes": 19},
        "url": shelf.url(),
        "file": "w.pth",
        "format": "mmseg-hrnet",
        "sha256": hashlib.sha256(shelf.content).hexdigest()[:8],
    }
    known = entry("hrnet-w18-small-v2-cityscapes-mmseg")
    return known.model_copy(update={**facts, **changes})
