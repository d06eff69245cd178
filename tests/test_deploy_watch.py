"""Dashboards, alerts and their runbook: they name only what a server really exposes, and Prometheus can read it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import http_api
from mediaserver import config
from mediaserver.metrics import health_families

from .image import ROOT
from .live import heard, serving
from .webhook_support import entry, hook

PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")

SELECTOR = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()(?:\{([^}]*)\})?")
WORDS = {"or", "and", "unless", "by", "without", "on"}
GROUPING = re.compile(r"\b(by|without|on)\s*\(([^)]*)\)")
OF_PROMETHEUS = {"up"}
TRUNK = {"name": "office", "targets": ["127.0.0.1:9"], "register": True, "username": "u", "password": "p"}


def promtool(*arguments: str | Path, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a PromQL expression reads, each with the labels that it is told apart by."""
    grouped = {label.strip() for _, labels in GROUPING.findall(expression) for label in labels.split(",")}
    bare = re.sub(r'(?<=[\[( ,])"[^"]*"', "", GROUPING.sub("", re.sub(r"\[[^\]]*\]", "", expression)))
    for name, matchers in SELECTOR.findall(bare):
        if name not in WORDS:
            yield name, {*re.findall(r"(\w+)\s*[=!]~?", matchers)} | (grouped & {"le"} if "_bucket" in name else set())


def expressions() -> list[tuple[str, str]]:
    """(where, expression) of every panel and every alert."""
    found = [(f"alert {rule['alert']}", rule["expr"]) for rule in RULES]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            found += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


async def exposed(address: object) -> dict[str, set[str]]:
    """The metrics at /metrics, each with its labels; those that have no value yet have none."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{address}/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    found: dict[str, set[str]] = {}
    for family in families:
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""]):
            found.setdefault(family.name + suffix, set())
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, set()) | set(sample.labels)
    return found


def test_the_metrics_of_an_expression_are_found() -> None:
    expression = 'sum by (le) (rate(a_bucket{x=~"b|c", k=~"$i"}[5m])) / (d > 0) or label_replace(e, "of", "f", "", "")'
    found = dict(selectors(expression))
    assert found == {"a_bucket": {"x", "k", "le"}, "d": set(), "e": set()}


async def test_every_metric_of_a_panel_or_an_alert_is_one_that_a_server_exposes_after_a_call() -> None:
    async with hook() as listening, serving(trunk=[TRUNK], webhook=[entry(listening)]) as running:
        outcome = await heard(running, seconds=0.5)
        assert outcome.answered
        async with aiohttp.ClientSession() as http:
            await http.post(f"http://{running.http_address}/v1/synthesize", json={"text": "Hello"})
        there = await exposed(running.http_address)
    checked = 0
    for where, expression in expressions():
        for name, labels in selectors(expression):
            assert name in there or name in OF_PROMETHEUS, f"{where}: there is no {name}"
            own = labels - {"instance", "job"}
            assert own <= there.get(name, set()), f"{where}: {name} has no {own - there[name]}"
            checked += 1
    assert checked > 80


def test_what_health_and_ready_say_is_said_to_prometheus_too() -> None:
    ill = http_api.Health(
        healthy=False, ready=False, gpu_available=False, model_loaded=False, details={"engine_restarts": 7}
    )
    told = {sample.name: sample.value for family in health_families(ill) for sample in family.samples}
    assert told == {"mediaserver_healthy": 0, "mediaserver_ready": 0, "tts_engine_restarts_total": 7}


@needs_promtool
def test_the_panels_expressions_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": "panel", "expr": expression.replace("$__rate_interval", "1m").replace("$instance", ".*")}
        | {"labels": {"number": str(number)}}
        for number, (_, expression) in enumerate(expressions())
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", "panels.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# Dashboards


def test_the_dashboards_are_made_from_their_tables() -> None:
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = tables
    spec.loader.exec_module(tables)
    assert {path.stem for path in DASHBOARDS} == set(tables.DASHBOARDS)
    for path in DASHBOARDS:
        assert path.read_text() == tables.text(path.stem), "run python deploy/grafana/dashboards.py"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_panels_of_a_dashboard_lie_beside_and_not_upon_one_another(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_grafana_is_given_the_data_source_that_the_panels_ask_and_the_folder_that_they_lie_in() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/mediaserver.yml").read_text())["providers"]
    grafana = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["grafana"]
    prometheus = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["prometheus"]
    asked = {
        (panel["datasource"]["type"], panel["datasource"]["uid"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
    }
    assert asked == {(source["type"], source["uid"])}
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in prometheus["command"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name in {path.name for path in DASHBOARDS}


# Alerts


@needs_promtool
def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    checked = promtool("check", "config", "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_each_alert_rings_for_who_is_ill_and_for_nobody_else() -> None:
    tested = promtool("test", "rules", "alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    rung = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")}
    assert rung == {rule["alert"] for rule in RULES}


def test_each_alert_leads_to_its_entry_in_the_runbook_and_each_entry_has_three_parts() -> None:
    runbook = (ROOT / "docs/RUNBOOK.md").read_text()
    entries = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert list(entries) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/RUNBOOK.md#{rule['alert'].lower()}"
        for part in ("**Means**", "**Look at**", "**Do**"):
            assert part in entries[rule["alert"]], f"{rule['alert']} lacks {part}"


def test_the_runbook_names_no_metric_and_no_setting_that_there_is_not() -> None:
    runbook = (ROOT / "docs/RUNBOOK.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "mediaserver").glob("*.py"))
    for metric in re.findall(r"`((?:sip|rtp|tts|http|mediaserver|redis|recordings)_\w+)`", runbook):
        assert re.search(rf'"{metric.removesuffix("_total")}"', source), metric
    for section, key in re.findall(r"`(sip|rtp|http|engine|store|cache|log|recordings)\.(\w+)`", runbook):
        assert key in type(getattr(config.Config(), section)).model_fields, f"{section}.{key}"


# The real thing


@needs_prometheus
async def test_a_real_prometheus_scrapes_a_server_and_tells_of_its_calls(tmp_path: Path, unused_tcp_port: int) -> None:
    async with serving() as running:
        assert (await heard(running, seconds=0.5)).answered
        settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        settings["scrape_configs"][0]["static_configs"] = [{"targets": [str(running.http_address)]}]
        del settings["scrape_configs"][1:]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
        shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{unused_tcp_port}",
            stderr=asyncio.subprocess.DEVNULL,
        )
        base = f"http://127.0.0.1:{unused_tcp_port}/api/v1"
        try:
            async with aiohttp.ClientSession() as http, asyncio.timeout(30):
                (ended,) = await _told(http, base, "sip_calls_ended_total")
                (healthy,) = await _told(http, base, "mediaserver_healthy")
                async with http.get(f"{base}/rules") as response:
                    (group,) = (await response.json())["data"]["groups"]
        finally:
            process.terminate()
            await process.wait()
    assert (ended["metric"]["cause"], ended["value"][1]) == ("remote_bye", "1")
    assert ended["metric"]["job"] == "mediaserver"
    assert healthy["value"][1] == "1"
    assert {rule["name"]: rule["health"] for rule in group["rules"]} == {rule["alert"]: "ok" for rule in RULES}


async def _told(http: aiohttp.ClientSession, base: str, query: str) -> list[dict[str, Any]]:
    """What the query brings, as soon as it brings anything."""
    while True:
        try:
            async with http.get(f"{base}/query", params={"query": query}) as response:
                if response.status == 200 and (result := (await response.json())["data"]["result"]):
                    return result
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)
