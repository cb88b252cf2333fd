"""Post-training quantization of activations: which samples, and the search of Eq. 8.

Following the paper, keyframe quantizers Φ are fitted on frame activations and residual quantizers
Θ on residuals between a keyframe and a frame 1 to T − 1 after it, all in the float model, each
one separately. Samples are spread evenly over the clips, so give it still and moving material:
ranges fitted on a still scene alone clip as soon as something moves.

The search's extremes come from whole feature maps; its squared error from squares of
`_CROP` pixels, one per sample and layer, half of the residual ones drawn where the residual
is strong. That keeps 64 samples of every layer in memory for all precisions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from resq_core.encodings import Encodings, Granularity, Role, Slot, slots_of
from resq_core.errors import CalibrationError
from resq_core.graph_cache import GraphCache
from resq_core.linear_op import Kind, LinearOp
from resq_core.precision import Precision
from resq_core.ranges import SEARCH_POINTS, search_scale
from resq_core.residual import QuantizedWeight

__all__ = ["DEFAULT_SAMPLES", "Clip", "Progress", "calibrate"]

Clip = Sequence[Tensor] | Sequence[Sequence[Tensor]] | Tensor
"""Frames in order: a sequence of [1, C, H, W], or one tensor [N, C, H, W]; float32.

For a network with several inputs, a sequence of sequences of tensors."""

Progress = Callable[[float], None]
"""Called with a fraction from 0 to 1."""

DEFAULT_SAMPLES = 64
"""c of the paper."""

_CROP = 12


@dataclass(slots=True)
class _Samples:
    """Inputs that one layer saw: extremes over everything, squares of some of it."""

    low: float = 0.0
    high: float = 0.0
    crops: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, crop: Tensor) -> None:
        low, high = x.aminmax()
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        self.crops.append(crop)

    def batches(self) -> list[Tensor]:
        """Crops of one shape stacked along the batch."""
        groups: dict[torch.Size, list[Tensor]] = {}
        for crop in self.crops:
            groups.setdefault(crop.shape, []).append(crop)
        return [torch.cat(group) for group in groups.values()]


def calibrate(
    graphs: GraphCache,
    precisions: Sequence[Precision],
    clips: Sequence[Clip],
    period: int,
    granularity: Granularity,
    samples: int = DEFAULT_SAMPLES,
    points: int = SEARCH_POINTS,
    seed: int = 0,
    progress: Progress | None = None,
    unsigned: bool = False,
) -> Encodings:
    """Fit every activation scale that `precisions` need.

    Args:
        graphs: the network.
        precisions: fitted in one pass over the data.
        clips: video to sample from.
        period: T; residuals reach 1 to T − 1 frames back (1 if T is 1).
        granularity: of the weights that the search quantizes.
        samples: pairs of a keyframe and a later frame.
        points: candidates of the line search.
        seed: of the choice of samples and squares.
        progress: called with a fraction from 0 to 1.
        unsigned: keyframe codes of up to 7 bits run from 0 to 2^b − 1 in layers whose inputs were
            never negative; the paper's signed ones leave half of them unused behind a ReLU.

    Raises:
        CalibrationError: no clips, or none with two frames although residuals are wanted.
        InputError: a frame is unusable.
    """
    if samples < 1 or points < 2:
        raise CalibrationError(
            f"samples is {samples} and points is {points}; expected at least 1 and 2"
        )
    report = progress or (lambda _fraction: None)
    slots = sorted({slot for p in precisions for slot in slots_of(p)})
    needs_residuals = any(slot.role is Role.RESIDUAL for slot in slots)
    generator = torch.Generator().manual_seed(seed)
    pairs = _choose_pairs(clips, samples, period, needs_residuals, generator)
    seen: dict[Role, dict[str, _Samples]] = {role: {} for role in Role}
    ops: dict[str, LinearOp] = {}
    with torch.no_grad():
        for i, (clip, keyframe, later) in enumerate(pairs):
            _observe(graphs, clip, keyframe, later, seen, ops, generator)
            report(0.5 * (i + 1) / len(pairs))
        scales: dict[Slot, dict[str, float]] = {slot: {} for slot in slots}
        bare = frozenset(
            name for name, found in seen[Role.FRAME].items() if unsigned and found.low >= 0
        )
        for i, op in enumerate(ops.values()):
            signed = op.name not in bare
            for slot, scale in _fit_layer(op, slots, signed, seen, granularity, points).items():
                scales[slot][op.name] = scale
            report(0.5 + 0.5 * (i + 1) / len(ops))
    about = {"samples": len(pairs), "points": points, "period": period, "clips": len(clips)}
    without = {slot: bare for slot in slots if slot.may_be_unsigned and bare}
    return Encodings(granularity, scales, about, without)


def _frame(clip: Clip, index: int) -> Tensor | Sequence[Tensor]:
    return clip[index : index + 1] if isinstance(clip, Tensor) else clip[index]


def _choose_pairs(
    clips: Sequence[Clip],
    samples: int,
    period: int,
    needs_residuals: bool,
    generator: torch.Generator,
) -> list[tuple[Clip, int, int]]:
    """(clip, keyframe, later frame), the same number from every clip, spread over its length."""
    shortest = 2 if needs_residuals else 1
    usable = [clip for clip in clips if len(clip) >= shortest]
    if not usable:
        lengths = [len(clip) for clip in clips]
        raise CalibrationError(
            f"calibration got clips of {lengths[:10]} frames; expected at least one clip of "
            f"{shortest} or more frames"
        )
    pairs: list[tuple[Clip, int, int]] = []
    for i in range(samples):
        clip = usable[i % len(usable)]
        turns = -(-(samples - i % len(usable)) // len(usable))
        furthest = min(max(period - 1, 1), len(clip) - 1)
        distance = int(torch.randint(1, furthest + 1, (), generator=generator)) if furthest else 0
        place = (i // len(usable) + torch.rand((), generator=generator).item()) / turns
        keyframe = min(int(place * (len(clip) - distance)), len(clip) - distance - 1)
        pairs.append((clip, keyframe, keyframe + distance))
    return pairs


def _observe(
    graphs: GraphCache,
    clip: Clip,
    keyframe: int,
    later: int,
    seen: dict[Role, dict[str, _Samples]],
    ops: dict[str, LinearOp],
    generator: torch.Generator,
) -> None:
    """Run both frames in float and keep what every layer saw."""
    inputs: dict[str, Tensor] = {}

    def remember(op: LinearOp, x: Tensor) -> Tensor:
        inputs[op.name] = x
        ops.setdefault(op.name, op)
        crop = _crop(op, x, None, generator)
        seen[Role.FRAME].setdefault(op.name, _Samples()).add(x, crop)
        return op.apply(x, op.weight, op.bias)

    def compare(op: LinearOp, x: Tensor) -> Tensor:
        delta = x - inputs[op.name]
        strong = bool(torch.rand((), generator=generator) < 0.5)
        crop = _crop(op, delta, delta if strong else None, generator)
        seen[Role.RESIDUAL].setdefault(op.name, _Samples()).add(delta, crop)
        return op.apply(x, op.weight, op.bias)

    first = graphs.inputs(_frame(clip, keyframe))
    graph = graphs.graph(first)
    graph.run(first, remember)
    if later == keyframe:
        return
    second = graphs.inputs(_frame(clip, later))
    if second[0].shape != first[0].shape:
        raise CalibrationError(
            f"frames {keyframe} and {later} of a clip have shapes {list(first[0].shape)} and "
            f"{list(second[0].shape)}; expected one shape within a clip"
        )
    graph.run(second, compare)


def _crop(op: LinearOp, x: Tensor, energy: Tensor | None, generator: torch.Generator) -> Tensor:
    """A square of an image-like input around a random pixel; rows of any other.

    With `energy`, the pixel is drawn with a probability proportional to its squared norm.
    """
    if op.kind is Kind.LINEAR:
        rows = x.reshape(-1, x.shape[-1])
        keep = torch.randint(rows.shape[0], (min(rows.shape[0], _CROP**2),), generator=generator)
        return rows[keep]
    height, width = x.shape[-2:]
    side_h, side_w = (min(n, s) for n, s in zip((height, width), _sides(op), strict=True))
    place = int(torch.randint(height * width, (), generator=generator))
    if energy is not None:
        weights = energy[:1].square().sum(dim=1).flatten()
        if bool(weights.sum() > 0):
            place = int(torch.multinomial(weights.cpu(), 1, generator=generator))
    top = min(max(place // width - side_h // 2, 0), height - side_h)
    left = min(max(place % width - side_w // 2, 0), width - side_w)
    return x[:1, :, top : top + side_h, left : left + side_w].clone()


def _sides(op: LinearOp) -> tuple[int, int]:
    """Sides of a square that the layer's window fits into with room to spare."""
    reach = [d * (k - 1) + 1 for d, k in zip(op.dilation, op.weight.shape[2:], strict=True)]
    return max(_CROP, 2 * reach[0]), max(_CROP, 2 * reach[1])


