from __future__ import annotations

import pytest
import torch

from resq_core.errors import OptionError, UnknownModelError
from resq_core.models import build, names


def test_names() -> None:
    assert names() == (
        "ddrnet23",
        "ddrnet23_slim",
        "ddrnet39",
        "hrnet_w16_pose",
        "hrnet_w18",
        "hrnet_w18_small",
        "hrnet_w18_small_v1",
        "hrnet_w32_pose",
        "hrnet_w48",
        "hrnet_w48_pose",
        "stm",
    )


def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(UnknownModelError, match=r"'ddrnet'.*ddrnet23, ddrnet23_slim, ddrnet39"):
        build("ddrnet")


def test_unknown_option_lists_what_exists() -> None:
    with pytest.raises(OptionError, match=r"no option classes; .*num_classes, aux_head"):
        build("ddrnet39", classes=3)


@pytest.mark.parametrize("bad", [0, -1, 10_001, 2.0, True, "19", None])
def test_number_of_classes_out_of_range(bad: object) -> None:
    with pytest.raises(OptionError, match="num_classes"):
        build("ddrnet23_slim", num_classes=bad)


def test_aux_head_must_be_a_boolean() -> None:
    with pytest.raises(OptionError, match="aux_head"):
        build("ddrnet23_slim", aux_head=1)


def test_number_of_classes_reaches_both_heads() -> None:
    with torch.device("meta"):
        net = build("ddrnet23_slim", num_classes=7, aux_head=True).eval()
        main, aux = net(torch.empty(1, 3, 64, 64))
    assert main.shape == aux.shape == (1, 7, 8, 8)
