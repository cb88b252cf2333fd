"""Published weights of our networks: where they are, and on which terms."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

from resq_core.errors import UnknownModelError
from resq_core.models.registry import names as networks
from resq_core.models.registry import options_of
from resq_core.naming import not_known

__all__ = ["Preprocessing", "PublishedWeights", "entries", "entry"]

_FILE = Path(__file__).with_name("catalogue.json")
_Https = Annotated[str, StringConstraints(pattern=r"^https://[^/\s]+/\S+$")]
_Size = Annotated[int, Field(ge=1, le=16_384)]


class Preprocessing(BaseModel):
    """How a frame becomes the network's input.

    Attributes:
        channel_order: always RGB.
        mean, std: of values from 0 to 1.
        in_network: the network itself subtracts the mean and divides.
        fitting: how the frame is cut or padded, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel_order: Literal["RGB"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    in_network: bool
    fitting: str


class PublishedWeights(BaseModel):
    """One entry of the catalogue.

    Attributes:
        name: what `resq models pull` takes.
        arch, options: what `build` takes.
        url, alternative_url: over https; the second one is tried where the first fails.
        file: name of the downloaded file.
        archive_member: the checkpoint's path where the download is an archive (zip, tar.gz).
        sha256: of the download, 64 digits or its first 8 or more; None where none is published.
        sha256_advisory: the publisher took it before the last rewrite, so it need not match.
        bytes: size of the download, None where it is not known.
        format: naming of the keys.
        licence: of the weights; `(repository)` where the file has none of its own.
        non_commercial: the licence forbids commercial use.
        terms: what else binds the user, None if nothing is known.
        dataset: trained on.
        metrics: as published, not measured here.
        labels: the set of classes or joints, None for a network without any.
        input_size: (height, width) that the metrics belong to.
        preprocessing: see there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    arch: str
    options: dict[str, int | bool]
    url: _Https
    alternative_url: _Https | None
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    archive_member: str | None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")] | None
    sha256_advisory: bool
    bytes: Annotated[int, Field(ge=1)] | None
    format: Literal["official", "mmpose", "mmseg-hrnet", "mmseg-ddrnet"]
    licence: Annotated[str, StringConstraints(min_length=1)]
    non_commercial: bool
    terms: str | None
    dataset: str
    metrics: dict[str, float]
    labels: Literal["cityscapes19", "camvid11", "coco17", "mpii16", "jhmdb15", "aic14"] | None
    input_size: tuple[_Size, _Size]
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _network_exists(self) -> PublishedWeights:
        if self.arch not in networks():
            raise ValueError(f"{self.name}: no network is called {self.arch!r}")
        unknown = sorted(set(self.options) - set(options_of(self.arch)))
        if unknown:
            raise ValueError(f"{self.name}: {self.arch} has no option {', '.join(unknown)}")
        return self


@lru_cache(maxsize=1)
def entries() -> tuple[PublishedWeights, ...]:
    """The whole catalogue, in its own order."""
    return TypeAdapter(tuple[PublishedWeights, ...]).validate_json(_FILE.read_text("utf-8"))


def entry(name: str) -> PublishedWeights:
    """One entry.

    Raises UnknownModelError, listing the names there are.
    """
    found = {known.name: known for known in entries()}
    if name not in found:
        raise UnknownModelError(not_known("no published weights are", name, found))
    return found[name]
