"""Networks of `transformers`, unedited, through `resq_core.quantize`: one line of JSON each.

    python benchmarks/foreign.py [--only SegFormer] [--frames 30] [--table] [--layers]

Weights are random and made lively (see `foreign_networks`); nothing is downloaded. A line says:

- layers: Linear and Conv calls that are residual-quantized;
- share: of the network's multiply-accumulates that are in them; the rest are products of two
  activations (attention) and layers that stay float;
- layer_shares, with --layers: the same for every quantized layer, in execution order;
- parity: largest difference of the captured float graph from the module, in standard deviations
  of the output, over all floating outputs;
- anchor_equal: a keyframe equals frame quantization at W8A8, bit for bit;
- still_bits: mean bits of a frame equal to the keyframe (reference `keyframe`);
- w8a8, tracked, held: root mean square difference from the float network, in standard deviations
  of its output, the mean over outputs and every fifth frame: of frame quantization, of the tracked
  frames after one keyframe, and of repeating the keyframe's output, which a stream must beat;
- bits, saving: means over the tracked frames after one keyframe, W8A8->W8A{0,4,8}.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from statistics import mean
from typing import Any

import torch
from foreign_networks import NETWORKS, Network, lively, walk
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import resq_core
from resq_core import errors

PRECISION = "W8A8->W8A{0,4,8}"


def floats(output: Any) -> list[Tensor]:
    """The floating tensors of an output that hold more than one value."""
    leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    return [t for t in leaves if t.is_floating_point() and t.numel() > 1]


def worst(a: Any, b: Any) -> float:
    """Largest difference in standard deviations of `a`."""
    pairs = zip(floats(a), floats(b), strict=True)
    return max(((x - y).abs().max() / x.std().clamp_min(1e-30)).item() for x, y in pairs)


def distance(a: Any, b: Any) -> float | None:
    """Root mean square difference in standard deviations of `a`, the mean over outputs.

    None where no output has one shape in both, as with detectors that return what they find.
    """
    pairs = [(x, y) for x, y in zip(floats(a), floats(b), strict=True) if x.shape == y.shape]
    rms = [((x - y).square().mean().sqrt() / x.std().clamp_min(1e-30)).item() for x, y in pairs]
    return sum(rms) / len(rms) if rms else None


def total_macs(module: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of every product and convolution that the module runs."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        module(x)
    return int(counter.get_total_flops()) // 2


def measure(network: Network, frames: int, layers: bool) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    clip = walk(frames + 1, network.height, network.width)
    row: dict[str, Any] = {"name": network.name, "input": f"{network.height}x{network.width}"}
    scenes = [walk(1, network.height, network.width, seed) for seed in range(8)]
    module = lively(network.build(), torch.cat(scenes)).requires_grad_(False)
    first = clip[:1]
    try:
        q = resq_core.quantize(module, PRECISION, period=frames + 1, example=first)
    except errors.CaptureError as error:
        return row | {"captured": False, "reason": str(error)}
    with torch.no_grad():
        parity = worst(module(first), q.float(first))
    macs, total = q.macs(first), total_macs(module, first)
    if layers:
        row["layer_shares"] = {name: round(count / total, 5) for name, count in macs.items()}
    row |= {
        "captured": True,
        "layers": len(macs),
        "share": round(sum(macs.values()) / total, 4),
        "parity": float(f"{parity:.1e}"),
    }
    q.calibrate([clip], samples=6, points=6)
    return row | stream(q, clip)


def stream(q: resq_core.QuantizedModel, clip: Tensor) -> dict[str, Any]:
    """What the quantized network does on the clip."""
    dense, tracked = q.with_precision("W8A8").stream(), q.stream()
    key, frame = tracked.step(clip[:1]), dense.step(clip[:1])
    equal = all(map(torch.equal, floats(key.output), floats(frame.output)))
    still = q.stream(reference="keyframe")
    still.step(clip[:1])
    bits, saving = [], []
    away: dict[str, list[float]] = {"w8a8": [], "tracked": [], "held": []}
    for i in range(1, len(clip)):
        x = clip[i : i + 1]
        result = tracked.step(x, bit_map=True)
        assert result.bit_map is not None
        assert bool(torch.isfinite(result.bit_map).all())
        bits.append(result.mean_bits)
        saving.append(result.bops.saving)
        if i % 5 == 0:
            wanted = q.float(x)
            outputs = (dense.step(x).output, result.output, key.output)
            for values, output in zip(away.values(), outputs, strict=True):
                away_by = distance(wanted, output)
                values += [] if away_by is None else [away_by]
    return {
        "anchor_equal": equal,
        "still_bits": still.step(clip[:1]).mean_bits,
        **{name: round(mean(values), 3) if values else None for name, values in away.items()},
        "bits": round(mean(bits), 2),
        "saving": round(mean(saving), 3),
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    """The rows that were captured, as Markdown."""
    columns = [
        *[
            "name",
            "input",
            "layers",
            "share",
            "parity",
            "still_bits",
            "w8a8",
            "tracked",
            "held",
            "bits",
            "saving",
        ]
    ]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(r[c]) for c in columns) + " |" for r in rows if r["captured"]]
    return "\n".join(lines)


def main() -> None:
    """Print one line of JSON per network, and the table if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--layers", action="store_true", help="every layer's share of MACs")
    parser.add_argument("--table", action="store_true", help="also print a Markdown table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # what the networks say about their own configurations
    rows = []
    for network in NETWORKS:
        if arguments.only.lower() not in network.name.lower():
            continue
        try:
            rows.append(measure(network, arguments.frames, arguments.layers))
        except ImportError as error:
            print(f"{network.name} left out: {str(error).strip()}", file=sys.stderr)
            continue
        print(json.dumps(rows[-1]), flush=True)
    if arguments.table:
        print(as_table(rows))


if __name__ == "__main__":
    main()
