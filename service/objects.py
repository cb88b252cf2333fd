"""Objects to follow, as clients describe them, and the stream that follows them."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_core.bops import Totals
from resq_core.errors import InputError, OptionError
from resq_core.pipelines import QuantizedStm, VosPipeline
from resq_core.precision import Precision
from resq_core.stream import StepResult, StreamOptions
from resq_core.tasks import VosTask, mask_from_box, mask_from_rle, masks_from_palette
from service.messages import ObjectMask, VosStart
from service.pictures import Picture

__all__ = ["ObjectStream", "read_mask_file", "read_masks"]

Mask = NDArray[np.bool_]
_MAX_PNG_PIXELS = 3840 * 2160


def read_masks(text: str) -> dict[int, Mask]:
    """The objects of a palette PNG in base64: bool [H, W] by palette index, 0 left out.

    Raises:
        InputError: not base64, or no PNG with a palette or one channel of at most 8 bits.
        OptionError: no object in it, or too many.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the mask is no base64; expected a PNG in it") from error
    return _read_png(data)


def read_mask_file(path: Path) -> dict[int, Mask]:
    """The objects of a palette PNG, as `read_masks`; FileNotFoundError where there is none."""
    return _read_png(path.read_bytes())


def _read_png(data: bytes) -> dict[int, Mask]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.mode not in ("P", "L", "1"):
                raise InputError(
                    f"the mask is a PNG of mode {picture.mode}; expected a palette whose "
                    "indices are the object ids"
                )
            if picture.width * picture.height > _MAX_PNG_PIXELS:
                raise InputError(
                    f"the mask has {picture.width}x{picture.height} pixels; expected at most "
                    f"{_MAX_PNG_PIXELS}"
                )
            ids = np.array(picture, dtype=np.uint8)
    except InputError:
        raise
    except Exception as error:  # codecs raise what they like on hostile bytes
        raise InputError("the mask is no readable PNG") from error
    return masks_from_palette(ids)


def _mask(wanted: ObjectMask, size: tuple[int, int]) -> Mask:
    """One object's mask for a picture of (H, W)."""
    if wanted.rle is not None:
        return mask_from_rle(wanted.rle.counts, wanted.rle.size)
    assert wanted.box is not None
    x, y, width, height = wanted.box
    return mask_from_box((x, y, x + width, y + height), size)


class ObjectStream:
    """A `Pipeline` of video object segmentation that begins with its first frame.

    Boxes become masks when the size of the first frame is known.

    Args:
        model: calibrated.
        start: the objects of the first frame.
        options: of all parts.
        max_side: larger pictures are scaled down to this longer side; bounds the state.

    Raises:
        OptionError: no object, too many, or an id given twice.
        InputError: a mask that cannot be read.
    """

    def __init__(
        self, model: QuantizedStm, start: VosStart, options: StreamOptions, max_side: int
    ) -> None:
        self._task = VosTask(max_side)
        self._model, self._options, self._limit = model, options, start.memory_limit
        self._given = {} if start.png is None else read_masks(start.png)
        self._wanted = tuple(start.objects)
        ids = [*self._given, *(wanted.id for wanted in self._wanted)]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise OptionError(f"vos gives the object ids {twice} twice; expected each once")
        if not ids:
            raise OptionError("vos names no object; expected a png or objects with rle or box")
        for wanted in self._wanted:
            if wanted.rle is not None:
                mask_from_rle(wanted.rle.counts, wanted.rle.size)
        self._size = (0, 0)
        self._pipeline: VosPipeline | None = None

    @property
    def precision(self) -> Precision:
        """The bits that it runs at."""
        return self._model.precision

    @property
    def options(self) -> StreamOptions:
        """Period, reference and policy in force for the next frame."""
        return self._options if self._pipeline is None else self._pipeline.options

    @property
    def totals(self) -> Totals:
        """Running sums over all frames so far."""
        return Totals() if self._pipeline is None else self._pipeline.totals

    @property
    def nbytes(self) -> int:
        """Bytes of state that it holds."""
        return 0 if self._pipeline is None else self._pipeline.nbytes

    def step(
        self,
        image: Picture,
        bit_map: bool = False,
        layers: bool = False,
        anchor: str | None = None,
    ) -> StepResult:
        """Run the next frame; the result's `output` is object ids uint8 [H, W].

        Raises:
            InputError: the frame is unusable, or the masks are of another size.
        """
        if self._pipeline is None:
            self._pipeline = self._begin((image.shape[0], image.shape[1]))
        return self._pipeline.step(image, bit_map, layers, anchor)

    def update(self, period: int | None = None, threshold: float | None = None) -> None:
        """Change options from the next frame on."""
        if self._pipeline is None:
            self._options = self._options.but(period=period, threshold=threshold)
        else:
            self._pipeline.update(period=period, threshold=threshold)

    def change(self, add: list[ObjectMask], remove: list[int]) -> None:
        """Follow other objects from the next frame on.

        Raises:
            OptionError: before the first frame, an id in use, or one that is not followed.
            InputError: a mask that does not fit.
        """
        if self._pipeline is None:
            raise OptionError("objects change after the first frame; begin with those you want")
        for wanted in add:
            self._pipeline.add_object(wanted.id, _mask(wanted, self._size))
        for object_id in remove:
            self._pipeline.remove_object(object_id)

    def close(self) -> None:
        """Free the state at once."""
        if self._pipeline is not None:
            self._pipeline.close()

    def _begin(self, size: tuple[int, int]) -> VosPipeline:
        masks = self._given | {wanted.id: _mask(wanted, size) for wanted in self._wanted}
        wrong = [i for i, mask in masks.items() if mask.shape != size]
        if wrong:
            shape = masks[wrong[0]].shape
            raise InputError(
                f"the mask of object {wrong[0]} is {shape[1]}x{shape[0]} pixels and the first "
                f"frame {size[1]}x{size[0]}; expected the same size"
            )
        self._size = size
        options = self._options
        return VosPipeline(
            self._model,
            masks,
            memory_limit=self._limit,
            period=options.period,
            reference=str(options.reference),
            policy=str(options.policy.form),
            threshold=options.policy.threshold,
            task=self._task,
        )
