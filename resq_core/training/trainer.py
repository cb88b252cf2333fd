"""The loop: steps, schedule, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resq_core.errors import OptionError, SavedModelError
from resq_core.training.network import TrainedNetwork

__all__ = ["Schedule", "Trainer"]

Loss = Callable[[Sequence[Any], Sequence[Tensor]], Tensor]
"""Of the outputs for T frames, and those frames."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How fast it learns.

    Attributes:
        steps: of the optimizer.
        rate: of the weights at the first step. It falls as (1 − step/steps)^0.9 to nothing, as in
            DDRNet's training. Adam moves every weight by about this much; the paper's 5e-4 is of
            gradient descent, whose steps are far smaller.
        scale_rate: of the logarithms of the scales, falling alike.
        most: the gradient's norm is cut to this.

    Raises:
        OptionError: a value that is not positive.
    """

    steps: int
    rate: float = 2e-5
    scale_rate: float = 2e-4
    most: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise OptionError(f"{name} is {value}; expected a number above 0")


class Trainer:
    """Adam over a network's parameters and scales.

    Args:
        network: what learns.
        loss: what is minimized.
        batches: draws the T frames of a step.
        schedule: how fast.
        seed: of the batches.

    Attributes:
        step: how many were done.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        loss: Loss,
        batches: Callable[[torch.Generator], Sequence[Tensor]],
        schedule: Schedule,
        seed: int = 0,
    ) -> None:
        self._network, self._loss, self._batches = network, loss, batches
        self._schedule = schedule
        self._about = asdict(schedule) | {"seed": seed} | network.about
        self.step = 0
        self._generator = torch.Generator().manual_seed(seed)
        groups = (
            {"params": list(network.network.parameters()), "lr": schedule.rate},
            {"params": list(network.log_scales.parameters()), "lr": schedule.scale_rate},
        )
        self._optimizer = torch.optim.Adam(groups)
        self._decay = torch.optim.lr_scheduler.PolynomialLR(
            self._optimizer, schedule.steps, power=0.9
        )

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
        frames = self._batches(self._generator)
        loss = self._loss(self._network(frames), frames)
        if not torch.isfinite(loss):
            raise OptionError(
                f"the loss is {loss.item()} at step {self.step}; expected a lower --rate"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), self._schedule.most)
        self._optimizer.step()
        self._decay.step()
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
            saved = torch.load(path, weights_only=True)
            if saved["about"] != self._about:
                raise SavedModelError(f"{path} is of {saved['about']}; expected {self._about}")
            self._network.load_state_dict(saved["network"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self._decay.load_state_dict(saved["decay"])
            self._generator.set_state(saved["generator"])
            self.step = saved["step"]
        except SavedModelError:
            raise
        except Exception as error:  # torch raises what it likes on damaged files
            raise SavedModelError(f"{path} is no checkpoint of this training: {error}") from error
