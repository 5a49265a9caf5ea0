"""Two machines that find each other only after each has formed a hive of its own."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemons import LOOPBACK, Daemon, wait_for

JOIN_DEADLINE_S = 30.0


def test_hive_of_one_with_nothing_in_it_is_given_up_for_an_older_one(tmp_path: Path) -> None:
    old = Daemon(name="old", folder=tmp_path, flags=(*LOOPBACK, "--no-mdns"))
    young = Daemon(name="young", folder=tmp_path)
    try:
        old.start()
        # Its first commands are done: a hive that is killed in its birth is as old as its next start.
        wait_for("the first hive", lambda: (old.status().nodes == 1) or None)
        hive = old.status().hive_id
        address = old.peer_address
        old.kill()
        young.flags = (*LOOPBACK, "--no-mdns", "--bootstrap", address)
        young.start()
        wait_for("a hive apart", lambda: young.status().hive_id or None)
        assert young.status().hive_id != hive
        old.flags = (*old.flags, "--peer-listen", address)
        old.start()
        # Asked of the old one: the young one begins anew, and listens elsewhere then.
        wait_for("one hive", lambda: old.status().nodes == 2 or None, deadline_s=JOIN_DEADLINE_S)
    finally:
        young.close()
        old.close()
