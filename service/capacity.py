"""How much work the workers can do, by what frames are measured to take, and who may have it.

A stream that declares its rate gets a share of the workers' time, or is refused. No clock and no
threads: times are passed in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from service.costs import Busy, Costs, Meter
from service.degrade import Effects

__all__ = ["Capacity", "OverCapacityError", "Share"]

_OWN_FRAMES = 16  # after which a stream's own figures count, not those of its model
_MAX_MODELS = 256
_BURST = 2.0  # frames that may come at once and still be within the rate
_FRESH = 2.0  # seconds for which a figure says how long the next frame will take
_RAISE_AFTER, _LOWER_AFTER = 2.0, 5.0  # seconds
_REGRET, _MOST_PATIENCE = (
    30.0,
    300.0,
)  # a level that was lowered and has to come back: when, at most
_ROOM = 0.9  # of the capacity: a level is lowered only if less than this is needed then


class OverCapacityError(Exception):
    """A stream that cannot be served as it asks; `field` names the option at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Share:
    """What one stream has of the workers' time. The event loop owns it.

    Attributes:
        fps: declared frames per second; None has no claim.
        period: T as the client wants it.
        room: workers that it may claim where it runs.
    """

    def __init__(
        self,
        of_model: Meter,
        fps: float | None,
        period: int,
        live: bool,
        room: float = math.inf,
    ) -> None:
        self.fps, self.period, self.room = fps, period, room
        self._of_model, self._own, self._live = of_model, Meter(), live
        self._noted = -math.inf
        self._since_anchor = 0
        self._tokens, self._counted = _BURST, -math.inf

    @property
    def costs(self) -> Costs | None:
        """Its own figures once it has run for a while, those of its model before."""
        general = self._of_model.costs()
        return general if self._own.frames < _OWN_FRAMES else self._own.costs(general)

    def demand(self, effects: Effects) -> float:
        """Workers that its rate takes under some effects, the threshold's left out: it shows in the
        figures once it is in force. 0 where nothing is declared or measured.
        """
        costs = self.costs
        if self.fps is None or costs is None:
            return 0.0
        frames = self.fps / (effects.one_of if self._live else 1)
        return frames * costs.per_frame(self.period * effects.period)

    def within(self, now: float) -> bool:
        """Count a frame; whether it is within the declared rate."""
        if self.fps is None:
            return False
        gained = (now - self._counted) * self.fps
        self._tokens, self._counted = min(_BURST, self._tokens + gained), now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def expected(self, now: float, effects: Effects, anchor: bool) -> float:
        """Seconds that the next frame will take at least, 0 where no frame of late tells.

        A stream whose frames were all given up as too late learns by one, now and then, whether
        that is still so.
        """
        if now - self._noted > _FRESH:
            return 0.0
        due = self._since_anchor >= self.period * effects.period
        return self._own.next(anchor or due)

    def note(self, now: float, is_anchor: bool, seconds: float) -> None:
        self._noted = now
        self._since_anchor = 1 if is_anchor else self._since_anchor + 1
        self._own.note(is_anchor, seconds)
        self._of_model.note(is_anchor, seconds)


