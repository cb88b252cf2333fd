from __future__ import annotations

import numpy as np
import pytest

from resq_core.errors import InputError, OptionError
from resq_core.models import STM
from resq_core.pipelines import FloatVos
from resq_core.tasks import VosTask
from tests.resq_core.pipelines.scenes import SIZE, in_float, masks, pictures


@pytest.mark.parametrize("objects", [1, 2])
def test_it_is_the_network_frame_by_frame(net: STM, objects: int) -> None:
    images, first = pictures(4), masks(objects)
    stream = FloatVos(net, first, memory_every=2)
    found = [stream.step(image) for image in images]
    assert all(np.array_equal(found[0] == i, mask) for i, mask in list(first.items())[-1:])
    for ids, soft in zip(found[1:], in_float(net, images, first, 2), strict=True):
        assert np.array_equal(ids, VosTask().postprocess(soft, tuple(first), SIZE))


def test_which_parts_run_and_what_is_remembered(net: STM) -> None:
    stream = FloatVos(net, masks(1), memory_every=2, memory_limit=2)
    ran = []
    for image in pictures(5):
        stream.step(image)
        ran.append(stream.parts)
    both = ("Encoder_Q", "Decoder")
    assert ran == [("Encoder_M",), both, (*both, "Encoder_M"), both, (*both, "Encoder_M")]


def test_what_it_does_not_take(net: STM) -> None:
    with pytest.raises(OptionError, match="memory_every"):
        FloatVos(net, masks(1), memory_every=0)
    stream = FloatVos(net, masks(1))
    with pytest.raises(InputError, match="uint8"):
        stream.step(np.zeros(SIZE, np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"picture is \(64, 80\) and the masks are \(64, 96\)"):
        stream.step(pictures(1, (64, 80))[0])
