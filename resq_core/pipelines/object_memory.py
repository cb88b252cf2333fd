"""What a stream remembers of its objects: the keys and values of some frames, in float."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resq_core.models.stm import MemoryRead

__all__ = ["ObjectMemory"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object on one frame: key [128, h, w] and value [512, h, w]."""

    frame: int
    key: Tensor
    value: Tensor


class ObjectMemory:
    """Each object's first frame and its newest ones, at most `limit` in all.

    Args:
        limit: frames per object, from 1; at 1 only the first one stays.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[int, list[_Entry]] = {}

    def add(self, frame: int, ids: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Remember a frame of the objects `ids`: keys [N, 128, h, w] and values [N, 512, h, w]."""
        for object_id, key, value in zip(ids, keys, values, strict=True):
            entries = self._entries.setdefault(object_id, [])
            # copies, because a slice would keep every object's tensors alive
            entries.append(_Entry(frame, key.clone(), value.clone()))
            if len(entries) > self._limit:
                del entries[1]

    def read(self, reader: MemoryRead, ids: Sequence[int], key: Tensor, value: Tensor) -> Tensor:
        """What the query, key [1, 128, h, w] and value [1, 512, h, w], finds of each object.

        Objects are read one after another: their memories differ in length, and attention over
        all of them at once would need N times its memory.

        Returns:
            float32 [N, 1024, h, w].
        """
        found = []
        for object_id in ids:
            entries = self._entries[object_id]
            keys = torch.stack([e.key for e in entries], 1)[None]
            values = torch.stack([e.value for e in entries], 1)[None]
            found.append(reader(keys, values, key, value))
        return torch.cat(found)

    def keep(self, ids: Collection[int]) -> None:
        """Forget all objects but these."""
        for object_id in set(self._entries) - set(ids):
            del self._entries[object_id]

    def frames(self, object_id: int) -> tuple[int, ...]:
        """Indices of the frames remembered of an object, in order; none for one not known."""
        return tuple(e.frame for e in self._entries.get(object_id, []))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        entries = [e for of_object in self._entries.values() for e in of_object]
        return sum(e.key.nbytes + e.value.nbytes for e in entries)
