"""A hive for the tests of the master part: one leader with real agreed state and disk, and workers that a test plays."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nacl.signing

from hivenode.blobs.copies import PeerBlobCopies
from hivenode.blobs.store import DiskBlobStore
from hivenode.config import load_config
from hivenode.encoding.node_record import NodeId
from hivenode.identity import Identity
from hivenode.master.tasks import HiveTasks
from hivenode.pool import queries
from hivenode.pool.commands import AssignTask, EndAttempt, LoseAttempt, OpenSession, RegisterUser, StartAttempt
from hivenode.pool.nodes import write_node
from hivenode.pool.records import AttemptOutcome, BlobRef, SessionRecord, TaskRecord, TaskState
from hivenode.runtime.ports import AttemptKey, Caller
from tests.support.local_agreement import LocalAgreement, LocalReplica
from tests.support.peer_disks import AttemptLog, LogKeeper, PeerDisks, address

LEADER = Identity(nacl.signing.SigningKey(b"1" * 32))
WORKER = Identity(nacl.signing.SigningKey(b"2" * 32))
SCRIPT = b"print('Hello, HiveMind!')"
DAY_MS = 86_400_000

_keys = itertools.count()


def call(key: str = "", deadline_s: float = 20.0) -> Caller:
    return Caller(origin="ip:10.0.0.1", idempotency_key=key or f"auto:{next(_keys)}", deadline_s=deadline_s)


def zipped(**files: bytes) -> bytes:
    """A ZIP of files; `main_py` is written as main.py."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return data.getvalue()


class Hive:
    """The leader's rooms, and a worker node with a disk and logs of its own."""

    def __init__(self, root: Path) -> None:
        self.agreement = LocalAgreement(LEADER)
        self.agreement.admit(WORKER)
        self.network = PeerDisks()
        self.config = load_config(data_dir=root, upload_mib_max=1)
        for identity in (LEADER, WORKER):
            self.network.stores[identity.node_id] = DiskBlobStore(root / identity.node_id, 0)
            self.network.workers[identity.node_id] = LogKeeper()
        self.tasks = self.rooms(self.agreement, LEADER)

    def rooms(self, agreement: LocalReplica, me: Identity) -> HiveTasks:
        """The master part of a node."""
        store = self.store(me)
        nodes = [address(identity.node_id) for identity in (LEADER, WORKER)]
        return HiveTasks(
            agreement=agreement,
            leadership=agreement,
            peers=self.network,
            store=store,
            copies=PeerBlobCopies(store, self.network, NodeId(me.node_id), lambda: nodes, lambda node: True),
            me=NodeId(me.node_id),
            runner=self.network.workers[me.node_id],
            config=self.config,
            why=lambda task: (
                f"waits for a machine (attempt {task.attempt + 1})" if task.state is TaskState.PENDING else ""
            ),
        )

    def store(self, identity: Identity) -> DiskBlobStore:
        return self.network.stores[identity.node_id]

    def user(self, name: str) -> SessionRecord:
        """A new user's session."""
        self.agreement.run(RegisterUser(username=name, password_hash="x", email=""))
        self.agreement.run(OpenSession(session_id=f"session of {name}", username=name, lifetime_ms=DAY_MS))
        session = queries.session(self.agreement.view(), f"session of {name}")
        assert session is not None
        return session

    def task(self, user: str = "ann", task_id: str = "t") -> TaskRecord:
        task = queries.task(self.agreement.view(), user, task_id)
        assert task is not None
        return task

    def assign(
        self, node: Identity = WORKER, *, start: bool = True, user: str = "ann", task_id: str = "t"
    ) -> AttemptLog:
        """Gives the task to a node, which starts it; its log, for the test to write."""
        attempt = self.task(user, task_id).attempt + 1
        names: dict[str, Any] = {"user": user, "task_id": task_id, "attempt": attempt, "node_id": node.node_id}
        log = AttemptLog()
        self.network.workers[node.node_id].logs[AttemptKey(user=user, task_id=task_id, attempt=attempt)] = log
        self.agreement.run(AssignTask(**names))
        if start:
            self.agreement.run(StartAttempt(**names))
        return log

    def begin(self) -> None:
        """The worker starts the attempt that it was given."""
        task = self.task()
        self.agreement.run(
            StartAttempt(user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id)
        )

    async def end(
        self, log: bytes | None = b"", result: bytes | None = b"result", *, exit_code: int = 0, task_id: str = "t"
    ) -> None:
        """The worker stores its outputs on its own disk alone, and the end is agreed on."""
        task = self.task(task_id=task_id)
        command = EndAttempt(
            user=task.user,
            task_id=task_id,
            attempt=task.attempt,
            node_id=task.node_id,
            outcome=AttemptOutcome.EXITED,
            exit_code=exit_code,
            reason="",
            result=None if result is None else await self.keep(result),
            log=None if log is None else await self.keep(log),
            output_holders=(WORKER.node_id,),
        )
        self.agreement.run(command)

    async def keep(self, data: bytes) -> BlobRef:
        async def pieces() -> AsyncIterator[bytes]:
            yield data

        return await self.store(WORKER).put(pieces(), size_bytes_max=1 << 30)

    def lose(self) -> None:
        task = self.task()
        self.agreement.run(
            LoseAttempt(
                user=task.user, task_id=task.task_id, attempt=task.attempt, node_id=task.node_id, reason="It is gone."
            )
        )

    def own(self, node: Identity, user: str) -> None:
        """Lets a node belong to a user, as a claim would."""
        entry = queries.node(self.agreement.view(), node.node_id)
        assert entry is not None
        write_node(self.agreement.state, replace(entry, owner=user))

    async def aclose(self) -> None:
        await self.tasks.aclose()
        for store in self.network.stores.values():
            await store.aclose()
