"""How many machines so many calls take: traffic by Erlang's formula, and what a call was measured to cost."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["MEASURED", "Costs", "Demand", "Node", "Plan", "blocking", "circuits", "plan"]

HOURS_PER_MONTH = 730
KBIT_PER_S = 87.2
"""One direction of G.711 at 20 ms on Ethernet: 160 octets of audio, 12 of RTP, 8 of UDP, 20 of IP, 18 of Ethernet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What calls cost; docs/BENCHMARKS.md says how each figure was measured.

    relay_cores     cores for each call that is up, its packets sent from memory
    receive_cores   cores for each call whose peer sends as well
    speech_cores    cores for each call at a moment at which espeak-ng makes its speech
    setup_core_s    core seconds to set a call up and end it, all of them on the event loop
    loop_cores      cores of the event loop for each call that is up
    setups_per_s    set up at most by one server, with media, without a failure
    prompt_kib, speech_kib  memory of a call, without and with speech made for it
    server_mib      memory of a server without calls
    """

    relay_cores: float
    receive_cores: float
    speech_cores: float
    setup_core_s: float
    loop_cores: float
    setups_per_s: float
    prompt_kib: float
    speech_kib: float
    server_mib: float


MEASURED = Costs(
    relay_cores=0.95 / 4000,
    receive_cores=1.6e-6 * 50,
    speech_cores=(1.41 - 0.24) / (1000 * 5.4 / 15.4),
    setup_core_s=1.72e-3,
    loop_cores=0.05 / 1000,
    setups_per_s=715,
    prompt_kib=30,
    speech_kib=91,
    server_mib=125,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked for.

    busy_hour  share of a day's calls that begin in its busiest hour
    blocking   share of the calls of that hour that may find no room
    speech     share of a call in which something is said to the caller
    cached     share of that which is heard from memory
    """

    calls_per_day: float
    average_s: float
    busy_hour: float = 0.15
    blocking: float = 0.001
    speech: float = 0.5
    cached: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine with one server.

    load           share of its processors, and of its event loop, to be used at the peak
    max_calls      its `sip.max_calls`
    rtp_ports      how many `rtp.ports` there are; a call takes two
    gpu_streams    voices that one GPU speaks with at a time; None: speech is made by espeak-ng, on the processors
    """

    cores: int = 2
    load: float = 0.5
    max_calls: int = 1000
    rtp_ports: int = 10_000
    gpu_streams: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes.

    offered_erlangs, circuits, blocked   the traffic of the busy hour, the calls at a time that it wants room for, and
                                         the share that finds none then
    setups_per_s   calls that begin in a second of the busy hour
    bounds         calls at a time for which each resource of one node suffices; the least is what a node takes
    nodes          that carry the circuits; `spare` more may fail
    speaking       streams of speech at a time that wants making; gpus: for them, None if there is no GPU
    core_share     of all cores, in the busy hour, without the spare nodes
    memory_mib     of a node with all its calls
    mbit_per_s     of all calls in the busy hour, in each direction
    tb_per_month   that leave, at that many calls on each day
    """

    offered_erlangs: float
    circuits: int
    blocked: float
    setups_per_s: float
    bounds: Mapping[str, int]
    nodes: int
    spare: int
    speaking: int
    gpus: int | None
    core_share: float
    memory_mib: float
    mbit_per_s: float
    tb_per_month: float

    @property
    def node_calls(self) -> int:
        """The calls that one node takes at a time."""
        return min(self.bounds.values())

    @property
    def bound_by(self) -> str:
        """The resource of a node that runs out first."""
        return min(self.bounds, key=lambda name: self.bounds[name])

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(dataclasses.asdict(self) | {"node_calls": self.node_calls, "bound_by": self.bound_by})

    def to_text(self) -> str:
        """A table for people."""
        spare = f" and {self.spare} more that may fail" if self.spare else ""
        rows = {
            "offered in the busy hour": f"{self.offered_erlangs:,.1f} erlangs, {self.setups_per_s:,.1f} calls/s",
            "calls at a time": f"room for {self.circuits:,}, so that {self.blocked:.3%} find none",
            "speech to be made at a time": f"{self.speaking:,} streams",
            "a machine takes": f"{self.node_calls:,} calls, bound by {self.bound_by}",
            "machines": f"{self.nodes:,}{spare}",
            "GPUs": "none: espeak-ng speaks" if self.gpus is None else f"{self.gpus:,}, {self.spare} of them spare",
            "processors in the busy hour": f"{self.core_share:.0%} busy, on average",
            "memory of a machine's server": f"{self.memory_mib:,.0f} MiB",
            "RTP in the busy hour": f"{self.mbit_per_s:,.0f} Mbit/s each way",
            "RTP that leaves in a month": f"{self.tb_per_month:,.1f} TB",
            "machine hours in a month": f"{(self.nodes + self.spare) * HOURS_PER_MONTH:,}",
        }
        if self.gpus is not None:
            rows["GPU hours in a month"] = f"{self.gpus * HOURS_PER_MONTH:,}"
        table = "\n".join(f"{name:<31}{value}" for name, value in rows.items())
        bounds = "\n".join(f"  {name:<29}{calls:>9,}" for name, calls in self.bounds.items())
        return f"{table}\n\nCalls at a time for which each resource of a machine suffices:\n{bounds}"


