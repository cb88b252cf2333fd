"""The loop: steps, schedule, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resq_core.errors import OptionError, SavedModelError
from resq_core.training.float_network import FloatNetwork
from resq_core.training.network import TrainedNetwork
from resq_core.training.sequences import Batch

__all__ = ["Loss", "Optimizer", "Schedule", "Trainer"]

Network = TypeVar("Network", TrainedNetwork, FloatNetwork)
Loss = Callable[[Sequence[Any], Batch], Tensor]
"""Of the outputs for T frames, and those frames."""


_MOMENTUM = 0.9


class Optimizer(StrEnum):
    """ADAM is AdamW; SGD is gradient descent with momentum 0.9, as in the paper."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How fast it learns.

    Attributes:
        steps: of the optimizer.
        rate: of the weights at the first step. It falls as (1 − step/steps)^0.9 to nothing, as in
            DDRNet's training. Adam moves every weight by about this much; the paper's 5e-4 is of
            gradient descent, whose steps are far smaller.
        optimizer: which.
        head_rate: of the weights that `FloatNetwork.heads` names, falling alike.
        scale_rate: of the logarithms of the scales, falling alike.
        most: the gradient's norm is cut to this; infinity leaves it.
        warm_up: steps over which the rates rise to where they would be, evenly.
        weight_decay: of the weights, decoupled with Adam; scales do not decay.
        average: what is kept is an exponential moving average of all that learns, with this
            decay per step; 0 keeps the last step's.

    Raises:
        OptionError: a value out of its range, which is above 0; of the last three 0 or more, and
            below 1 for `average`.
    """

    steps: int
    rate: float = 2e-5
    _: KW_ONLY
    optimizer: Optimizer = Optimizer.ADAM
    head_rate: float = 1e-6
    scale_rate: float = 2e-4
    most: float = 1.0
    warm_up: int = 0
    weight_decay: float = 0.0
    average: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "rate", "head_rate", "scale_rate", "most"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if self.warm_up < 0 or self.weight_decay < 0 or not 0 <= self.average < 1:
            raise OptionError(
                f"warm_up is {self.warm_up}, weight_decay {self.weight_decay} and average "
                f"{self.average}; expected none below 0, and the last below 1"
            )

    def factor(self, step: int) -> float:
        """What the rates are multiplied by at a step, counted from 0."""
        rising = min((step + 1) / (self.warm_up + 1), 1.0)
        return rising * math.pow(max(1 - step / self.steps, 0.0), 0.9)


class Trainer(Generic[Network]):
    """An optimizer over a network's weights and scales, on the device that the network is on.

    Args:
        network: what learns.
        loss: what is minimized.
        batches: draws the sequences of a step.
        schedule: how fast.
        seed: of the batches.
        about: what else a state must agree in to be resumed, such as what the loss is of.

    Attributes:
        step: how many were done.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        batches: Callable[[torch.Generator], Batch],
        schedule: Schedule,
        seed: int = 0,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self._network: Network = network
        self._loss, self._batches = loss, batches
        self._schedule = schedule
        plan = asdict(schedule) | {"optimizer": str(schedule.optimizer)}
        self._about = plan | {"seed": seed} | network.about | dict(about or {})
        self.step = 0
        self._device = next(network.weights()).device
        self._generator = torch.Generator().manual_seed(seed)
        decay = schedule.weight_decay
        learning = (
            (network.weights(), schedule.rate, decay),
            (network.heads(), schedule.head_rate, decay),
            (network.scales(), schedule.scale_rate, 0.0),
        )
        every = ({"params": list(p), "lr": lr, "weight_decay": wd} for p, lr, wd in learning)
        groups = [group for group in every if group["params"]]
        self._optimizer: torch.optim.Optimizer
        if schedule.optimizer is Optimizer.SGD:
            self._optimizer = torch.optim.SGD(groups, momentum=_MOMENTUM)
        else:
            self._optimizer = torch.optim.AdamW(groups)
        self._decay = torch.optim.lr_scheduler.LambdaLR(self._optimizer, schedule.factor)
        self._average: AveragedModel | None = None
        if schedule.average:
            mean = get_ema_multi_avg_fn(schedule.average)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(network, multi_avg_fn=mean, use_buffers=True)

    @property
    def result(self) -> Network:
        """What was learned so far: the average where the schedule wants one."""
        return self._network if self._average is None else cast(Network, self._average.module)

    @property
    def done(self) -> bool:
        """Every step of the schedule was done."""
        return self.step >= self._schedule.steps

    def advance(self) -> float:
        """One step; the loss before it.

        Raises:
            InputError: the batches cannot be drawn.
            OptionError: the loss is not finite; nothing was changed.
        """
        batch = self._batches(self._generator).to(self._device)
        loss = self._loss(self._network(batch.frames), batch)
        if not torch.isfinite(loss):
            raise OptionError(
                f"the loss is {loss.item()} at step {self.step}; expected a lower --rate"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), self._schedule.most)
        self._optimizer.step()
        self._decay.step()
        if self._average is not None:
            self._average.update_parameters(self._network)
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Write all that `resume` needs, in place of an older file only when it is whole."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "about": self._about,
                "step": self.step,
                "network": self._network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "decay": self._decay.state_dict(),
                "generator": self._generator.get_state(),
                "average": None if self._average is None else self._average.state_dict(),
            },
            part,
        )
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Go on as if there had been no interruption.

        Raises:
            SavedModelError: the file is damaged, or of another network or schedule.
        """
        try:
            saved = torch.load(path, weights_only=True, map_location=self._device)
            if saved["about"] != self._about:
                raise SavedModelError(f"{path} is of {saved['about']}; expected {self._about}")
            self._network.load_state_dict(saved["network"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self._decay.load_state_dict(saved["decay"])
            self._generator.set_state(saved["generator"].cpu())
            if self._average is not None:
                self._average.load_state_dict(saved["average"])
            self.step = saved["step"]
        except SavedModelError:
            raise
        except Exception as error:  # torch raises what it likes on damaged files
            raise SavedModelError(f"{path} is no checkpoint of this training: {error}") from error