class Capacity:
    """One server's account of its workers' time. The event loop owns it.

    Args:
        workers: frames that are inferred at the same time; may be set anew.
        share: of their time that declared streams may claim, 0 to 1; the rest is for what varies.
        levels: of degradation, see `service/degrade.py`; the first takes nothing.
    """

    def __init__(
        self, workers: float, share: float, levels: Sequence[Effects] = (Effects(),)
    ) -> None:
        self.workers, self._share, self._levels = workers, share, levels
        self._level = 0
        self._over_since: float | None = None
        self._room_since: float | None = None
        self._lowered_at, self._patience = -math.inf, _LOWER_AFTER
        self._meters: OrderedDict[tuple[str, str], Meter] = OrderedDict()
        self._shares: set[Share] = set()
        self._busy = Busy()

    @property
    def limit(self) -> float:
        """Workers that declared streams may claim."""
        return self.workers * self._share

    @property
    def reserved(self) -> float:
        """Workers that declared streams claim now."""
        return self._sum(self.effects)

    @property
    def effects(self) -> Effects:
        """What is taken from declared streams now."""
        return self._levels[self._level]

    def measured(self, now: float) -> float:
        """Workers that live streams, declared or not, kept busy lately."""
        return self._busy.measured(now)

    def describe(self, now: float) -> dict[str, float]:
        """Figures for people and programs."""
        return {
            "workers": self.workers,
            "limit": round(self.limit, 4),
            "reserved": round(self.reserved, 4),
            "measured": round(self.measured(now), 4),
            "degradation": self._level,
        }

    def costs(self, model: str, precision: str) -> Costs | None:
        """What frames of a model take; None before the first was measured."""
        meter = self._meters.get((model, precision))
        return None if meter is None else meter.costs()

    def measure(self, model: str, precision: str, is_anchor: bool, seconds: float) -> None:
        """Note a frame of a model that belongs to no stream."""
        self._meter(model, precision).note(is_anchor, seconds)

    def note(self, share: Share, now: float, is_anchor: bool, seconds: float) -> None:
        """Note a frame of a stream."""
        share.note(now, is_anchor, seconds)
        self._busy.note(now, seconds)

    def admit(
        self,
        model: str,
        precision: str,
        period: int,
        fps: float | None = None,
        deadline: float | None = None,
        live: bool = True,
        room: float = math.inf,
    ) -> Share:
        """Give a stream its share; where streams may be degraded, they are as far as that helps.

        Args:
            model, precision, period: what it runs.
            fps: frames per second that it will send; None claims nothing.
            deadline: seconds that a frame may take.
            live: frames may be dropped.
            room: workers that it may claim where it runs, besides what all together may.

        Raises:
            OverCapacityError: it does not fit.
        """
        costs = self.costs(model, precision)
        if deadline is not None and costs is not None and deadline < costs.anchor:
            raise OverCapacityError(
                "deadline_ms",
                f"deadline_ms is {1000 * deadline:.0f}; an anchor of {model} at {precision} is "
                f"measured to take {1000 * costs.anchor:.0f} ms here, expected at least that",
            )
        share = Share(self._meter(model, precision), fps, period, live, room)
        self._fit(share)
        self._shares.add(share)
        return share

    def change(self, share: Share, period: int) -> None:
        """Change a stream's period.

        Raises:
            OverCapacityError: its rate does not fit then; nothing is changed.
        """
        before, share.period = share.period, period
        if period >= before:
            return
        self._shares.discard(share)
        try:
            self._fit(share)
        except OverCapacityError:
            share.period = before
            raise
        finally:
            self._shares.add(share)

    def free(self, share: Share) -> None:
        """Give a share back; more calls do nothing."""
        self._shares.discard(share)
        self._patience = _LOWER_AFTER

    def tick(self, now: float) -> None:
        """Adapt the level: raise it when declared streams have needed more than there is for a
        while, lower it when there has been room for a longer while. Call it often.

        What a threshold saves is not known before it is tried: a level that was lowered and has to
        come back is next lowered after twice as long.
        """
        over = self.reserved > self.limit and self._level + 1 < len(self._levels)
        room = self._level > 0 and self._sum(self._levels[self._level - 1]) <= _ROOM * self.limit
        self._over_since = (now if self._over_since is None else self._over_since) if over else None
        self._room_since = (now if self._room_since is None else self._room_since) if room else None
        if self._over_since is not None and now - self._over_since >= _RAISE_AFTER:
            regretted = now - self._lowered_at < _REGRET
            self._patience = min(_MOST_PATIENCE, 2 * self._patience) if regretted else _LOWER_AFTER
            self._set_level(self._level + 1)
        elif self._room_since is not None and now - self._room_since >= self._patience:
            self._lowered_at = now
            self._set_level(self._level - 1)

    def _set_level(self, level: int) -> None:
        self._level, self._over_since, self._room_since = level, None, None

    def _sum(self, effects: Effects) -> float:
        return sum(share.demand(effects) for share in self._shares)

    def _fit(self, share: Share) -> None:
        """Make room for a share, at the first level that has it."""
        if share.demand(self.effects) == 0.0:
            return
        for level in range(self._level, len(self._levels)):
            if share.demand(self._levels[level]) <= self._room(share, self._levels[level]):
                if level != self._level:
                    self._set_level(level)
                return
        raise self._refusal(share)

    def _free(self, effects: Effects) -> float:
        """Workers that one more stream could claim: it is worked on by one at a time."""
        return max(0.0, min(self._share, self.limit - self._sum(effects)))

    def _room(self, share: Share, effects: Effects) -> float:
        """Workers that it could claim with such effects: in all, and where it runs. There it is
        what it was when the stream came, and of what the effects free a worker's even part.
        """
        freed = self._sum(self.effects) - self._sum(effects)
        return min(share.room + freed / max(self.workers, 1.0), self._free(effects))

    def _refusal(self, share: Share) -> OverCapacityError:
        last, costs, fps = self._levels[-1], share.costs, share.fps
        assert costs is not None
        assert fps is not None
        demand, free = share.demand(last), self._room(share, last)
        would = math.floor(10 * fps * free / demand) / 10
        fits = f"up to {would:g} would fit" if would > 0 else "no rate would fit now"
        each = 1000 * costs.per_frame(share.period * last.period)
        return OverCapacityError(
            "fps",
            f"{fps:g} frames per second need {demand:.2f} workers ({each:.0f} ms each, measured); "
            f"{free:.2f} of {self.limit:.2f} are free for one stream, {fits}",
        )

    def _meter(self, model: str, precision: str) -> Meter:
        key = model, precision
        if key not in self._meters:
            self._meters[key] = Meter()
            if len(self._meters) > _MAX_MODELS:
                self._meters.popitem(last=False)
        self._meters.move_to_end(key)
        return self._meters[key]
