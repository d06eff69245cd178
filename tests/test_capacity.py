"""How many machines so many calls take: Erlang's formula by its tables, and what bounds a machine."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from mediaserver import capacity
from mediaserver.__main__ import main

ROOT = Path(__file__).parents[1]
DEMAND = capacity.Demand(calls_per_day=30_000, average_s=180)


def typed(arguments: str) -> str:
    result = CliRunner().invoke(main, ["capacity", *shlex.split(arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("offered", "share", "count"),
    [(1, 0.5, 1), (10, 0.01, 18), (10, 0.001, 21), (100, 0.01, 117), (5, 0.001, 14), (0.01, 0.01, 1)],
)
def test_circuits_are_those_of_the_tables_of_erlang_b(offered: float, share: float, count: int) -> None:
    assert capacity.circuits(offered, share) == count
    assert capacity.blocking(offered, count) <= share < capacity.blocking(offered, count - 1)


def test_blocking_is_the_formula_itself() -> None:
    # A^N/N! over the sum of A^k/k!, with A = 3 and N = 4.
    terms = [1, 3, 9 / 2, 27 / 6, 81 / 24]
    assert capacity.blocking(3, 4) == pytest.approx(terms[4] / sum(terms))


def test_no_traffic_wants_no_circuit_beyond_none() -> None:
    assert capacity.blocking(0, 1) == 0
    assert capacity.circuits(0, 0.001) == 1


def test_a_demand_is_traffic_in_the_busy_hour() -> None:
    plan = capacity.plan(DEMAND, capacity.Node())
    assert plan.offered_erlangs == pytest.approx(30_000 * 0.15 * 180 / 3600)
    assert plan.setups_per_s == pytest.approx(1.25)
    assert plan.circuits == 265
    assert plan.nodes == 1
    assert plan.gpus is None


@pytest.mark.parametrize(
    ("node", "bound"),
    [
        (capacity.Node(), "processors"),
        (capacity.Node(cores=16), "sip.max_calls"),
        (capacity.Node(cores=32, max_calls=100_000), "rtp.ports"),
        (capacity.Node(cores=64, max_calls=100_000, rtp_ports=49_000), "event loop"),
    ],
)
def test_a_machine_takes_what_its_scarcest_resource_takes(node: capacity.Node, bound: str) -> None:
    plan = capacity.plan(DEMAND, node)
    assert plan.bound_by == bound
    assert plan.node_calls == plan.bounds[bound] == min(plan.bounds.values())


def test_short_calls_are_bound_by_how_many_can_be_set_up() -> None:
    demand = capacity.Demand(calls_per_day=1e6, average_s=2, cached=1)
    plan = capacity.plan(demand, capacity.Node(cores=64, max_calls=100_000, rtp_ports=60_000))
    assert plan.bound_by == "event loop"
    assert plan.bounds["calls set up"] == 715


def test_speech_from_memory_costs_no_engine() -> None:
    live, kept = (capacity.plan(dataclasses.replace(DEMAND, cached=cached), capacity.Node()) for cached in (0, 1))
    assert live.speaking == capacity.circuits(112.5, 0.001)
    assert kept.speaking == 0
    assert kept.bounds["processors"] > 4 * live.bounds["processors"]


def test_gpus_take_the_speech_off_the_processors() -> None:
    plan = capacity.plan(DEMAND, capacity.Node(gpu_streams=100), spare=2)
    assert plan.gpus == 2 + 2
    assert plan.bounds["processors"] > capacity.plan(DEMAND, capacity.Node()).bounds["processors"]


def test_machines_carry_the_circuits_between_them() -> None:
    plan = capacity.plan(dataclasses.replace(DEMAND, calls_per_day=3e6), capacity.Node(), spare=3)
    assert (plan.nodes - 1) * plan.node_calls < plan.circuits <= plan.nodes * plan.node_calls
    assert plan.spare == 3
    assert 0.4 < plan.core_share <= 0.5


def test_a_machine_that_carries_no_call_is_said_to_be_too_small() -> None:
    with pytest.raises(ValueError, match="more cores, or ports"):
        capacity.plan(DEMAND, capacity.Node(load=0.0001))


@pytest.mark.parametrize(
    "arguments",
    ["--calls-per-day 0", "--calls-per-day x", "", "--calls-per-day 9 --blocking 0", "--calls-per-day 9 --speech 101"],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: str) -> None:
    assert CliRunner().invoke(main, ["capacity", *arguments.split()]).exit_code == 2


def test_json_has_all_of_it() -> None:
    told = json.loads(typed("--calls-per-day 30000 --json"))
    assert told["circuits"] == 265
    assert told["bound_by"] == "processors"
    assert told["bounds"]["rtp.ports"] == 5000


def test_the_examples_of_the_document_are_what_the_command_prints() -> None:
    text = (ROOT / "docs" / "CAPACITY.md").read_text()
    examples = re.findall(r"^    \$ mediaserver capacity (.+)\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert len(examples) == 2
    for arguments, output in examples:
        shown = "\n".join(line.removeprefix("    ").rstrip() for line in output.rstrip().splitlines())
        assert shown == "\n".join(line.rstrip() for line in typed(arguments).rstrip().splitlines())


def test_the_figures_are_those_of_the_benchmarks() -> None:
    text = (ROOT / "docs" / "BENCHMARKS.md").read_text()
    for row in (
        r"espeak-ng live, 5.4 s of every 15.4 s \| 1000 \|.* 1\.41 \|.* 91 \|",
        r"prompt from memory, without a pause \| 4000 \|.* 0\.95 \|.* 30 \|",
        r"the whole server, with media \| 715 \| 1370 to 1720 \|",
    ):
        assert re.search(row, text), row
