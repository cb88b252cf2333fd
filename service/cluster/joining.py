"""How a gateway joins a cluster of Ray, or starts one of its own on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from resq_core.zoo import ModelCard
from service.cluster.call import call
from service.cluster.engine import RayEngine
from service.cluster.roster import NAMESPACE, ROSTER, Roster
from service.cluster.worker import WorkerSetup
from service.config import Config
from service.engine import Engine, StreamSpec, WorkerLost
from service.placement import Policy

__all__ = ["connect", "find_roster", "join"]

_OBJECT_STORE = 200 << 20  # bytes; pictures of clips and large results pass through it
_ROSTER_SECONDS = 60.0
_WORKER_SECONDS = 120.0


def connect(address: str | None, cpus: int) -> None:
    """Connect this process to a cluster of Ray, once.

    Args:
        address: of a cluster, or `auto`; None starts one on this machine that ends with this
            process.
        cpus: of a cluster that is started.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers otherwise
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False}
    if address is not None:
        ray.init(address, **common)
        return
    ray.init(
        "local",
        num_cpus=cpus,
        object_store_memory=_OBJECT_STORE,
        include_dashboard=False,
        **common,
    )


def join(config: Config, cards: Sequence[ModelCard], engine: Callable[[], Engine]) -> RayEngine:
    """The engine of a gateway; there is a worker when it is returned.

    Args:
        config: settings.
        cards: of the models on offer.
        engine: makes a worker's engine, in the worker's process.

    Raises:
        ConnectionError: there is no cluster at the address, or no worker in time.
    """
    threads = config.threads or 1
    setup = WorkerSetup(
        engine,
        StreamSpec(config.model, config.precision),
        threads,
        config.decoders,
        config.decoder_timeout,
        config.decoder_memory,
    )
    most = max(config.ray_workers, config.ray_max_workers)
    policy = Policy(config.capacity, config.ray_workers, most)
    connect(config.ray_address, threads * (most + 1))  # one more: workers are replaced
    actor = ray.remote(Roster).options(
        name=ROSTER,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=1000,
        enable_task_events=False,
    )
    roster = actor.remote(setup, policy)
    deadline = time.monotonic() + _ROSTER_SECONDS
    while True:
        try:
            call(roster.set_up, setup, policy, seconds=_ROSTER_SECONDS)
            break
        except WorkerLost as lost:  # it may be on its way to another machine
            if time.monotonic() > deadline:
                words = f"the roster of the workers cannot be reached: {lost}"
                raise ConnectionError(words) from lost
            time.sleep(0.5)
    found = RayEngine(cards, roster)
    deadline = time.monotonic() + _WORKER_SECONDS
    while True:
        found.share({})
        if found.slots > 0:
            return found
        if time.monotonic() > deadline:
            raise ConnectionError(f"no worker was ready within {_WORKER_SECONDS:.0f} s")
        time.sleep(0.2)


def find_roster(address: str) -> Any:
    """The handle of the roster of a cluster.

    Raises:
        ConnectionError: there is no cluster, or no gateway ever joined it.
    """
    connect(address, 0)
    try:
        roster = ray.get_actor(ROSTER)
        call(roster.workers, seconds=_ROSTER_SECONDS)
    except (ValueError, WorkerLost) as error:
        raise ConnectionError(f"no gateway of ResQ has joined the cluster at {address}") from error
    return roster
