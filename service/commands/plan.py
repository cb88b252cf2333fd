"""`resq plan`: how many machines some streams need, and what happens on them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from resq_core.errors import OptionError
from service.commands.shared import Json, PrecisionText, model_names, print_json

if TYPE_CHECKING:
    from service.frame_costs import FrameCosts
    from service.messages import StreamStart
    from service.planning import Demand, Node, Plan

__all__ = ["plan"]

_GIB, _GBIT = 1 << 30, 1e9


def plan(
    streams: Annotated[int, typer.Option(help="At the same time.")],
    fps: Annotated[float, typer.Option(help="Frames a second of each.")] = 10.0,
    model: Annotated[
        str | None, typer.Option(help="Else the server's.", autocompletion=model_names)
    ] = None,
    precision: PrecisionText = None,
    period: Annotated[int | None, typer.Option(help="T; else as measured.")] = None,
    activity: Annotated[
        float | None, typer.Option(help="Active fraction of residual frames; else as measured.")
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="Measure with this video; else with drawn streets.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="JSON of loadgen or plan; else this machine is measured.")
    ] = None,
    node_cores: Annotated[int | None, typer.Option(help="Else the measured machine's.")] = None,
    node_memory: Annotated[float | None, typer.Option(help="GiB; else the same.")] = None,
    node_network: Annotated[float | None, typer.Option(help="Gbit/s; else no limit.")] = None,
    node_price: Annotated[float | None, typer.Option(help="An hour; else no cost is told.")] = None,
    use: Annotated[float, typer.Option(help="Share of a node that is planned for.")] = 0.8,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the streams on these nodes, too.")
    ] = False,
    nodes: Annotated[int | None, typer.Option(help="Simulate so many instead.")] = None,
    lose: Annotated[int, typer.Option(help="Simulate: nodes that are lost.")] = 0,
    stay: Annotated[
        float | None, typer.Option(help="Simulate: seconds that a stream stays; else to the end.")
    ] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Simulate: age at which a frame is given up.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Simulate: for so long.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Simulate: of what is random.")] = 0,
    as_json: Json = False,
) -> None:
    """Cores, memory, network, nodes and cost of so many streams, by measured costs of their frames.

    Without --costs, a server is started on this machine and measured, in less than a minute: let
    nothing else run meanwhile.
    """
    from service.client.options import StreamOptions, stream_start
    from service.fleet import Fleet
    from service.planning import Demand
    from service.planning import plan as plan_nodes
    from service.simulation import Simulation

    if not simulate and (nodes is not None or lose or stay is not None or deadline_ms is not None):
        raise OptionError("nodes, lose, stay and deadline-ms are of a simulation: --simulate")
    start = stream_start(StreamOptions(model=model, precision=precision, period=period), live=True)
    found = _read(costs, model) if costs is not None else _measure(start, clip)
    node = _node(found, node_cores, node_memory, node_network, node_price)
    active = found.worker.active[1] if activity is None else activity
    demand = Demand(streams, fps, period or found.period, active, use)
    made = plan_nodes(found, demand, node)
    fleet = Fleet(
        streams,
        fps,
        demand.period,
        active,
        made.nodes if nodes is None else nodes,
        int(node.cores),
        share=use,
        seconds=seconds,
        stay=stay,
        lose=lose,
        deadline=None if deadline_ms is None else deadline_ms / 1000,
        seed=seed,
    )
    came = Simulation(found, fleet).run() if simulate else None
    if as_json:
        report = {"demand": asdict(demand), "node": asdict(node), "plan": asdict(made)}
        told = {} if came is None else {"simulation": came | {"assumptions": fleet.assumptions}}
        print_json(report | told | {"costs": found.model_dump()})
        return
    console = Console(highlight=False)
    console.print(_table(found, demand, node, made))
    if came is not None:
        console.print(_simulated(came))
    console.print("Assumed:")
    for words in (*made.assumptions, *(fleet.assumptions if came is not None else ())):
        console.print(f"- {words}")


def _read(path: Path, model: str | None) -> FrameCosts:
    """Costs from a file, of the model that is meant."""
    from service.frame_costs import FrameCosts

    try:
        found = FrameCosts.read(json.loads(path.read_text("utf-8")))
    except ValueError as error:  # of the JSON, or its encoding
        raise OptionError(f"{path} is no JSON: {error}") from error
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error
    if model is not None and model != found.model:
        raise OptionError(f"{path} is of the model {found.model}; expected one of {model}")
    return found


def _measure(start: StreamStart, clip: Path | None) -> FrameCosts:
    from service.commands.cost_measurement import measure_costs

    console = Console(stderr=True)
    try:
        return measure_costs(start, clip, lambda words: console.print(f"measuring: {words}"))
    except RuntimeError as error:
        raise OptionError(f"the server that is to be measured did not start: {error}") from error


def _node(
    costs: FrameCosts,
    cores: int | None,
    memory: float | None,
    network: float | None,
    price: float | None,
) -> Node:
    """The node of the options; what they leave out is the measured machine's.

    Raises:
        OptionError: that is not known either.
    """
    from service.planning import Node

    for name, given, here in (
        ("node-cores", cores, costs.cores),
        ("node-memory", memory, costs.memory_bytes),
    ):
        if given is None and here is None:
            raise OptionError(f"the costs do not tell their machine; expected --{name}")
    return Node(
        cores=float(costs.cores or 0) if cores is None else cores,
        memory=(costs.memory_bytes or 0.0) if memory is None else memory * _GIB,
        network=None if network is None else network * _GBIT,
        price=price,
    )


def _table(costs: FrameCosts, demand: Demand, node: Node, made: Plan) -> Table:
    title = (
        f"{demand.streams:,} streams of {costs.model} {costs.precision} at {demand.fps:g} fps, "
        f"T={demand.period}, {demand.active:.0%} active"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, show_header=False)
    other = "" if costs.other_ms is None else f" + {costs.other_ms:.1f} ms to receive, decode, send"
    size = f"{node.cores:g} cores, {node.memory / _GIB:.1f} GiB"
    if node.network is not None:
        size += f", {node.network / _GBIT:g} Gbit/s"
    rows = {
        "a frame": f"{made.worker_ms:.1f} ms on a worker{other}",
        "cores kept busy": f"{made.cores:,.1f}",
        "memory": f"{made.memory / _GIB:,.1f} GiB",
        "network": f"{made.inbound / _GBIT:,.2f} Gbit/s in, {made.outbound / _GBIT:,.2f} out",
        "a node": size,
        "streams of a node": ", ".join(
            f"{count:,} by {name}{' (the limit)' if name == made.limit else ''}"
            for name, count in made.fits.items()
        ),
        "nodes": f"{made.nodes:,}",
        "cost an hour": "no price given" if made.price is None else f"{made.price:,.2f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _simulated(came: dict[str, Any]) -> Table:
    title = (
        f"simulated: {came['streams']:,} streams on {came['workers']:,} x {came['cores']} cores, "
        f"{came['seconds']:g} s"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, show_header=False)
    ms, used, placed = came["latency_ms"], came["utilisation"], came["streams_per_worker"]
    drops = ", ".join(f"{count:,} {reason}" for reason, count in came["drops"].items())
    rows = {
        "results": f"{came['results']:,} of {came['due']:,} frames",
        "dropped": drops or "none",
        "latency": ", ".join(f"{n} {v:.0f} ms" for n, v in ms.items()) or "no result",
        "cores used": f"{used['mean']:.0%}, by node {used['least']:.0%} to {used['most']:.0%}",
        "streams of a node": f"{placed['least']} to {placed['most']}",
        "streams refused": f"{came['refused']:,}",
        "streams moved": f"{came['moved']:,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
