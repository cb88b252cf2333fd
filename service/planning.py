"""How many machines some streams need, by what their frames are measured to cost. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resq_core.errors import OptionError
from service.frame_costs import FrameCosts

__all__ = ["Demand", "Node", "Plan", "plan"]

_GIB, _GBIT = 1 << 30, 1e9


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of those that are to be had.

    Attributes:
        cores: like those that the costs were measured on.
        memory: bytes.
        network: bits per second in each direction; None is no limit.
        price: per hour, in any currency; None is not known.

    Raises:
        OptionError: none of it may be 0 or less; a price may be 0.
    """

    cores: float
    memory: float
    network: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        for name in ("cores", "memory", "network"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"the node's {name} is {value:g}; expected more than 0")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise OptionError(f"the node's price is {self.price:g}; expected 0 or more")


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be served.

    Attributes:
        streams: at the same time.
        fps: frames per second of each.
        period: T.
        active: active fraction of the residual frames, 0 to 1.
        use: share of a machine's cores, memory and network that is planned for.

    Raises:
        OptionError: out of range.
    """

    streams: int
    fps: float
    period: int
    active: float
    use: float

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("streams", self.streams, 1, 10_000_000),
            ("fps", self.fps, 0.001, 240),
            ("period", self.period, 1, 1_000_000),
            ("activity", self.active, 0, 1),
            ("use", self.use, 0.01, 1),
        ):
            if not low <= value <= high:
                raise OptionError(f"{name} is {value:g}; expected {low:g} to {high:,g}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the streams need.

    Attributes:
        worker_ms, cpu_ms: of the mean frame: of a worker's thread, and of a core all told.
        cores: that all frames keep busy.
        memory: bytes, of the streams and of a server on each node.
        inbound, outbound: bits per second of frames and of results.
        fits: streams of one node by what limits them: cores, memory, network.
        limit: which of them it is.
        per_node: streams of one node.
        nodes: how many.
        price: of all nodes per hour; None where a node's is not known.
        assumptions: what this rests on, in words.
    """

    worker_ms: float
    cpu_ms: float
    cores: float
    memory: float
    inbound: float
    outbound: float
    fits: dict[str, int]
    limit: str
    per_node: int
    nodes: int
    price: float | None
    assumptions: tuple[str, ...]


def plan(costs: FrameCosts, demand: Demand, node: Node) -> Plan:
    """The smallest number of nodes that has room for the streams.

    A node takes so many streams that each of its cores, memory and network is used to
    `demand.use` at most; the tightest of them decides.

    Raises:
        OptionError: not even one stream fits a node, or one thread cannot keep up with a stream's
            frames, which run one after another.
    """
    worker_ms = costs.worker.mean(demand.period, demand.active)
    cpu_ms = costs.cpu_ms(demand.period, demand.active)
    if demand.fps * worker_ms > 1000 * demand.use:
        raise OptionError(
            f"a frame takes {worker_ms:.1f} ms of one thread, and a stream's frames run one after "
            f"another: {demand.fps:g} fps cannot be kept up at use {demand.use:g}; expected fps of "
            f"{1000 * demand.use / worker_ms:.1f} at most"
        )
    cores = demand.fps * cpu_ms / 1000
    held = (costs.state_bytes or 0) + (costs.decoder_bytes or 0)
    server = costs.server_bytes or 0
    inbound = 8 * demand.fps * costs.frame_bytes
    outbound = 8 * demand.fps * costs.result_bytes
    fits = {"cores": _floor(node.cores * demand.use / cores)}
    if held:
        fits["memory"] = _floor((node.memory * demand.use - server) / held)
    if node.network is not None:
        fits["network"] = _floor(node.network * demand.use / max(inbound, outbound))
    limit = min(fits, key=lambda name: fits[name])
    if fits[limit] < 1:
        raise OptionError(
            f"not one stream fits a node: its {limit} is too small; one stream needs {cores:.2f} "
            f"cores, {(held + server) / _GIB:.2f} GiB and {max(inbound, outbound) / 1e6:.2f} "
            f"Mbit/s, of which a node may use {demand.use:.0%}"
        )
    nodes = math.ceil(demand.streams / fits[limit])
    return Plan(
        worker_ms=worker_ms,
        cpu_ms=cpu_ms,
        cores=demand.streams * cores,
        memory=demand.streams * held + nodes * server,
        inbound=demand.streams * inbound,
        outbound=demand.streams * outbound,
        fits=fits,
        limit=limit,
        per_node=min(fits[limit], demand.streams),
        nodes=nodes,
        price=None if node.price is None else nodes * node.price,
        assumptions=_assumptions(costs, demand, node, fits[limit]),
    )


def _floor(ratio: float) -> int:
    return max(0, math.floor(ratio + 1e-9))


def _assumptions(costs: FrameCosts, demand: Demand, node: Node, per_node: int) -> tuple[str, ...]:
    least, mean, most = costs.worker.active
    where = f"on {costs.processor}" if costs.processor else "on the server that was loaded"
    words = [
        f"costs of {costs.worker.frames} frames of {costs.model} {costs.precision}, measured "
        f"{where} under light load; a node's cores are like its cores, as fast when all are busy, "
        "and each runs one frame at a time",
        f"frames and results have the measured sizes: {costs.frame_bytes / 1e3:.1f} kB in, "
        f"{costs.result_bytes / 1e3:.1f} kB out; headers of TCP and TLS, and TLS's processor "
        "time, are left out",
        f"{demand.use:.0%} of a node's cores, memory and network are planned for; the rest is for "
        "what varies, the system included",
        f"each server may take {per_node:,} streams: RESQ_MAX_STREAMS, and RESQ_STREAMS_PER_CLIENT "
        "for those of one client, are 8 by default",
        "nobody else uses the nodes, and no node is spare: one that is lost leaves the others "
        "with its streams",
    ]
    if not least - 0.02 <= demand.active <= most + 0.02:
        words.append(
            f"activity {demand.active:g} was not measured: frames were {least:.2f} to {most:.2f} "
            f"active, {mean:.2f} in the mean; residual frames follow the line through them"
        )
    if costs.other_ms is None:
        words.append(
            "not counted, because the server did not tell its processor time: receiving, decoding "
            "and sending frames"
        )
    if costs.server_bytes is None:
        words.append("not counted, because the server did not tell its memory: all of it")
    if node.network is None:
        words.append("no node's network is a limit: none was given")
    return tuple(words)
