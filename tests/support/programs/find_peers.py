"""`python -m tests.support.programs.find_peers NODE_ID PORT [INTERFACE...]`: announces a node by mDNS.

Prints `{"address", "node_id"}` as JSON for what it finds, a line each. On stdin: `member HIVE_ID` announces another phase;
the end of the input ends it, with a goodbye.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

from hivenode.discovery.finder import Candidate
from hivenode.discovery.mdns import Announcement, MdnsFinder


def _print(candidate: Candidate) -> None:
    print(json.dumps({"address": candidate.address, "node_id": candidate.node_id}), flush=True)


async def main(node_id: str, port: int, interfaces: list[str]) -> None:
    announcement = Announcement(node_id=node_id, hive_id="", version="0.1.0", phase="fresh", port=port)
    finder = MdnsFinder(announcement, interfaces=interfaces or None, watch_interval_s=0.2)
    await finder.start(_print)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        phase, hive_id = line.decode().split()
        await finder.update(replace(announcement, phase=phase, hive_id=hive_id))
    await finder.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
