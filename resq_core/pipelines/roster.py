"""Which objects a stream follows, and which come with its next frame."""

from __future__ import annotations

from collections.abc import Mapping

from resq_core.errors import InputError, OptionError
from resq_core.tasks.vos import MAX_OBJECTS, Mask, check_mask, check_object_id, check_objects

__all__ = ["Roster"]

Size = tuple[int, int]


class Roster:
    """Objects by id. An id belongs to one object for the whole life of a stream.

    Args:
        objects: masks bool [H, W] of the first frame by id.

    Raises:
        OptionError, InputError: as `check_objects`.
    """

    def __init__(self, objects: Mapping[int, Mask]) -> None:
        self._given = check_objects(objects)
        self._followed: tuple[int, ...] = ()
        self._used = set(self._given)
        self._size: Size | None = None

    @property
    def followed(self) -> tuple[int, ...]:
        """Ids of the objects that earlier frames have shown, in the order in which they came."""
        return self._followed

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of all objects that the next frame will show."""
        return (*self._followed, *self._given)

    def add(self, object_id: int, mask: Mask) -> None:
        """Follow one more object from the next frame on, where it is at `mask`.

        Raises:
            OptionError: the id is out of range or was used before, or there are `MAX_OBJECTS`.
            InputError: the mask is empty, no mask, or not of the stream's size.
        """
        object_id = check_object_id(object_id)
        if object_id in self._used:
            raise OptionError(
                f"object id {object_id} was used before in this stream; expected a new one "
                f"(used are {sorted(self._used)})"
            )
        if len(self.ids) >= MAX_OBJECTS:
            raise OptionError(f"there are {len(self.ids)} objects already, as many as may be")
        size = self._size
        if size is None and self._given:
            size = _size(next(iter(self._given.values())))
        self._given[object_id] = check_mask(object_id, mask, size)
        self._used.add(object_id)

    def remove(self, object_id: int) -> None:
        """Follow an object no more from the next frame on.

        Raises:
            OptionError: it is not followed, or it is the only one.
        """
        if object_id not in self.ids:
            raise OptionError(
                f"object {object_id!r} is not followed; followed are {sorted(self.ids)}"
            )
        if len(self.ids) == 1:
            raise OptionError(
                f"object {object_id} is the only one; add another one first, or close the stream"
            )
        self._given.pop(object_id, None)
        self._followed = tuple(i for i in self._followed if i != object_id)

    def given(self, size: Size) -> dict[int, Mask]:
        """Masks that come with a frame of `size` (H, W), by id.

        Raises:
            InputError: the stream, or a mask, has another size.
        """
        if self._size not in (None, size):
            raise InputError(
                f"the picture is {size} (H, W) and the stream's first one was {self._size}; "
                "expected one size, because its memory cannot be resized"
            )
        for object_id, mask in self._given.items():
            if mask.shape != size:
                raise InputError(
                    f"the picture is {size} (H, W) and the mask of object {object_id} is "
                    f"{mask.shape}; expected one size"
                )
        return dict(self._given)

    def seen(self, size: Size) -> None:
        """A frame was processed: objects that came with it are followed now."""
        self._size = size
        self._followed = self.ids
        self._given = {}


def _size(mask: Mask) -> Size:
    return mask.shape[0], mask.shape[1]
