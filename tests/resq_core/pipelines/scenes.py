"""A small video with objects, and STM's three parts run by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resq_core.models.objects import aggregate, crop, object_masks, pad_to_stride
from resq_core.pipelines import QuantizedStm

SIZE = (64, 96)


def pictures(frames: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """A soft background with two squares that walk over it."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    back = np.stack([90 + 50 * np.sin(rows / 9 + k) * np.cos(columns / 11) for k in range(3)], -1)
    back = back + generator.normal(0, 6, back.shape)
    result = []
    for i in range(frames):
        image = back.copy()
        image[12:36, 8 + 2 * i : 32 + 2 * i] = (220, 60, 40)
        image[30:56, 52 - i : 76 - i] = (40, 90, 210)
        result.append(image.clip(0, 255).astype(np.uint8))
    return result


def masks(objects: int, size: tuple[int, int] = SIZE) -> dict[int, np.ndarray]:
    """The first frame's squares, then some places where there is nothing, by id from 1."""
    places = [(12, 36, 8, 32), (30, 56, 52, 76), (0, 10, 0, 20), (0, 10, 60, 90), (56, 64, 4, 40)]
    result = {}
    for object_id, (top, bottom, left, right) in enumerate(places[:objects], 1):
        result[object_id] = np.zeros(size, bool)
        result[object_id][top:bottom, left:right] = True
    return result


def tensors(images: Sequence[np.ndarray]) -> list[Tensor]:
    return [torch.tensor(x).permute(2, 0, 1)[None].float() / 255 for x in images]


@torch.no_grad()
def by_hand(
    model: QuantizedStm,
    images: Sequence[np.ndarray],
    first: dict[int, np.ndarray],
    every: int,
    **options: Any,
) -> Iterator[Tensor]:
    """Probabilities [1, 1 + N, h, w] of the frames after the first, from the parts' streams."""
    streams = {name: part.stream(**options) for name, part in model.parts.items()}
    net, count = model.net, len(first)
    soft = torch.stack([torch.from_numpy(m) for m in first.values()]).float()
    soft = torch.cat([1 - soft.sum(0, keepdim=True), soft])[None]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for i, x in enumerate(tensors(images)):
        padded = pad_to_stride(x)
        if i:
            r4, r3, r2 = streams["Encoder_Q"].step(padded).output
            key, value = net.KV_Q_r4(r4)
            read = [
                net.Memory(torch.stack(k, 1)[None], torch.stack(v, 1)[None], key, value)
                for k, v in zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True)
            ]
            logits = streams["Decoder"].step([torch.cat(read), r3, r2]).output
            slots = aggregate(logits.softmax(1)[:, 1], 1 + count)
            soft = crop(slots, *x.shape[2:]).softmax(1)
            yield soft
        if i % every == 0:
            own, others = object_masks(pad_to_stride(soft), count)
            k, v = net.KV_M_r4(streams["Encoder_M"].step([padded, own, others]).output)
            keys.append(k)
            values.append(v)


@torch.no_grad()
def in_float(
    net: Any, images: Sequence[np.ndarray], first: dict[int, np.ndarray], every: int
) -> Iterator[Tensor]:
    """The same from the float network's own `memorize` and `segment`."""
    count = len(first)
    soft = torch.stack([torch.from_numpy(m) for m in first.values()]).float()
    soft = torch.cat([1 - soft.sum(0, keepdim=True), soft])[None]
    keys = values = torch.empty(0)
    for i, x in enumerate(tensors(images)):
        if i:
            soft = net.segment(x, keys, values, count).softmax(1)
            yield soft
        if i % every == 0:
            k, v = net.memorize(x, soft, count)
            keys, values = (torch.cat([keys, k], 3), torch.cat([values, v], 3)) if i else (k, v)