def _fit_layer(
    op: LinearOp,
    slots: Sequence[Slot],
    signed: bool,
    seen: dict[Role, dict[str, _Samples]],
    granularity: Granularity,
    points: int,
) -> dict[Slot, float]:
    weights: dict[int, Tensor] = {}
    result: dict[Slot, float] = {}
    for slot in slots:
        if slot.weight_bits not in weights:
            quantized = QuantizedWeight.of(op, slot.weight_bits, granularity is Granularity.CHANNEL)
            weights[slot.weight_bits] = quantized.codes * op.channels_to_weight(quantized.scale)
        wanted = weights[slot.weight_bits]
        both = signed or not slot.may_be_unsigned
        scale = _search(op, slot, seen[slot.role].get(op.name), wanted, points, both)
        if scale is None and slot.role is Role.RESIDUAL:
            # never saw a change: a frame's own range cannot clip what may come
            scale = _search(op, slot, seen[Role.FRAME].get(op.name), wanted, points)
        result[slot] = 1.0 if scale is None else scale
    return result


def _search(
    op: LinearOp,
    slot: Slot,
    seen: _Samples | None,
    weight: Tensor,
    points: int,
    signed: bool = True,
) -> float | None:
    if seen is None:
        return None
    bits = slot.activation_bits
    return search_scale(op, seen.batches(), (seen.low, seen.high), bits, weight, points, signed)
