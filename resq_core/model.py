"""The public face: `quantize`, `load` and `QuantizedModel`."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resq_core import models
from resq_core.backends import Backend, Serving
from resq_core.backends.choice import checked_backend
from resq_core.calibrate import DEFAULT_SAMPLES, Clip, Progress, calibrate
from resq_core.device import checked_device
from resq_core.encodings import Encodings, Granularity
from resq_core.errors import CalibrationError, OptionError, SavedModelError
from resq_core.executor import Executor
from resq_core.graph import Graph
from resq_core.graph_cache import GraphCache
from resq_core.linear_op import LinearOp
from resq_core.precision import Precision
from resq_core.ranges import SEARCH_POINTS
from resq_core.runtime import Grid, Runtime
from resq_core.saved import SavedModel
from resq_core.stream import Stream, StreamOptions

__all__ = ["QuantizedModel", "load", "quantize"]


class QuantizedModel:
    """A frozen network at one precision, shared by any number of streams and threads.

    Made by `quantize`, `load` or `with_precision`. Weights never change; calibration replaces the
    scales, and streams that are already open go on with the old ones.
    """

    def __init__(
        self,
        graphs: GraphCache,
        precision: Precision,
        options: StreamOptions,
        grid: Grid,
        encodings: Encodings,
        backend: Backend,
    ) -> None:
        self._graphs, self._precision, self._options = graphs, precision, options
        self._grid, self._encodings, self._backend = grid, encodings, backend
        self._runtime: Runtime | None = None

    @property
    def precision(self) -> Precision:
        """Bits of keyframes and residual frames."""
        return self._precision

    @property
    def options(self) -> StreamOptions:
        """What `stream()` uses where the caller says nothing."""
        return self._options

    @property
    def encodings(self) -> Encodings:
        """The calibrated scales."""
        return self._encodings

    @property
    def grid(self) -> Grid:
        """How the scales of a layer relate."""
        return self._grid

    @property
    def device(self) -> torch.device:
        """Where frames run and outputs are."""
        return self._graphs.device

    @property
    def module(self) -> nn.Module:
        """The frozen float network, on the CPU; its weights are not to be changed."""
        return self._graphs.module

    def with_encodings(self, encodings: Encodings) -> QuantizedModel:
        """The same network, precision and options with other scales; weights are shared."""
        return QuantizedModel(
            self._graphs, self._precision, self._options, self._grid, encodings, self._backend
        )

    def with_network(self, module: nn.Module, encodings: Encodings) -> QuantizedModel:
        """The same precision and options of a network of the same kind with other weights.

        Args:
            module: it is copied.
            encodings: of its layers, for this precision at least.

        Raises:
            CalibrationError: the encodings lack a scale that the precision needs.
            CaptureError, CheckpointError: the network cannot be used.
        """
        encodings.require(self._precision)
        graphs, known = GraphCache(module, self.device), self._graphs.latest()
        if known is not None:
            graphs.graph([torch.zeros(shape) for shape in known.input_shapes])
        return QuantizedModel(
            graphs, self._precision, self._options, self._grid, encodings, self._backend
        )

    def with_precision(self, precision: str | Precision) -> QuantizedModel:
        """The same network, calibration and options at other bits; weights are shared.

        Raises:
            PrecisionError: it does not parse.
            CalibrationError: it needs scales that were not calibrated.
        """
        parsed = Precision.parse(precision)
        self._encodings.require(parsed)
        return QuantizedModel(
            self._graphs, parsed, self._options, self._grid, self._encodings, self._backend
        )

    def with_options(self, options: StreamOptions) -> QuantizedModel:
        """The same network, calibration and precision whose streams start from other options.

        Raises:
            OptionError: the policy has a factor for a layer that there is not.
        """
        self._check_factors(options)
        return QuantizedModel(
            self._graphs, self._precision, options, self._grid, self._encodings, self._backend
        )

    def calibrate(
        self,
        clips: Sequence[Clip],
        samples: int = DEFAULT_SAMPLES,
        points: int = SEARCH_POINTS,
        also: Sequence[str | Precision] = (),
        seed: int = 0,
        progress: Progress | None = None,
        unsigned: bool = False,
    ) -> None:
        """Fit the activation scales on video, for this precision and those in `also`.

        Args:
            clips: preprocessed frames in order, each clip a sequence of float32 [1, C, H, W] or
                one tensor [N, C, H, W]. Mix still and moving scenes.
            samples: c of Eq. 8, pairs of frames.
            points: r of Eq. 8, candidates of the line search.
            also: further precisions that `with_precision` shall offer.
            seed: of the choice of samples.
            progress: called with a fraction from 0 to 1.
            unsigned: keyframe codes of up to 7 bits without a sign, where inputs have none.

        Raises:
            CalibrationError, InputError: the clips cannot be used.
            CaptureError: the network cannot be captured at their size.
        """
        precisions = [self._precision, *(Precision.parse(p) for p in also)]
        fitted = calibrate(
            self._graphs,
            precisions,
            clips,
            self._options.period,
            self._encodings.granularity,
            samples=samples,
            points=points,
            seed=seed,
            progress=progress,
            unsigned=unsigned,
        )
        self._encodings = self._encodings.merged(fitted)
        self._runtime = None

    def float(self, x: Tensor | Sequence[Tensor]) -> Any:
        """The network in float32, as captured: what quantization is measured against."""
        inputs = self._graphs.inputs(x)
        with torch.no_grad():
            graph = self._graphs.graph(inputs)
            return graph.run(inputs, lambda op, v: op.apply(v, op.weight, op.bias))

    def graph(self, x: Tensor | Sequence[Tensor]) -> Graph:
        """The captured network for inputs of this shape, shared and not to be changed."""
        return self._graphs.graph(self._graphs.inputs(x))

    def layer_inputs(self, x: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        """What each quantizable layer is given in the float network, in execution order."""
        inputs = self._graphs.inputs(x)
        found: dict[str, Tensor] = {}

        def note(op: LinearOp, v: Tensor) -> Tensor:
            found[op.name] = v
            return op.apply(v, op.weight, op.bias)

        with torch.no_grad():
            self._graphs.graph(inputs).run(inputs, note)
        return found

    def macs(self, x: Tensor | Sequence[Tensor]) -> dict[str, int]:
        """Multiply-accumulates of each layer, in execution order, for inputs of this shape."""
        return dict(self._graphs.graph(self._graphs.inputs(x)).macs)

    def stream(
        self,
        period: int | None = None,
        reference: str | None = None,
        policy: str | None = None,
        threshold: builtins.float | None = None,
        factors: Mapping[str, builtins.float] | None = None,
        max_active: builtins.float | None = None,
    ) -> Stream:
        """Open a stream; what is not given comes from the model's options.

        Raises:
            OptionError: an option is out of range, or a factor's layer is not the network's.
            CalibrationError: the model is not calibrated.
        """
        options = self._options.but(period, reference, policy, threshold, factors, max_active)
        runtime = self._calibrated()
        self._check_factors(options)
        return Stream(runtime, self._precision, options)

    def serving(self, x: Tensor | Sequence[Tensor]) -> Serving:
        """Which backend runs inputs of this shape at this precision, and why not the native one.

        Raises:
            CalibrationError: the model is not calibrated.
            BackendError: the backend that was asked for cannot run the network.
        """
        return self._calibrated().serving(self._graphs.inputs(x))

    def executor(self, x: Tensor | Sequence[Tensor]) -> Executor:
        """What runs inputs of this shape, for measurements that drive it without a stream.

        Raises:
            CalibrationError: the model is not calibrated.
            BackendError: the backend that was asked for cannot run the network.
        """
        return self._calibrated().executor(self._graphs.inputs(x))

    def _calibrated(self) -> Runtime:
        if not self._encodings.scales:
            raise CalibrationError("the model is not calibrated; call calibrate(clips) first")
        if self._runtime is None:
            self._runtime = Runtime(
                self._graphs, self._encodings, self._precision, self._grid, self._backend
            )
        return self._runtime

    def _check_factors(self, options: StreamOptions) -> None:
        known = {layer for layers in self._encodings.scales.values() for layer in layers}
        unknown = sorted(set(options.policy.factors) - known)
        if known and unknown:
            raise OptionError(
                f"the policy has threshold factors for the layers {unknown[:5]}, which the network "
                f"has not; its layers are {sorted(known)[:5]} and so on"
            )

    def saved_options(self) -> dict[str, Any]:
        """What a file holds beside weights and scales: the arguments of `quantize`."""
        policy = self._options.policy
        rare: dict[str, Any] = {}  # what a part of an STM never has
        if policy.factors:
            rare["factors"] = dict(policy.factors)
        if self._options.max_active != 1:
            rare["max_active"] = self._options.max_active
        return rare | {
            "precision": str(self._precision),
            "period": self._options.period,
            "reference": str(self._options.reference),
            "policy": str(policy.form),
            "threshold": policy.threshold,
            "grid": str(self._grid),
        }

    def save(self, path: str | Path) -> None:
        """Write weights, options and encodings to one file; see docs/saved-models.md.

        Raises:
            CalibrationError: there is nothing calibrated yet.
        """
        graph = self._graphs.latest()
        if not self._encodings.scales or graph is None:
            raise CalibrationError("the model is not calibrated; call calibrate(clips) first")
        SavedModel(
            weights=self._graphs.module.state_dict(),
            architecture=models.architecture_of(self._graphs.module),
            options=self.saved_options(),
            encodings=self._encodings,
            input_shapes=graph.input_shapes,
        ).write(Path(path))


def quantize(
    model: nn.Module,
    precision: str | Precision,
    *,
    period: int = 8,
    reference: str = "tracking",
    policy: str = "relative",
    threshold: float | None = None,
    granularity: str = "channel",
    grid: str = "aligned",
    backend: str = "auto",
    device: str = "cpu",
    example: Tensor | Sequence[Tensor] | None = None,
) -> QuantizedModel:
    """Prepare any network for residual-quantized video inference.

    Args:
        model: any module that `torch.export` can trace; it is copied and not changed.
        precision: e.g. `"W8A8->W8A{0,4,8}"`; see `Precision`.
        period: T, frames from keyframe to keyframe.
        reference: `keyframe`, `previous` or `tracking`; see `resq_core.residual`.
        policy: `paper` or `relative`; see `resq_core.policy`.
        threshold: of the policy; None takes its default.
        granularity: weight scales per `tensor` or per output `channel`.
        grid: residual scales `free` or `aligned`; see `resq_core.runtime.Grid`.
        backend: `auto`, `native` or `reference`; see `resq_core.backends.Backend`.
        device: `cpu`, `cuda`, `cuda:N` or `auto`; see `resq_core.device`.
        example: an input; given one, the network is captured now rather than at its first use.

    Returns:
        A model that needs `calibrate` before it opens streams.

    Raises:
        PrecisionError, OptionError: an argument is out of range, or there is no such device.
        BackendError: `native` was asked for, and cannot be used here or not on the device.
        CaptureError: the network cannot be captured; the message names the module.
        CheckpointError: a weight holds NaN or infinity.
    """
    parsed = Precision.parse(precision)
    options = StreamOptions.of(period, reference, policy, threshold)
    if granularity not in list(Granularity):
        known = [str(g) for g in Granularity]
        raise OptionError(f"granularity is {granularity!r}; expected one of {known}")
    if grid not in list(Grid):
        raise OptionError(f"grid is {grid!r}; expected one of {[str(g) for g in Grid]}")
    place = checked_device(device)
    chosen = checked_backend(backend, place)
    graphs = GraphCache(model, place)
    if example is not None:
        graphs.graph(graphs.inputs(example))
    encodings = Encodings(Granularity(granularity), {}, {})
    return QuantizedModel(graphs, parsed, options, Grid(grid), encodings, chosen)


def load(
    path: str | Path,
    model: nn.Module | None = None,
    backend: str = "auto",
    device: str = "cpu",
) -> QuantizedModel:
    """Read what `QuantizedModel.save` wrote.

    Args:
        path: the file.
        model: the network, for one that `resq_core.models.build` does not know; its weights are
            taken from the file.
        backend: `auto`, `native` or `reference`; see `resq_core.backends.Backend`.
        device: `cpu`, `cuda`, `cuda:N` or `auto`; see `resq_core.device`.

    Raises:
        OptionError, BackendError: there is no such backend or device, or `native` cannot be used
            here.
        FileNotFoundError: there is no such file.
        SavedModelError: damaged, of another version, or not fitting the network.
    """
    saved = SavedModel.read(Path(path))
    if "parts" in saved.options:
        raise SavedModelError(
            f"{path} holds a network that runs in the parts {saved.options['parts']}; "
            "open it with resq_core.pipelines.QuantizedStm.load"
        )
    if model is None:
        if saved.architecture is None:
            raise SavedModelError(
                f"{path} holds a network of your own; pass it: load(path, model=YourNetwork())"
            )
        model = models.build(saved.architecture["name"], **saved.architecture["options"])
    try:
        model.load_state_dict(dict(saved.weights))
    except RuntimeError as error:
        raise SavedModelError(f"{path} does not fit {type(model).__name__}: {error}") from error
    o = saved.options
    try:
        quantized = quantize(
            model,
            o["precision"],
            period=o["period"],
            reference=o["reference"],
            policy=o["policy"],
            threshold=o["threshold"],
            granularity=str(saved.encodings.granularity),
            grid=o["grid"],
            backend=backend,
            device=device,
            example=[torch.zeros(shape) for shape in saved.input_shapes],
        )
    except KeyError as error:
        raise SavedModelError(f"{path} lacks the option {error}") from error
    graph = quantized._graphs.latest()
    assert graph is not None
    saved.encodings.require_layers(op.name for op in graph.ops)
    quantized = quantized.with_encodings(saved.encodings)
    try:
        options = quantized.options.but(
            factors=o.get("factors", {}), max_active=o.get("max_active", 1.0)
        )
        return quantized.with_options(options)
    except (OptionError, TypeError, ValueError) as error:
        raise SavedModelError(f"{path}: {error}") from error
