"""The files that the other runtimes read: ONNX, and its int8 versions, each made once and kept.

Every function takes the folder that the files are in, gives the path of its file, and raises
ImportError where a package is missing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["INPUT", "nncf_int8", "onnx_float", "onnx_int8"]

INPUT = "frame"

Array = NDArray[np.float32]


def onnx_float(folder: Path, network: nn.Module, example: Array) -> Path:
    """The float network, for inputs of the example's shape [1, 3, H, W]."""
    path = folder / "float32.onnx"
    if not path.is_file():
        import onnxscript  # noqa: F401  torch says so only in passing that it needs it

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        made = torch.onnx.export(
            network,
            (torch.from_numpy(example),),
            dynamo=True,
            input_names=[INPUT],
            external_data=False,
            verbose=False,
        )
        assert made is not None
        made.save(_unfinished(path))
        _finish(path)
    return path


def onnx_int8(folder: Path, frames: Sequence[Array], form: str) -> Path:
    """Static QDQ by ONNX Runtime, weights int8 by channel, ranges by minimum and maximum.

    frames: that ranges are taken from. form: activations, `u8` or `s8`, and after a hyphen which
    operators: `all` that can be, or `conv` for convolutions only.
    """
    path = folder / f"int8-{form}.onnx"
    if path.is_file():
        return path
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    activations, operators = form.split("-")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._frames: Iterator[Array] = iter(frames)

        def get_next(self) -> dict[str, Array] | None:
            frame = next(self._frames, None)
            return None if frame is None else {INPUT: frame}

    logging.getLogger().setLevel(logging.ERROR)  # it warns of every batch norm through the root
    ready = folder / "preprocessed.onnx"
    if not ready.is_file():
        quant_pre_process(folder / "float32.onnx", _unfinished(ready), skip_symbolic_shape=True)
        _finish(ready)
    quantize_static(
        ready,
        _unfinished(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
        op_types_to_quantize=["Conv"] if operators == "conv" else None,
    )
    _finish(path)
    return path


def nncf_int8(folder: Path, frames: Sequence[Array], preset: str) -> Path:
    """Post-training quantization by NNCF. preset: `performance` or `mixed`."""
    path = folder / f"nncf-{preset}.xml"
    if path.is_file():
        return path
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    float32 = openvino.Core().read_model(folder / "float32.onnx")
    quantized: Any = nncf.quantize(
        float32,
        nncf.Dataset(list(frames)),
        preset=nncf.QuantizationPreset(preset),
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(frames),
    )
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        openvino.save_model(quantized, Path(scratch) / path.name, compress_to_fp16=False)
        for made in sorted(Path(scratch).iterdir()):  # .bin before .xml
            made.rename(folder / made.name)
    return path


def _unfinished(path: Path) -> Path:
    return path.with_name(f"unfinished-{path.name}")


def _finish(path: Path) -> None:
    _unfinished(path).rename(path)
