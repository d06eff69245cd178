"""A proxy that we did not write: Kamailio as a record-routing proxy and a registrar, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PASSWORD = "open sesame"
_CONFIG = """\
#!KAMAILIO
children=1
disable_tcp=no
tcp_children=1
log_stderror=yes
debug=0
listen=udp:127.0.0.1:{port}
listen=tcp:127.0.0.1:{port}
{modules}
modparam("rr", "enable_full_lr", 1)
modparam("registrar", "min_expires", 30)
modparam("registrar", "max_expires", 3600)
modparam("auth", "nonce_count", 1)
modparam("auth", "qop", "auth")

request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ t_relay(); exit; }}
        if (is_method("ACK")) {{ if (t_check_trans()) t_relay(); exit; }}
        sl_send_reply("404", "Not Here"); exit;
    }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) t_relay(); exit; }}
    t_check_trans();
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("$td", "{password}", "0")) {{ www_challenge("$td", "1"); exit; }}
        save("location"); exit;
    }}
    if (is_method("INVITE")) record_route();
    if ($rU == "registered") {{
        if (!lookup("location")) {{ sl_send_reply("480", "Not Registered"); exit; }}
    }} else {{
        $du = "{next_hop}";
    }}
    t_relay();
}}
"""
_MODULES = ("tm", "sl", "rr", "pv", "maxfwd", "textops", "siputils", "usrloc", "registrar", "auth")


def is_installed() -> bool:
    return shutil.which("kamailio") is not None


@asynccontextmanager
async def kamailio(folder: Path, next_hop: str) -> AsyncIterator[int]:
    """The port on 127.0.0.1 at which it serves, UDP and TCP.

    What is for the user "registered" goes where that user is registered, with PASSWORD, and all else to `next_hop`,
    a URI. Dialogs are record-routed.
    """
    port = _free_port()
    modules = "\n".join(f'loadmodule "{name}.so"' for name in _MODULES)
    config = folder / "kamailio.cfg"
    config.write_text(_CONFIG.format(port=port, modules=modules, password=PASSWORD, next_hop=next_hop))
    process = await asyncio.create_subprocess_exec(
        *("kamailio", "-f", str(config), "-DD", "-E", "-Y", str(folder), "-m", "32", "-M", "4"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        await _until_it_listens(port, process)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def _until_it_listens(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, "Kamailio did not start"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
