"""What `service/simulation.py` simulates: workers, the streams on them, and what befalls them."""

from __future__ import annotations

from dataclasses import dataclass

from resq_core.errors import OptionError

__all__ = ["Fleet"]

_MAX_FRAMES = 50_000_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is simulated.

    Attributes:
        streams, fps, period, active: as of `planning.Demand`; each is live.
        workers: how many; cores: of each.
        share: of a worker's cores that streams may claim; what a stream claims is its rate times
            what a frame takes of a worker's thread, as at the real door.
        seconds: simulated and counted; `begin`: before them, over which the streams come.
        stay: seconds that a stream stays in the mean, exponentially distributed, before another
            takes its place; None stays to the end.
        lose: workers that are lost, at random moments of the counted time.
        notice: seconds until a loss is noticed, and its streams are placed anew.
        back: seconds after which a lost worker is there again, empty.
        deadline: seconds that a frame may get old before it is given up; None has no end.
        seed: of all that is random.

    Raises:
        OptionError: out of range.
    """

    streams: int
    fps: float
    period: int
    active: float
    workers: int
    cores: int
    share: float = 0.8
    seconds: float = 30.0
    begin: float = 10.0
    stay: float | None = None
    lose: int = 0
    notice: float = 2.0
    back: float = 10.0
    deadline: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cores < 1 or self.streams < 1:
            raise OptionError("streams, workers and their cores are 1 at least")
        if not 0 <= self.lose < self.workers:
            raise OptionError(
                f"{self.lose} of {self.workers} workers are lost; expected one less than there are"
            )
        if not 0 <= self.notice <= self.back:
            raise OptionError(
                f"a lost worker is back after {self.back:g} s; expected {self.notice:g} s or more, "
                "when the loss is noticed"
            )
        if not 0 < self.seconds <= 86_400:
            raise OptionError(f"seconds is {self.seconds:g}; expected more than 0, at most 86,400")
        frames = self.streams * self.fps * (self.seconds + self.begin)
        if frames > _MAX_FRAMES:
            raise OptionError(
                f"these are {frames:,.0f} frames; expected {_MAX_FRAMES:,} at most: fewer seconds"
            )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What a simulation of it rests on, in words."""
        return (
            f"streams are live, come evenly over {self.begin:g} s that are not counted, and send "
            "at exactly their rate; all are equally active, all the time: no burst of it is seen",
            "a frame takes all of its processor time on one core at one go, decoding included, "
            "drawn from the measured spread, each by itself; first come, first served on a worker",
            "each stream claims its rate, and is placed where least is claimed, as the gateway "
            "does it; gateways and networks take no time",
            f"a lost worker is noticed after {self.notice:g} s and is back after {self.back:g} s",
        )
