"""The file format of a quantized model: safetensors weights beside JSON metadata.

The tensors are the network's own state dict under its own keys, in float32, or in float16 where
that holds every value of a tensor. The metadata entry
`resq` holds what the weights do not say: format, version, architecture, options, encodings.
Nothing in the file is code, so loading an untrusted one runs none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from resq_core.encodings import Encodings
from resq_core.errors import SavedModelError

__all__ = ["FORMAT", "VERSION", "SavedModel"]

FORMAT = "resq-model"
VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedModel:
    """All that a file holds.

    Attributes:
        weights: the network's state dict.
        architecture: {"name", "options"} for `resq_core.models.build`, or None for a network of
            the user's own.
        options: of `quantize`: precision, period, reference, policy, threshold, grid.
        encodings: the scales.
        input_shapes: what the network was captured for, as an example of its input.
    """

    weights: Mapping[str, Tensor]
    architecture: Mapping[str, Any] | None
    options: Mapping[str, Any]
    encodings: Encodings
    input_shapes: tuple[tuple[int, ...], ...]

    def write(self, path: Path) -> None:
        """Write the file, in full or not at all."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "architecture": self.architecture,
            "options": self.options,
            "input_shapes": self.input_shapes,
            "encodings": self.encodings.to_json(),
        }
        tensors = {name: _stored(t.detach()) for name, t in self.weights.items()}
        part = path.with_name(path.name + ".part")
        save_file(tensors, part, metadata={"resq": json.dumps(header)})
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> SavedModel:
        """Read and check a file.

        Raises:
            FileNotFoundError: there is none.
            SavedModelError: it is damaged, something else, or of another version.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no saved model at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise SavedModelError(f"{path} is not a saved model, or damaged: {error}") from error
        return cls._from_header(path, metadata.get("resq"), weights)

    @classmethod
    def _from_header(cls, path: Path, text: str | None, weights: dict[str, Tensor]) -> SavedModel:
        if text is None:
            raise SavedModelError(
                f"{path} holds weights only, without ResQ's encodings; "
                "expected a file written by QuantizedModel.save"
            )
        try:
            header = json.loads(text)
            if header["format"] != FORMAT:
                raise SavedModelError(f"{path} has format {header['format']!r}, not {FORMAT!r}")
            if header["version"] != VERSION:
                raise SavedModelError(
                    f"{path} has version {header['version']!r} of the format; this release reads "
                    f"version {VERSION}: calibrate and save the model again"
                )
            shapes = tuple(tuple(int(n) for n in shape) for shape in header["input_shapes"])
            options = dict(header["options"])
            encodings = Encodings.from_json(header["encodings"])
            architecture = header["architecture"]
        except (KeyError, TypeError, ValueError) as error:
            raise SavedModelError(f"the header of {path} is damaged: {error!r}") from error
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise SavedModelError(f"{path}: weight {name!r} holds NaN or infinity")
            if tensor.dtype == torch.float16:
                weights[name] = tensor.float()
        return cls(weights, architecture, options, encodings, shapes)


def _stored(tensor: Tensor) -> Tensor:
    """A copy, of half the size where that loses nothing."""
    if tensor.dtype == torch.float32:
        half = tensor.to(torch.float16, memory_format=torch.contiguous_format)
        if torch.equal(half.float(), tensor):
            return half
    return tensor.clone(memory_format=torch.contiguous_format)
