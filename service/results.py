"""From what the engine gives to what goes over the wire."""

from __future__ import annotations

from typing import Any

from service.engine import StepOutput
from service.masks import mask_png, mask_polygons, mask_runs, pack_bits, pack_ids, pack_json
from service.messages import Blob, Degraded, Outputs, ResultMeta, Timings

__all__ = ["encode_blobs", "pose_figures", "result_meta"]


def result_meta(
    seq: int,
    pts_us: int,
    out: StepOutput,
    timings: Timings,
    blobs: tuple[Blob, ...],
    degraded: Degraded | None = None,
) -> ResultMeta:
    """The meta of one result."""
    return ResultMeta(
        seq=seq,
        pts_us=pts_us,
        index=out.index,
        is_anchor=out.is_anchor,
        anchor_reason=out.anchor_reason,
        timings=timings,
        bops=out.bops,
        mean_bits=out.mean_bits,
        active_fraction=out.active_fraction,
        clipped_fraction=out.clipped_fraction,
        backend=out.backend,
        **pose_figures(out),
        degraded=degraded,
        blobs=blobs,
    )


def pose_figures(out: StepOutput) -> dict[str, Any]:
    """Keypoints and box of a pose as they stand in results; empty of a mask."""
    if out.pose is None:
        return {}
    points = tuple(
        (round(float(x), 2), round(float(y), 2), round(float(score), 4))
        for x, y, score in out.pose.keypoints
    )
    box = out.pose.box
    sides = (box.x, box.y, box.width, box.height)
    return {"keypoints": points, "box": tuple(round(side, 2) for side in sides)}


def encode_blobs(
    out: StepOutput,
    outputs: Outputs,
    palette: tuple[tuple[int, int, int], ...],
    background: int | None = None,
) -> list[tuple[Blob, bytes]]:
    """Mask, bit map and layers as asked for, each with its descriptor, in wire order.

    background: an id that run lengths and polygons leave out.
    """
    named: list[tuple[Blob, bytes]] = []

    def add(name: str, form: str, data: bytes, shape: tuple[int, ...]) -> None:
        fields = {"name": name, "format": form, "size": len(data), "shape": shape}
        named.append((Blob.model_validate(fields), data))

    if out.ids is None:
        pass  # a pose stands in the meta
    elif outputs.mask == "zlib":
        add("mask", "zlib-ids", pack_ids(out.ids), out.ids.shape)
    elif outputs.mask == "png":
        add("mask", "png", mask_png(out.ids, palette), out.ids.shape)
    elif outputs.mask == "rle":
        add("mask", "zlib-json", pack_json(mask_runs(out.ids, background)), out.ids.shape)
    elif outputs.mask == "polygons":
        add("mask", "zlib-json", pack_json(mask_polygons(out.ids, background)), out.ids.shape)
    if out.bit_map is not None:
        add("bit_map", "zlib-u8", pack_bits(out.bit_map), out.bit_map.shape)
    if outputs.layers and out.layers is not None:
        add("layers", "zlib-json", pack_json(out.layers), (len(out.layers),))
    return named