def blocking(offered_erlangs: float, circuits: int) -> float:
    """Erlang's B formula: the share of calls that find all of `circuits` busy.

    By the recursion B(0) = 1, B(n) = A B(n-1) / (n + A B(n-1)), which is stable at any size.
    """
    return _lost(offered_erlangs, lambda circuit, lost: circuit == circuits)[1]


def circuits(offered_erlangs: float, share: float) -> int:
    """The fewest circuits of which no more than `share` of the calls find all busy."""
    return _lost(offered_erlangs, lambda circuit, lost: lost <= share)[0]


def _lost(offered_erlangs: float, enough: Callable[[int, float], bool]) -> tuple[int, float]:
    """The first count of circuits that is `enough`, and the share of the calls that find all of them busy."""
    count, lost = 0, 1.0
    while not enough(count, lost):
        count += 1
        lost = offered_erlangs * lost / (count + offered_erlangs * lost)
    return count, lost


def plan(demand: Demand, node: Node, *, spare: int = 1, costs: Costs = MEASURED) -> Plan:
    """What it takes to carry `demand` on machines like `node`, `spare` of which may fail."""
    offered = demand.calls_per_day * demand.busy_hour * demand.average_s / 3600
    room = circuits(offered, demand.blocking)
    live = demand.speech * (1 - demand.cached)
    on_processors = live if node.gpu_streams is None else 0.0
    setup = costs.setup_core_s / demand.average_s
    per_call = costs.relay_cores + costs.receive_cores + on_processors * costs.speech_cores + setup
    bounds = {
        "processors": math.floor(node.cores * node.load / per_call),
        "event loop": math.floor(node.load / (costs.loop_cores + setup)),
        "calls set up": math.floor(costs.setups_per_s * node.load * demand.average_s),
        "rtp.ports": node.rtp_ports // 2,
        "sip.max_calls": node.max_calls,
    }
    each = min(bounds.values())
    if each < 1:
        raise ValueError("such a machine does not carry one call; give it more cores, or ports")
    nodes = math.ceil(room / each)
    speaking = circuits(offered * live, demand.blocking) if live else 0
    on_node = min(each, room)
    return Plan(
        offered_erlangs=offered,
        circuits=room,
        blocked=blocking(offered, room),
        setups_per_s=demand.calls_per_day * demand.busy_hour / 3600,
        bounds=bounds,
        nodes=nodes,
        spare=spare,
        speaking=speaking,
        gpus=None if node.gpu_streams is None else math.ceil(speaking / node.gpu_streams) + spare,
        core_share=offered * per_call / (nodes * node.cores),
        memory_mib=costs.server_mib + on_node * (costs.speech_kib if on_processors else costs.prompt_kib) / 1024,
        mbit_per_s=offered * KBIT_PER_S / 1000,
        tb_per_month=demand.calls_per_day * 365 / 12 * demand.average_s * KBIT_PER_S * 1000 / 8 / 1e12,
    )
