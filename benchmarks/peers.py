"""The other runtimes, each with the settings among which its own fastest is chosen.

A candidate opens a job and gives a function from a frame float32 [1, 3, H, W] to the network's
output. What it imports it imports when opened, so that a process holds one runtime only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.job import Job

__all__ = ["CANDIDATES", "INT8_FORMS", "PACKAGES", "Open", "Run"]

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
Open = Callable[[Job], Run]


def _torch(job: Job, layout: str, compiled: bool = False, freezing: bool = False) -> Run:
    import torch

    torch.set_num_threads(job.threads)
    path = Path(job.folder) / "network.pt"
    network: Any = torch.load(path, weights_only=False)  # our own file, moments old
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network = network.to(memory_format=form)
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = freezing
        network = torch.compile(network)
    # freezing is for no_grad; inference_mode is a little faster in eager
    mode = torch.no_grad if compiled else torch.inference_mode

    def run(frame: Array) -> Array:
        with mode():
            output: Array = network(torch.from_numpy(frame).to(memory_format=form)).numpy()
        return output

    return run


def _onnxruntime(job: Job, file: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = Path(job.cache) / file
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(frame: Array) -> Array:
        output: Array = session.run(None, {name: frame})[0]
        return output

    return run


def _openvino(job: Job, file: str, pinned: bool, precision: str | None = None) -> Run:
    import openvino

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "ENABLE_CPU_PINNING": pinned,
    }
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    network = core.read_model(Path(job.cache) / file)
    request = core.compile_model(network, "CPU", settings).create_infer_request()

    def run(frame: Array) -> Array:
        # outputs stay in the request's own memory until its next frame
        output: Array = request.infer({0: frame}, share_inputs=True, share_outputs=True)[0]
        return output

    return run


INT8_FORMS = ("u8-all", "u8-conv", "s8-all")
"""Activations and operators of ONNX Runtime's int8 networks; see `benchmarks.exports`."""

_PINNING = {"pinned": True, "unpinned": False}

CANDIDATES: Mapping[str, Mapping[str, Open]] = {
    "torch_fp32": {
        layout: partial(_torch, layout=layout) for layout in ("channels_last", "contiguous")
    },
    "torch_compile": {
        "plain": partial(_torch, layout="channels_last", compiled=True),
        "freezing": partial(_torch, layout="channels_last", compiled=True, freezing=True),
    },
    "onnxruntime_fp32": {"default": partial(_onnxruntime, file="float32.onnx")},
    "onnxruntime_int8": {
        name: partial(_onnxruntime, file=f"int8-{name}.onnx") for name in INT8_FORMS
    },
    "openvino_fp32": {
        name: partial(_openvino, file="float32.onnx", pinned=pinned, precision="f32")
        for name, pinned in _PINNING.items()
    },
    "openvino_default": {
        name: partial(_openvino, file="float32.onnx", pinned=pinned)
        for name, pinned in _PINNING.items()
    },
    "openvino_int8": {
        f"{preset}, {name}": partial(_openvino, file=f"nncf-{preset}.xml", pinned=pinned)
        for preset in ("performance", "mixed")
        for name, pinned in _PINNING.items()
    },
}

# the one that is imported first; the others only made its files
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch_fp32": ("torch",),
    "torch_compile": ("torch",),
    "onnxruntime_fp32": ("onnxruntime",),
    "onnxruntime_int8": ("onnxruntime",),
    "openvino_fp32": ("openvino",),
    "openvino_default": ("openvino",),
    "openvino_int8": ("openvino", "nncf"),
}
