"""The worker part of a daemon: finds out what this machine can run tasks in, then runs attempts for whoever leads.

Fills `TaskRunner` from the first moment, so that the servers can start before a root file system is built or an engine answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from hivenode.config import Config
from hivenode.encoding.node_record import Capabilities, NodeId
from hivenode.errors import Code, HiveError
from hivenode.runtime.ports import AttemptKey, BlobCopies, BlobStore, Leadership, PeerNetwork
from hivenode.worker.agent import Agent
from hivenode.worker.executors.choice import ChosenExecutor, ExecutorChoice, ExecutorSettings, choose_executor
from hivenode.worker.resources import measure_capabilities
from hivenode.worker.settings import WorkerSettings
from hivenode.worker.uplink import Uplink

STARTING_NOTE: Final = "This machine is still finding out what it can run tasks in."
NO_TASKS_NOTE: Final = "The role {role} runs no tasks."
CHOICE_DEADLINE_S: Final = 60.0
"""Building a root file system and trying it takes a few seconds; a slow card takes ten times as long."""
_MIB: Final = 1 << 20

_log = structlog.get_logger(__name__)


class WorkerPart:
    """See the module.

    Args:
        cache: where root file systems are kept, shared by the daemons of this user.
        changed: called when the capabilities become known, or known better.
    """

    def __init__(
        self,
        *,
        config: Config,
        node_id: NodeId,
        data_dir: Path,
        cache: Path,
        blobs: BlobStore,
        copies: BlobCopies,
        leadership: Leadership,
        peers: PeerNetwork,
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._data_dir = data_dir
        self._cache = cache
        self._blobs = blobs
        self._copies = copies
        self._leadership = leadership
        self._peers = peers
        self._changed = changed
        self._agent: Agent | None = None
        self._uplink: Uplink | None = None
        note = STARTING_NOTE if config.role.runs_tasks else NO_TASKS_NOTE.format(role=config.role.value)
        self._measured = measure_capabilities(location=config.location, slots=config.slots)
        self._before = replace(self._measured, executor_note=note, slots=0)

    def capabilities(self) -> Capabilities:
        return self._before if self._agent is None else self._agent.capabilities()

    def read_log(self, key: AttemptKey, offset: int, follow: bool) -> AsyncIterator[bytes]:
        if self._agent is None:
            raise HiveError(Code.TASK_NOT_FOUND, "this node runs no such attempt")
        return self._agent.read_log(key, offset, follow)

    def leader_changed(self, node_id: str) -> None:
        """Another node leads now."""
        if self._uplink is not None:
            self._uplink.leader_changed(node_id)

    async def run(self) -> None:
        """Works until cancelled; then kills what runs."""
        chosen = await self._choose()
        agent = Agent(
            settings=self._settings(),
            chosen=chosen,
            measured=self._measured,
            blobs=self._blobs,
            copies=self._copies,
            data_dir=self._data_dir,
            # The answer to this node's statement of itself is who is in the hive.
            roster_changed=self._changed,
        )
        try:
            await agent.start()
            self._agent = agent
            self._uplink = Uplink(agent=agent, leadership=self._leadership, peers=self._peers)
            self._changed()
            _log.info("worker ready", executor=agent.capabilities().executor or "none", note=chosen.note)
            await self._uplink.run()
        finally:
            await agent.aclose()

    async def _choose(self) -> ChosenExecutor:
        settings = ExecutorSettings(
            choice=ExecutorChoice(self._config.executor),
            cache=self._cache,
            name=self._node_id,
            docker_host=self._config.docker_host or None,
        )
        try:
            async with asyncio.timeout(CHOICE_DEADLINE_S):
                return await choose_executor(settings)
        except (TimeoutError, HiveError, OSError) as error:
            reason = str(error) or f"nothing answered within {CHOICE_DEADLINE_S:.0f} s"
            return ChosenExecutor(executor=None, note=f"This machine takes no tasks: {reason}.", docker_status="")

    def _settings(self) -> WorkerSettings:
        config = self._config
        return WorkerSettings(
            memory_bytes=config.task_memory_mib_max * _MIB,
            pids_max=config.task_processes_max,
            disk_bytes=config.task_disk_mib_max * _MIB,
            output_bytes=config.task_log_mib_max * _MIB,
            disk_reserve_bytes=config.disk_reserve_mib * _MIB,
            pip_environment={"PIP_INDEX_URL": config.pip_index_url} if config.pip_index_url else {},
        )
