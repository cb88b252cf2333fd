"""STM (Oh et al., 2019): objects in a video, found by attention over remembered frames.

The parts are modules of their own, so that a pipeline can run them apart: `Encoder_M` and
`KV_M_r4` turn a frame and its masks into memory, `Encoder_Q` and `KV_Q_r4` turn a new frame into
a query, `Memory` reads, `Decoder` gives each object's logits. `memorize` and `segment` put them
together. Nothing is kept between calls: the memory is the caller's. Module names and their order
are those of the published checkpoint.

Slots: masks, memories and logits have K slots, 0 for the background and 1 to K − 1 for objects,
of which the first `num_objects` are in use.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resq_core.errors import InputError, OptionError
from resq_core.models import efficientnet
from resq_core.models.layers import Bottleneck, check_count, conv, initialise, resize_like
from resq_core.models.objects import (
    STRIDE,
    aggregate,
    crop,
    object_masks,
    pad_to_stride,
    to_slots,
)
from resq_core.naming import not_known

__all__ = [
    "STM",
    "Decoder",
    "FrameEncoder",
    "KeyValue",
    "MaskEncoder",
    "MemoryRead",
    "load_backbone",
    "stm",
]

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LITE_STEP = 8.0  # standard deviation of its features, or so
_LITE_MEAN, _LITE_STD = 3 * (127 / 255,), 3 * (128 / 255,)
_WIDTH = 64  # of the published network
_KEY, _VALUE, _DECODER = 2, 8, 4  # channels, in widths
_LITE = efficientnet.NAME
_BACKBONES = ("resnet50", _LITE)


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    outputs = Bottleneck.expansion * width
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(outputs, width) for _ in range(1, blocks)))


def _channels(width: int, backbone: str) -> tuple[int, int, int]:
    """Of the features at 1/16, 1/8 and 1/4."""
    return efficientnet.LITE0 if backbone == _LITE else (16 * width, 8 * width, 4 * width)


class _Encoder(nn.Module):
    """The stages of a classifier down to 1/16, with the normalisation of its inputs inside.

    Args:
        width: of ResNet-50, the channels that leave the first convolution; all others have as
            many times of them as in the published network, where it is 64.
        backbone: `resnet50`, or `efficientnet_lite0`, which has one width.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = _WIDTH, backbone: str = _BACKBONES[0]) -> None:
        super().__init__()
        lite = backbone == _LITE
        self.register_buffer("mean", torch.tensor(_LITE_MEAN if lite else _MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_LITE_STD if lite else _STD).view(1, 3, 1, 1))
        self._add_masks(*((efficientnet.STEM, 3) if lite else (width, 7)))
        if lite:
            self.conv1 = conv(3, efficientnet.STEM, 3, 2)
            self.bn1 = efficientnet.norm()
            self.begin: nn.Module = nn.ReLU6()
            self.res2, self.res3, self.res4 = efficientnet.stages()
        else:
            self.conv1 = conv(3, width, 7, 2)
            self.bn1 = nn.BatchNorm2d(width)
            self.begin = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            self.res2 = _stage(width, width, 3, 1)
            self.res3 = _stage(4 * width, 2 * width, 4, 2)
            self.res4 = _stage(8 * width, 4 * width, 6, 2)

    def _add_masks(self, outputs: int, size: int) -> None:
        """Convolutions whose outputs are added to the first one's; none here."""

    def _stem(self, frame: Tensor) -> Tensor:
        stem: Tensor = self.conv1((frame - self.mean) / self.std)
        return stem

    def _stages(self, stem: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/16, 1/8 and 1/4."""
        r2 = self.res2(self.begin(self.bn1(stem)))
        r3 = self.res3(r2)
        return self.res4(r3), r3, r2


class MaskEncoder(_Encoder):
    """Encoder M: a frame and one object's masks.

    Input: frame float32 [1 or N, 3, H, W], RGB from 0 to 1; mask and others, float32 [N, H, W]
    from 0 to 1: the object itself, and all other objects together. H and W are multiples of 16.
    Output: [N, 1024, H / 16, W / 16]. A frame given once is encoded once before the masks differ.
    """

    def _add_masks(self, outputs: int, size: int) -> None:
        self.conv1_m = conv(1, outputs, size, 2)
        self.conv1_o = conv(1, outputs, size, 2)

    def forward(self, frame: Tensor, mask: Tensor, others: Tensor) -> Tensor:
        stem = self._stem(frame)
        stem = stem + self.conv1_m(mask.unsqueeze(1)) + self.conv1_o(others.unsqueeze(1))
        return self._stages(stem)[0]


class FrameEncoder(_Encoder):
    """Encoder Q: a frame, float32 [N, 3, H, W], RGB from 0 to 1, H and W multiples of 16.

    Output: r4 [N, 1024, H / 16, W / 16], r3 [N, 512, H / 8, W / 8], r2 [N, 256, H / 4, W / 4].
    """

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._stages(self._stem(frame))


class KeyValue(nn.Module):
    """Features [N, 1024, h, w] to a key [N, 128, h, w] and a value [N, 512, h, w]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Key = conv(inputs, _KEY * width, 3, bias=True)
        self.Value = conv(inputs, _VALUE * width, 3, bias=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.Key(x), self.Value(x)


class MemoryRead(nn.Module):
    """Attention of a new frame's pixels over all remembered pixels of each object.

    Input: keys [N, 128, T, h, w] and values [N, 512, T, h, w] of N objects over T frames, the
    query's key [1 or N, 128, h, w] and value [1 or N, 512, h, w].
    Output: [N, 1024, h, w], the value read and then the query's own.
    """

    def forward(self, keys: Tensor, values: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.read(self.attention(keys, key), values, value)

    def read(self, attention: Tensor, values: Tensor, value: Tensor) -> Tensor:
        """What `forward` returns, with weights as `attention` gives them."""
        read = torch.matmul(values.flatten(2), attention).view(*values.shape[:2], *value.shape[2:])
        return torch.cat([read, value.expand(read.shape[0], -1, -1, -1)], 1)

    def attention(self, keys: Tensor, key: Tensor) -> Tensor:
        """Weights [N, T · h · w, h · w], which sum to 1 over the remembered pixels."""
        scores = torch.matmul(keys.flatten(2).transpose(1, 2), key.flatten(2))
        return F.softmax(scores / math.sqrt(keys.shape[1]), dim=1)


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))): the sum stays signed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv(width, width, 3, bias=True)
        self.conv2 = conv(width, width, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return total


class _Refine(nn.Module):
    """Twice the resolution, with the frame's own finer features added.

    Those features may have a batch of 1: they are then refined once for all objects.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.convFS = conv(inputs, width, 3, bias=True)
        self.ResFS = _Residual(width)
        self.ResMM = _Residual(width)

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        skip = self.ResFS(self.convFS(features))
        fine: Tensor = self.ResMM(skip + resize_like(coarse, skip))
        return fine


class Decoder(nn.Module):
    """What was read from memory, and the frame's finer features, to logits.

    Input: read [N, 1024, h, w], r3 [1 or N, 512, 2h, 2w], r2 [1 or N, 256, 4h, 4w].
    Output: [N, 2, 16h, 16w]: not the object, the object.
    """

    def __init__(self, width: int, finer: tuple[int, int]) -> None:
        super().__init__()
        inner = _DECODER * width
        self.convFM = conv(2 * _VALUE * width, inner, 3, bias=True)
        self.ResMM = _Residual(inner)
        self.RF3 = _Refine(finer[0], inner)
        self.RF2 = _Refine(finer[1], inner)
        self.pred2 = conv(inner, 2, 3, bias=True)

    def forward(self, read: Tensor, r3: Tensor, r2: Tensor) -> Tensor:
        m4 = self.ResMM(self.convFM(read))
        m2 = self.RF2(r2, self.RF3(r3, m4))
        logits = self.pred2(F.relu(m2))
        return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)


class STM(nn.Module):
    """Space-Time Memory network: 38.9 M parameters, stateless. See the module docstring.

    Args:
        width: channels of the first convolution, 1 to 64. All others are as many times of it as
            in the published network, which has 64; shapes in this module are those of that one.
        backbone: of both encoders: `resnet50`, the published one, or `efficientnet_lite0`, whose
            own channels (112, 40 and 24 at 1/16, 1/8 and 1/4) do not follow `width`.

    Raises:
        OptionError: a width out of range, or another backbone.
    """

    def __init__(self, width: int = _WIDTH, backbone: str = _BACKBONES[0]) -> None:
        super().__init__()
        check_count("width", width, _WIDTH)
        if backbone not in _BACKBONES:
            raise OptionError(not_known("no backbone is", backbone, _BACKBONES))
        self.width, self.backbone = width, backbone
        deep, *finer = _channels(width, backbone)
        self.Encoder_M = MaskEncoder(width, backbone)
        self.Encoder_Q = FrameEncoder(width, backbone)
        self.KV_M_r4 = KeyValue(deep, width)
        self.KV_Q_r4 = KeyValue(deep, width)
        self.Memory = MemoryRead()
        self.Decoder = Decoder(width, (finer[0], finer[1]))

    def features(self, objects: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros in the shapes of what the decoder gets, for a frame of sides that 16 divides."""
        _, middle, fine = _channels(self.width, self.backbone)
        return (
            torch.zeros(objects, 2 * _VALUE * self.width, height // 16, width // 16),
            torch.zeros(1, middle, height // 8, width // 8),
            torch.zeros(1, fine, height // 4, width // 4),
        )

    def memorize(self, frame: Tensor, masks: Tensor, num_objects: int) -> tuple[Tensor, Tensor]:
        """A frame and its masks as memory.

        Args:
            frame: float32 [1, 3, H, W], RGB from 0 to 1, any H and W from 1.
            masks: [1, K, H, W] from 0 to 1, one slot each, hard or soft.
            num_objects: 1 to K − 1.

        Returns:
            keys [1, K, 128, 1, h, w] and values [1, K, 512, 1, h, w], h = ceil(H / 16) and
            w = ceil(W / 16); slots not in use are zeros. Frames are joined along dimension 3.

        Raises:
            InputError: for a frame or masks of another shape or type.
            OptionError: for `num_objects` out of range.
        """
        _check_frame(frame)
        if masks.ndim != 4 or masks.shape[0] != 1 or masks.shape[2:] != frame.shape[2:]:
            height, width = frame.shape[2:]
            raise InputError(
                f"the masks have shape {list(masks.shape)}; expected [1, K, {height}, {width}]"
            )
        slots = masks.shape[1]
        _check_objects(num_objects, slots)
        mask, others = object_masks(pad_to_stride(masks.to(frame.dtype)), num_objects)
        features = self.Encoder_M(pad_to_stride(frame), mask, others)
        key, value = self.KV_M_r4(features)
        return to_slots(key, slots).unsqueeze(3), to_slots(value, slots).unsqueeze(3)

    def segment(self, frame: Tensor, keys: Tensor, values: Tensor, num_objects: int) -> Tensor:
        """The objects of a memory in a new frame.

        Args:
            frame: float32 [1, 3, H, W], RGB from 0 to 1, any H and W from 1.
            keys, values: [1, K, 128, T, h, w] and [1, K, 512, T, h, w], as `memorize` gives them.
            num_objects: 1 to K − 1.

        Returns:
            Logits [1, K, H, W], −16.1 to 15.9; a softmax over dimension 1 gives the next masks.

        Raises:
            InputError: for a frame or memory of another shape or type.
            OptionError: for `num_objects` out of range.
        """
        _check_frame(frame)
        self._check_memory(keys, values, frame)
        _check_objects(num_objects, keys.shape[1])
        r4, r3, r2 = self.Encoder_Q(pad_to_stride(frame))
        used = slice(1, num_objects + 1)
        read = self.Memory(keys[0, used], values[0, used], *self.KV_Q_r4(r4))
        probabilities = F.softmax(self.Decoder(read, r3, r2), dim=1)[:, 1]
        height, width = frame.shape[2:]
        return crop(aggregate(probabilities, keys.shape[1]), height, width)

    def forward(self, frame: Tensor, keys: Tensor, values: Tensor, num_objects: int) -> Tensor:
        """`segment`."""
        return self.segment(frame, keys, values, num_objects)

    def _check_memory(self, keys: Tensor, values: Tensor, frame: Tensor) -> None:
        size = tuple(-(-length // STRIDE) for length in frame.shape[2:])
        shared = (keys.shape[1], keys.shape[3]) if keys.ndim == 6 else (0, 0)
        for what, memory, widths in (("keys", keys, _KEY), ("values", values, _VALUE)):
            channels = widths * self.width
            expected = (1, shared[0], channels, shared[1], *size)
            if memory.shape != expected or 0 in expected:
                raise InputError(
                    f"the {what} have shape {list(memory.shape)}; expected "
                    f"[1, K, {channels}, T, {size[0]}, {size[1]}] for this frame, K and T alike "
                    "in both"
                )


def _check_frame(frame: Tensor) -> None:
    if frame.ndim != 4 or frame.shape[:2] != (1, 3) or 0 in frame.shape:
        raise InputError(f"the frame has shape {list(frame.shape)}; expected [1, 3, H, W]")
    if not frame.is_floating_point():
        raise InputError(f"the frame is {frame.dtype}; expected floating point from 0 to 1")


def _check_objects(num_objects: int, slots: int) -> None:
    whole = isinstance(num_objects, int) and not isinstance(num_objects, bool)
    if not whole or not 1 <= num_objects < slots:
        raise OptionError(
            f"num_objects is {num_objects!r}; it must be a whole number from 1 to {slots - 1}, "
            f"because there are {slots} slots and slot 0 is the background"
        )


def stm(width: int = _WIDTH, backbone: str = _BACKBONES[0]) -> STM:
    """STM: 179 G multiply-adds at 480x864 for one object, the memory read not counted.

    Narrower ones, see `STM`, have as many fewer as the square of the width. Raises OptionError
    for a width out of range, or another backbone.
    """
    net = STM(width, backbone)
    initialise(net)
    _calm(net)
    return net


def load_backbone(net: STM, path: Path) -> None:
    """Put published weights of EfficientNet-Lite0 into both encoders, in place.

    Raises:
        OptionError: the network's backbone is another.
        CheckpointError: as `efficientnet.backbone_weights` does.
    """
    if net.backbone != _LITE:
        raise OptionError(f"the network's backbone is {net.backbone}; expected {_LITE}")
    own = ("conv1.", "bn1.", "res2.", "res3.", "res4.")
    wanted = {k: v for k, v in net.Encoder_Q.state_dict().items() if k.startswith(own)}
    weights = efficientnet.backbone_weights(path, wanted)
    for encoder in (net.Encoder_M, net.Encoder_Q):
        encoder.load_state_dict(weights, strict=False)


@torch.no_grad()
def _calm(net: STM) -> None:
    """Let both encoders see alike, attention spread, and sums without batch norm stay small.

    Keys of two encoders that begin with weights of their own have nothing to do with each other:
    a place does not find even itself in the memory.
    """
    for module in net.modules():
        if isinstance(module, KeyValue):
            for head in (module.Key, module.Value):
                nn.init.kaiming_normal_(head.weight, nonlinearity="linear")
            module.Key.weight.mul_(0.5)
        elif isinstance(module, _Residual):
            module.conv2.weight.mul_(0.1)
    for last in (net.Decoder.convFM, net.Decoder.pred2):
        nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    if net.backbone == _LITE:  # trained ones end in sums that no norm follows
        heads, decoder = net.KV_Q_r4, net.Decoder
        for reader in (heads.Key, heads.Value, decoder.RF3.convFS, decoder.RF2.convFS):
            reader.weight.div_(_LITE_STEP)
    net.Encoder_M.load_state_dict(net.Encoder_Q.state_dict(), strict=False)
    net.KV_M_r4.load_state_dict(net.KV_Q_r4.state_dict())
