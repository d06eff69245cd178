"""A wire that takes nothing, in a network of the test's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap

import pytest

# A next hop that answers no ARP has the kernel keep packets until the socket's buffer is full.
_SCENE = textwrap.dedent(
    """
    import asyncio, dataclasses, json, socket, subprocess
    import rtp

    for command in (
        "link set lo up", "link add near type veth peer name far", "addr add 10.9.9.1/24 dev near",
        "link set near up", "link set far up",
    ):
        subprocess.run(["ip", *command.split()], check=True)

    async def main():
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 0))
        async with rtp.Endpoint(ports=range(20000, 20010)) as endpoint:
            stuck, well = endpoint.open(), endpoint.open()
            stuck._rtp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
            for stream, address in ((stuck, ("10.9.9.2", 4000)), (well, listener.getsockname())):
                stream.connect(host=address[0], port=address[1], codec="PCMU", payload_type=0)
                stream.start()
            while stuck.counters().send_blocked < 10:
                await asyncio.sleep(0.01)
            for stream in (stuck, well):
                stream.close()
                await stream.wait_closed()
            print(json.dumps([dataclasses.asdict(stream.counters()) for stream in (stuck, well)]))

    asyncio.run(asyncio.wait_for(main(), 20))
    """
)


def _may_make_networks() -> bool:
    if not (shutil.which("ip") and shutil.which("unshare")):
        return False
    probe = ["unshare", "-rn", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_make_networks(), reason="wants iproute2, and the right to make a network namespace")
def test_full_socket_buffer_is_counted_and_harms_no_other_stream() -> None:
    scene = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", _SCENE], capture_output=True, check=False, text=True, timeout=40
    )
    assert scene.returncode == 0, scene.stderr
    stuck, well = json.loads(scene.stdout)
    assert stuck["send_blocked"] >= 10
    assert stuck["packets_sent"] + stuck["send_blocked"] == stuck["silence_frames"]
    assert well["packets_sent"] == well["silence_frames"] >= 10
    assert (well["send_blocked"], well["send_failed"], well["skipped_frames"]) == (0, 0, 0)
