"""Avahi, a foreign implementation of mDNS, on a host of `tests.support.namespaces`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.namespaces import Host
from tests.support.parts import require

DEADLINE_S = 20.0

DBUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/><allow receive_type="method_return"/>
    <allow receive_type="error"/><allow receive_type="signal"/>
  </policy>
</busconfig>
"""


@asynccontextmanager
async def avahi(host: Host, folder: Path) -> AsyncIterator[dict[str, str]]:
    """A D-Bus and an Avahi daemon of the host's own; the environment of their clients."""
    for tool in ("dbus-daemon", "avahi-daemon", "avahi-browse", "unshare"):
        require(shutil.which(tool) is not None, f"the program {tool}")
    (folder / "bus.conf").write_text(DBUS_CONFIG.format(folder=folder))
    (folder / "avahi.conf").write_text("[server]\nuse-ipv6=no\nenable-dbus=yes\nallow-interfaces=eth0\n[publish]\n")
    env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus"}
    bus = await host.start(
        ["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--nopidfile", "--print-address"], env=env
    )
    # Avahi has one fixed folder for its pid file and socket: a mount namespace gives it an empty one of its own.
    private = (
        'mount -t tmpfs none /run && mkdir /run/avahi-daemon && exec avahi-daemon -f "$0" '
        "--no-drop-root --no-chroot --no-rlimits"
    )
    daemon: asyncio.subprocess.Process | None = None
    try:
        assert bus.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            await bus.stdout.readline()
        daemon = await host.start(["unshare", "--mount", "sh", "-c", private, str(folder / "avahi.conf")], env=env)
        yield env
    finally:
        for process in (daemon, bus):
            if process is not None:
                process.terminate()
                async with asyncio.timeout(DEADLINE_S):
                    await process.wait()


async def browse(host: Host, env: dict[str, str]) -> str:
    """What `avahi-browse` lists, once its daemon answers and the service is seen."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            process = await host.start(
                ["avahi-browse", "-rpt", "_hivenode._tcp"], env=env, stderr=asyncio.subprocess.DEVNULL
            )
            out, _ = await process.communicate()
            if any(line.startswith(b"=") for line in out.splitlines()):
                return out.decode()
