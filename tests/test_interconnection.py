"""docs/INTERCONNECTION.md: its blocks are what the programs that can be had here take; calls go through Kamailio."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from mediaserver import config, softphone
from tests import kamailio
from tests.live import serving
from tests.test_calls_api import api
from tests.test_mediaserver_trunks import eventually

GUIDE = (Path(__file__).parents[1] / "docs" / "INTERCONNECTION.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", GUIDE)
needs_kamailio = pytest.mark.skipif(not kamailio.is_installed(), reason="Kamailio is not installed (Debian: kamailio)")


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def test_every_guide_is_there() -> None:
    told = re.findall(r"(?m)^## (.*)$", GUIDE)
    assert [title.split(" ")[0].rstrip(":") for title in told[1:]] == [
        *("Asterisk", "FreeSWITCH", "Kamailio", "A", "Prometheus", "Pipecat"),
    ]
    assert {kind for kind, _ in BLOCKS} == {"toml", "ini", "xml", "kamailio", "yaml"}


@pytest.mark.parametrize("block", blocks("toml"))
def test_our_side_is_a_configuration(block: str, tmp_path: Path) -> None:
    file = tmp_path / "mediaserver.toml"
    file.write_text(block)
    loaded = config.load(file, {})
    assert loaded.trunk or loaded.webhook


@pytest.mark.parametrize("block", blocks("xml"))
def test_what_freeswitch_reads_is_xml(block: str) -> None:
    assert ET.fromstring(block).tag == "include"


def test_what_prometheus_reads_is_yaml() -> None:
    (block,) = blocks("yaml")
    (job,) = yaml.safe_load(block)["scrape_configs"]
    assert job["job_name"] == "mediaserver", "the alerts ask for it by that name"


def test_each_section_of_pjsip_conf_says_what_it_is() -> None:
    (block,) = (block for block in blocks("ini") if "type=endpoint" in block)
    kinds = [re.search(r"(?m)^type=(\w+)$", section) for section in block.split("[")[1:]]
    assert [kind[1] for kind in kinds if kind] == ["transport", "endpoint", "aor", "identify"]


@asynccontextmanager
async def proxy(folder: Path, media_host: str, media_port: int, port: int) -> AsyncIterator[None]:
    """Kamailio with the block of the guide, at that port of 127.0.0.1."""
    file = folder / "kamailio.cfg"
    file.write_text(blocks("kamailio")[0])
    defined = {
        "LISTEN": f"udp:127.0.0.1:{port}",
        "MEDIASERVER": f'"{media_host}"',
        "MEDIASERVER_PORT": f'"{media_port}"',
    }
    command = ["kamailio", "-f", str(file), *(part for name in defined for part in ("-A", f"{name}={defined[name]}"))]
    running = await asyncio.create_subprocess_exec(
        *(*command, "-DD", "-E", "-Y", str(folder), "-m", "32", "-M", "4"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        running.terminate()
        await running.wait()


def free_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@needs_kamailio
def test_kamailio_takes_its_block_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "kamailio.cfg"
    file.write_text(blocks("kamailio")[0])
    told = subprocess.run(["kamailio", "-c", "-f", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    assert "config file ok, exiting" in told.stderr


@needs_kamailio
async def test_calls_go_both_ways_through_kamailio_as_the_guide_has_it(tmp_path: Path) -> None:
    port = free_port()
    account = {"targets": [f"127.0.0.1:{port}"], "username": "1001", "password": "secret", "probe_s": 0}
    route = {"user": "/7\\d\\d\\d/", "say": "You have dialled {to}."}
    ours = {"name": "kamailio", "targets": [f"127.0.0.1:{port}"], "probe_s": 5}
    async with (
        serving(sip={"listen": "127.0.0.2:0"}, trunk=[ours], route=[route]) as media,
        proxy(tmp_path, "127.0.0.2", media.sip_address.port, port),
        # A telephone that is registered there.
        serving(trunk=[account | {"name": "proxy", "register": True}], route=[{"say": "Here is 1001."}]) as telephone,
    ):
        await eventually(telephone, 'sip_registration_state{state="registered",trunk="proxy"}', 1)
        await eventually(media, 'sip_trunk_up{trunk="kamailio"}', 1)
        async with api(media) as client:
            id = await client.place("1001", trunk="kamailio", text="Your order is ready.")
            told = await client.ended(id)
            assert (told["trunk"], told["answered_at"] is not None) == ("kamailio", True)
        stranger = await softphone.call(softphone.Order(uri=f"sip:7001@127.0.0.1:{port}"))
        assert (stranger.answered, stranger.status) == (False, 407)
        async with api(telephone) as client, api(media) as there:
            id = await client.place("7001", trunk="proxy")
            told = await client.ended(id)
            assert told["answered_at"] is not None
            (call,) = [
                call for call in (await there.ask("GET", "/v1/calls"))[1]["calls"] if call["direction"] == "inbound"
            ]
            (said,) = (await there.call(call["id"]))["speech"]
            assert (call["trunk"], said["text"], said["state"]) == ("kamailio", "You have dialled 7001.", "spoken")
