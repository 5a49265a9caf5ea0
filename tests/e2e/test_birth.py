"""A machine that is killed in the middle of forming its hive."""

from __future__ import annotations

import time
from pathlib import Path

from hivenode.consensus import ConfChange, Entry, EntryKind, HardState, encode_conf_change
from hivenode.encoding.records import Record, encode_record
from hivenode.identity import load_identity
from hivenode.pool.commands import CreateHive, Envelope
from hivenode.runtime.local import member_id_of
from hivenode.runtime.stores import LogWrite
from hivenode.runtime.supervision import ExitCode
from hivenode.storage.log_store import LogStore
from tests.e2e.user import User
from tests.support.daemons import LOOPBACK, Daemon, wait_for
from tests.unit.storage.test_log_store import meta_rows

HIVE_ID = "ab" * 16
GRANT_CPT = 1000


def begin_birth(folder: Path, *commands: Record) -> None:
    """Leaves what is on disk when the founder dies after the first write of its hive, and some of its first commands."""
    folder.mkdir()
    identity, log = load_identity(folder), LogStore(folder / "log")
    birth = ConfChange(add_voters=(member_id_of(identity.node_id, log.incarnation),))
    entry = Entry(term=1, index=1, kind=EntryKind.CONF_CHANGE, data=encode_conf_change(birth))
    told = [
        Envelope(
            time_ms=time.time_ns() // 1_000_000,
            request_owner="",
            request_key="",
            keep_ms=0,
            command=encode_record(command),
        )
        for command in commands
    ]
    rest = [Entry(term=1, index=2 + at, kind=EntryKind.NORMAL, data=encode_record(it)) for at, it in enumerate(told)]
    state = HardState(term=1, vote=None, commit=1 + len(rest))
    log.bind(HIVE_ID, LogWrite(hard_state=state, entries=(entry, *rest)))
    log.close()


def test_hive_whose_founder_was_killed_in_its_birth_is_born_at_the_next_start(tmp_path: Path) -> None:
    daemon = Daemon(name="founder", folder=tmp_path, flags=(*LOOPBACK, "--no-mdns", "--executor", "none"))
    begin_birth(daemon.data_dir)
    try:
        daemon.start()
        wait_for("the first entry in the hive's list", lambda: (daemon.status().nodes == 1) or None)
        assert daemon.status().hive_id == HIVE_ID
        assert User.new(daemon).balance() == GRANT_CPT
    finally:
        daemon.close()


def test_a_user_cannot_come_before_the_trust_mode_of_a_hive_whose_founder_was_killed_in_its_birth(
    tmp_path: Path,
) -> None:
    flags = (*LOOPBACK, "--no-mdns", "--executor", "none", "--trust", "token")
    daemon = Daemon(name="founder", folder=tmp_path, flags=flags)
    born = CreateHive(hive_id=HIVE_ID, supply=10**6, signup_grant=GRANT_CPT, grants_per_day_max=100)
    begin_birth(daemon.data_dir, born)
    try:
        daemon.start()
        assert User.new(daemon).balance() == GRANT_CPT
        assert (daemon.status().trust, daemon.status().nodes) == ("token", 1)
    finally:
        daemon.close()


def test_daemon_whose_log_is_damaged_does_not_start_and_says_what_to_do(tmp_path: Path) -> None:
    daemon = Daemon(name="founder", folder=tmp_path, flags=(*LOOPBACK, "--no-mdns", "--executor", "none"))
    begin_birth(daemon.data_dir)
    meta_rows(daemon.data_dir / "log", lambda key, row: row if key == b"format" else bytes([row[0] ^ 1]) + row[1:])
    try:
        daemon.start()
        assert daemon.ended() == ExitCode.BROKEN_INVARIANT
        assert "is not what was written" in daemon.log_tail()
        assert "Traceback" not in daemon.log_tail()
    finally:
        daemon.kill()
        daemon.close()
