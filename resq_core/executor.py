"""What a backend offers: one frame of one network at one input size, as keyframe or residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from resq_core.bops import LayerReport
from resq_core.policy import Policy
from resq_core.residual import LayerQuantizers, Reference
from resq_core.state import StreamState

__all__ = [
    "BIT_MAP_STRIDE",
    "REFRESH_PAYS",
    "Executor",
    "FrameRun",
    "GivenUpError",
    "bit_map_cells",
    "refreshes",
]

BIT_MAP_STRIDE = 8
"""Input pixels per side of one cell of a bit map."""


@dataclass(slots=True)
class FrameRun:
    """What one frame gave: the network's output, a report per layer, and the bit map if asked.

    Attributes:
        output: what the module returns.
        layers: in execution order.
        bit_map: float32 [ceil(H/8), ceil(W/8)], mean bits of what each place cost, or None;
            like the output on the device of the inputs.
        refreshed: a keyframe that was made of what differs from the state.
    """

    output: Any
    layers: Sequence[LayerReport]
    bit_map: Tensor | None
    refreshed: bool = False


REFRESH_PAYS = 0.6
"""Active share up to which a keyframe that is made of what differs costs less than a dense one."""


class GivenUpError(Exception):
    """A residual frame, or a keyframe made of what differs, has found too much to do."""


class Executor(Protocol):
    """Runs frames of the shapes that it was made for. Immutable; any number of threads use it.

    Inputs and outputs are the caller's, who may write into both afterwards.
    """

    @property
    def backend(self) -> str:
        """Which backend this is, for people: `reference`, or `native` and its instruction set."""

    def anchor(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference | None,
        refresh: bool,
        bit_map: bool,
    ) -> FrameRun:
        """Run a keyframe and, with a reference, replace `state.memory`.

        Args:
            inputs, bit_map: as everywhere.
            state: of the stream.
            reference: how later frames will refer to this one; None if none will.
            refresh: make it of what differs from `state`, where `refreshes` says that it can be.

        Raises:
            GivenUpError: more than `REFRESH_PAYS` of the first layer's input pixels differ; only a
                dense keyframe can make use of `state` again.
        """

    def residual(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference,
        policy: Policy,
        bit_map: bool,
        most: float = 1.0,
    ) -> FrameRun:
        """Run a residual frame against `state`, which a keyframe of this executor has filled.

        Args:
            inputs, state, reference, policy, bit_map: as everywhere.
            most: the share of the first layer's input pixels that may be active, 0 to 1. With more
                the frame is given up there.

        Raises:
            GivenUpError: of `state`, only a dense keyframe can make use again.
        """


def refreshes(layers: Mapping[str, LayerQuantizers], reference: Reference | None) -> bool:
    """Keyframes after the first are made of what differs from the state: `tracking` on one plane.

    Their outputs are bit for bit those of a dense pass, and cost no peak. The norms ‖x^k‖ of the
    relative policy stay those of the last dense keyframe.
    """
    tracked = reference is Reference.TRACKING
    return tracked and all(layer.refreshable for layer in layers.values())


def bit_map_cells(x: Tensor) -> Tensor:
    """Zeros, one for each cell of the frame; a single one for an input that is no image."""
    height, width = x.shape[-2:] if x.ndim >= 4 else (1, 1)
    cells = -(-height // BIT_MAP_STRIDE), -(-width // BIT_MAP_STRIDE)
    return torch.zeros(cells, device=x.device)
