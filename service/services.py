"""What all streams and jobs of one server share."""

from __future__ import annotations

from dataclasses import dataclass

from service.capacity import Capacity
from service.config import Config
from service.decoder_process import DecoderPool
from service.engine import Engine, StreamSpec
from service.messages import PoseStart, VosStart
from service.metrics import Metrics
from service.outbound import AllowedHosts
from service.scheduler import Scheduler
from service.traces import Traces

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that live as long as the server.

    Attributes:
        config: settings.
        engine: runs models.
        scheduler: whose turn it is to use the engine.
        capacity: who may have how much of its time.
        decoders: processes that decode frames.
        metrics: counters.
        hosts: where the server itself may connect to.
        traces: where spans go, if anywhere.
    """

    config: Config
    engine: Engine
    scheduler: Scheduler
    capacity: Capacity
    decoders: DecoderPool
    metrics: Metrics
    hosts: AllowedHosts
    traces: Traces | None = None

    def spec(
        self,
        model: str | None = None,
        precision: str | None = None,
        period: int | None = None,
        threshold: float | None = None,
        policy: str | None = None,
        reference: str | None = None,
        pose: PoseStart | None = None,
        vos: VosStart | None = None,
    ) -> StreamSpec:
        """What a stream asks for, with this server's defaults where it says nothing.

        The default threshold belongs to the default policy: a stream that names a policy and no
        threshold gets the policy's own.
        """
        if threshold is None and policy is None:
            threshold = self.config.threshold
        return StreamSpec(
            model=model or self.config.model,
            precision=precision or self.config.precision,
            period=period or self.config.period,
            threshold=threshold,
            policy=policy,
            reference=reference,
            pose=pose,
            vos=vos,
        )
