"""STM in three quantized parts: the encoders of memory and query, and the decoder.

Key and value heads and the memory read stay in float, as in the paper: they are a small part of
the work, and attention does not survive few bits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from resq_core.calibrate import DEFAULT_SAMPLES, Progress
from resq_core.encodings import Encodings
from resq_core.errors import CalibrationError, OptionError, SavedModelError
from resq_core.model import QuantizedModel, quantize
from resq_core.models.objects import STRIDE
from resq_core.models.stm import STM
from resq_core.pipelines.stm_clips import PART_NAMES, VosClip, part_clips
from resq_core.precision import Precision
from resq_core.ranges import SEARCH_POINTS
from resq_core.saved import SavedModel
from resq_core.stream import StreamOptions

__all__ = ["QuantizedStm", "check_memory", "quantize_stm"]

_NAME = "stm"  # in the registry


class QuantizedStm:
    """A frozen STM at one precision, shared by any number of streams and threads.

    Made by `quantize_stm`, `load` or `with_precision`. Calibration replaces the scales; streams
    that are already open go on with the old ones.
    """

    def __init__(
        self,
        net: STM,
        parts: Mapping[str, QuantizedModel],
        shapes: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        self._net, self._parts, self._shapes = net, dict(parts), shapes

    @property
    def net(self) -> STM:
        """The frozen float network, on the CPU; its weights are those of the parts, and not to be
        changed."""
        return self._net

    @property
    def device(self) -> torch.device:
        """Where frames run."""
        return self._parts["Encoder_Q"].device

    @cached_property
    def heads(self) -> Mapping[str, nn.Module]:
        """What runs in float beside the parts, by name in the network, on the device."""
        heads = {n: m for n, m in self._net.named_children() if n not in self._parts}
        if self.device.type == "cpu":
            return heads
        return {name: copy.deepcopy(head).to(self.device) for name, head in heads.items()}

    @property
    def parts(self) -> Mapping[str, QuantizedModel]:
        """`Encoder_M`, `Encoder_Q` and `Decoder`."""
        return dict(self._parts)

    @property
    def precision(self) -> Precision:
        """Bits of keyframes and residual frames, the same in all parts."""
        return self._parts["Encoder_Q"].precision

    @property
    def options(self) -> StreamOptions:
        """What streams use where the caller says nothing."""
        return self._parts["Encoder_Q"].options

    def with_precision(self, precision: str | Precision) -> QuantizedStm:
        """The same network, calibration and options at other bits; weights are shared.

        Raises:
            PrecisionError: it does not parse.
            CalibrationError: it needs scales that were not calibrated.
        """
        parts = {name: part.with_precision(precision) for name, part in self._parts.items()}
        return QuantizedStm(self._net, parts, self._shapes)

    def with_options(self, options: StreamOptions) -> QuantizedStm:
        """The same network, calibration and precision whose streams start from other options.

        Raises:
            OptionError: factors by layer or a `max_active`, which the parts of an STM have not:
                their keyframes fall together.
        """
        if options.policy.factors:
            raise OptionError("the policy has threshold factors by layer; an STM takes none")
        if options.max_active != 1:
            raise OptionError(f"max_active is {options.max_active}; an STM takes only 1")
        parts = {name: part.with_options(options) for name, part in self._parts.items()}
        return QuantizedStm(self._net, parts, self._shapes)

    def calibrate(
        self,
        clips: Sequence[VosClip],
        samples: int = DEFAULT_SAMPLES,
        points: int = SEARCH_POINTS,
        also: Sequence[str | Precision] = (),
        seed: int = 0,
        progress: Progress | None = None,
        memory_every: int = 5,
        memory_limit: int = 10,
    ) -> None:
        """Fit the activation scales on video whose first frames have masks.

        The float network follows the objects first; each part is then fitted on its own inputs.

        Args:
            clips: mix still and moving scenes, one and several objects.
            samples, points, also, seed: as in `QuantizedModel.calibrate`.
            progress: called with a fraction from 0 to 1.
            memory_every, memory_limit: as the streams will have them.

        Raises:
            CalibrationError, InputError: the clips cannot be used; nothing is changed then.
        """
        check_memory(memory_every, memory_limit)
        inputs = part_clips(self._net, clips, memory_every, memory_limit)
        report = progress or (lambda _fraction: None)
        fitted: dict[str, QuantizedModel] = {}
        for i, name in enumerate(PART_NAMES):
            fitted[name] = self._parts[name].with_encodings(self._parts[name].encodings)
            fitted[name].calibrate(
                inputs[name],
                samples,
                points,
                also,
                seed,
                partial(_report_share, report, i),
            )
        self._parts = fitted
        self._shapes = (tuple(clips[0].frames[0].shape), tuple(clips[0].masks.shape))

    def macs(self, size: tuple[int, int], objects: int = 1) -> dict[str, int]:
        """Multiply-accumulates of every quantized layer on one frame, by `part.layer`.

        Captures the parts for these shapes if they were not yet (seconds); a server can call this
        so that the first frames, or the next object, need not wait for it.

        Args:
            size: (h, w) of the frame at the network, before it is padded.
            objects: N, from 1.
        """
        height, width = (-(-side // STRIDE) * STRIDE for side in size)
        frame, mask = torch.zeros(1, 3, height, width), torch.zeros(objects, height, width)
        features = list(self._net.features(objects, height, width))
        inputs = {"Encoder_M": [frame, mask, mask], "Encoder_Q": [frame], "Decoder": features}
        return {
            f"{name}.{layer}": macs
            for name, part in self._parts.items()
            for layer, macs in part.macs(inputs[name]).items()
        }

    def save(self, path: str | Path) -> None:
        """Write all weights once, options and encodings to one file; see docs/saved-models.md.

        Raises:
            CalibrationError: there is nothing calibrated yet.
        """
        encodings = Encodings.joined({name: p.encodings for name, p in self._parts.items()})
        if not encodings.scales:
            raise CalibrationError("the model is not calibrated; call calibrate(clips) first")
        SavedModel(
            weights=self._net.state_dict(),
            architecture={
                "name": _NAME,
                "options": {"width": self._net.width, "backbone": self._net.backbone},
            },
            options=self._parts["Encoder_Q"].saved_options() | {"parts": list(PART_NAMES)},
            encodings=encodings,
            input_shapes=self._shapes,
        ).write(Path(path))

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto", device: str = "cpu") -> QuantizedStm:
        """Read what `save` wrote.

        Args:
            path: the file.
            backend: `auto`, `native` or `reference`; see `resq_core.backends.Backend`.
            device: `cpu`, `cuda`, `cuda:N` or `auto`; see `resq_core.device`.

        Raises:
            OptionError, BackendError: there is no such backend or device, or `native` cannot be
                used here.
            FileNotFoundError: there is no such file.
            SavedModelError: damaged, of another version, or of another network.
        """
        saved = SavedModel.read(Path(path))
        options = dict(saved.options)
        known = saved.architecture or {}
        if options.pop("parts", None) != list(PART_NAMES) or known.get("name") != _NAME:
            raise SavedModelError(f"{path} holds another network; expected a quantized STM")
        try:
            net = STM(**known["options"])
            net.load_state_dict(dict(saved.weights))
        except (KeyError, TypeError, OptionError, RuntimeError) as error:
            raise SavedModelError(f"{path} does not fit STM: {error}") from error
        saved.encodings.require_layers(_layers(net))
        granularity = str(saved.encodings.granularity)
        try:
            model = quantize_stm(
                net,
                options.pop("precision"),
                granularity=granularity,
                backend=backend,
                device=device,
                **options,
            )
        except (KeyError, TypeError) as error:
            raise SavedModelError(f"the options of {path} are damaged: {error}") from error
        parts = {
            name: part.with_encodings(saved.encodings.part(name))
            for name, part in model.parts.items()
        }
        return cls(model.net, parts, saved.input_shapes)


def quantize_stm(
    net: STM,
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
) -> QuantizedStm:
    """Prepare an STM for residual-quantized streams; arguments as in `resq_core.quantize`.

    Returns:
        A model that needs `calibrate` before it opens streams; `net` is copied and not changed.

    Raises:
        PrecisionError, OptionError: an argument is out of range, or `net` is no STM.
        CheckpointError: a weight holds NaN or infinity.
    """
    if not isinstance(net, STM):
        raise OptionError(f"the network is {type(net).__name__}; expected an STM")
    parts = {
        name: quantize(
            net.get_submodule(name),
            precision,
            period=period,
            reference=reference,
            policy=policy,
            threshold=threshold,
            granularity=granularity,
            grid=grid,
            backend=backend,
            device=device,
        )
        for name in PART_NAMES
    }
    return QuantizedStm(_around(net, parts), parts)


def _report_share(report: Progress, done: int, fraction: float) -> None:
    report((done + fraction) / len(PART_NAMES))


def _around(net: STM, parts: Mapping[str, QuantizedModel]) -> STM:
    """A float STM on the parts' own weights, so that they are held once."""
    with torch.device("meta"):
        frozen = STM(net.width, net.backbone)
    for name, child in net.named_children():
        module = parts[name].module if name in parts else copy.deepcopy(child)
        setattr(frozen, name, module)
    return frozen.eval().requires_grad_(False)


def _layers(net: STM) -> list[str]:
    return [
        f"{part}.{name}"
        for part in PART_NAMES
        for name, module in net.get_submodule(part).named_modules()
        if isinstance(module, nn.Conv2d)
    ]


def check_memory(every: int, limit: int) -> None:
    """OptionError unless both are whole numbers from 1 to 1000."""
    for what, value in (("memory_every", every), ("memory_limit", limit)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not 1 <= value <= 1000:
            raise OptionError(f"{what} is {value!r}; expected a whole number from 1 to 1000 frames")
