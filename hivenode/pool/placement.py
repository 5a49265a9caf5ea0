"""Placement: which task goes to which node next, and why one waits. Pure, and the same for the same state and nodes.

Rules:
1. A task's place is the time of its submission, less a minute for high and two for urgent priority. So a task passes only
   what is a little older, and every task comes to the front in time, whatever is submitted after it.
2. Among tasks whose places lie within `FAIR_WINDOW_MS` of the first that fits somewhere, the user with the fewest open
   attempts goes first; then the earlier place, then user and task id.
3. A task goes to a node where it fits (`fitting.py`) by this order: not the node that just failed it, when there is another;
   one that holds its data, when that is large; the greatest share of free slots; not the leader, whose loss would then cost
   the task its worker as well; the greatest trust; the least id.

A task that fits nowhere now does not stop those behind it. The plan may be stale when it is applied: `AssignTask` checks
again, and the caller should not plan anew before the last plan's commands are applied.

The queue's rows bear the needs of their tasks, so rows that fit nowhere are passed over without reading their tasks; at most
`ROWS_SCANNED_MAX` rows are looked at in one plan.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hivenode.encoding.node_record import NodeId
from hivenode.encoding.records import decode_record
from hivenode.encoding.state_view import ReadView
from hivenode.pool import keys
from hivenode.pool.attempts import usage_of
from hivenode.pool.commands import AssignTask
from hivenode.pool.context import count
from hivenode.pool.fitting import Lack, Usage, lacking, misfit
from hivenode.pool.nodes import find_node
from hivenode.pool.records import Needs, NodeEntry, NodeKind, TaskRecord, TaskState
from hivenode.pool.tasks import queue_key, task_at, waiting_for
from hivenode.pool.trust import trust_level

FAIR_WINDOW_MS: Final = 60_000
"""Within a minute, whose turn it is counts for more than who came first."""
DATA_WORTH_BYTES: Final = 4 << 20
"""Data of this size takes a LAN longer to bring than what the other differences between nodes are worth."""
ROWS_SCANNED_MAX: Final = 16_384
"""Some tens of milliseconds at the worst, when a whole queue of this length fits nowhere."""
_PLACES_COUNTED_MAX: Final = 10_000
_SHARE_SCALE: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNode:
    """A node that answers now, and whether it leads."""

    node_id: NodeId
    leads: bool = False


@dataclass(slots=True)
class _Room:
    """A live node with what is taken of it, counting what this plan gave it."""

    entry: NodeEntry
    leads: bool
    usage: Usage
    trust: int = field(init=False)

    def __post_init__(self) -> None:
        self.trust = trust_level(self.entry)

    def rank(self, task: TaskRecord) -> tuple[bool, bool, int, bool, int, str]:
        slots = self.entry.capabilities.slots
        free_share = (slots - self.usage.attempts) * _SHARE_SCALE // slots
        failed_it = task.attempt > 0 and task.node_id == self.entry.node_id
        far = task.data.size_bytes >= DATA_WORTH_BYTES and self.entry.node_id not in task.data_holders
        return failed_it, far, -free_share, self.leads, -self.trust, self.entry.node_id


@dataclass(slots=True)
class _Waiting:
    """A user's part of the queue: (place, tail, needs) in order, and the user's open attempts."""

    rows: deque[tuple[int, bytes, Needs]]
    attempts: int


def _rooms(view: ReadView, live: Mapping[NodeId, LiveNode]) -> list[_Room]:
    rooms: list[_Room] = []
    for node_id in sorted(live):
        entry = find_node(view, node_id)
        if entry is not None and entry.kind is NodeKind.HIVE and entry.capabilities.slots > 0:
            rooms.append(_Room(entry, live[node_id].leads, usage_of(view, node_id)))
    return rooms


def _fits_now(room: _Room, needs: Needs) -> bool:
    return misfit(room.entry.capabilities, room.usage, needs) is None


def plan(view: ReadView, live: Mapping[NodeId, LiveNode], *, limit: int = 64) -> tuple[AssignTask, ...]:
    """The next assignments, at most `limit`, in the order in which they should be proposed.

    Args:
        live: the nodes that answer now, by id; nodes that the hive does not know are passed over.
    """
    rooms = _rooms(view, live)
    free = sum(max(0, room.entry.capabilities.slots - room.usage.attempts) for room in rooms)
    wanted = min(limit, free)
    if wanted < 1:
        return ()
    planned: list[AssignTask] = []
    given: Counter[bytes] = Counter()
    tails: set[bytes] = set()
    while len(planned) < wanted:
        # Room that one task took can unfit what was gathered, so what is behind it is gathered again; every round gives
        # at least its first candidate away.
        users = _candidates(view, rooms, wanted - len(planned), tails)
        if not users:
            break
        while users and len(planned) < wanted:
            name = _next_user(users, given)
            _, tail, needs = users[name].rows.popleft()
            if not users[name].rows:
                del users[name]
            fitting = [room for room in rooms if _fits_now(room, needs)]
            if fitting:
                planned.append(_give(task_at(view, tail), fitting))
                given[name] += 1
                tails.add(tail)
    return tuple(planned)


def _next_user(users: dict[bytes, _Waiting], given: Counter[bytes]) -> bytes:
    """The user whose turn it is: the fewest attempts among those who are near enough to the front."""
    near = min(waiting.rows[0][0] for waiting in users.values()) + FAIR_WINDOW_MS
    return min(
        (name for name, waiting in users.items() if waiting.rows[0][0] <= near),
        key=lambda name: (users[name].attempts + given[name], users[name].rows[0][:2]),
    )


def _give(task: TaskRecord, fitting: list[_Room]) -> AssignTask:
    """Gives the task to the best of the rooms that fit, and counts it there."""
    room = min(fitting, key=lambda room: room.rank(task))
    room.usage = Usage(attempts=room.usage.attempts + 1, memory_gb=room.usage.memory_gb + task.spec.needs.memory_gb)
    return AssignTask(user=task.user, task_id=task.task_id, attempt=task.attempt + 1, node_id=room.entry.node_id)


def _candidates(view: ReadView, rooms: list[_Room], wanted: int, given: set[bytes]) -> dict[bytes, _Waiting]:
    """By folded user name, the first rows of the queue that fit somewhere now; no more of a user than can be placed.

    Args:
        given: tails of the tasks that this plan has given away already.
    """
    users: dict[bytes, _Waiting] = {}
    shapes: dict[bytes, Needs | None] = {}
    taken, window_end = 0, -1
    for scanned, (key, shape) in enumerate(view.scan(keys.QUEUE)):
        place = int.from_bytes(key[1:9], "big")
        if scanned >= ROWS_SCANNED_MAX or (taken >= wanted and place > window_end):
            break
        if shape not in shapes:
            needs = decode_record(Needs, shape)
            shapes[shape] = needs if any(_fits_now(room, needs) for room in rooms) else None
        fitting = shapes[shape]
        tail = keys.after_number(key)
        if fitting is None or tail in given:
            continue
        name = tail.partition(b"\0")[0]
        waiting = users.get(name)
        if waiting is None:
            waiting = users[name] = _Waiting(deque(), count(view, keys.OPEN_COUNTS + name))
        if len(waiting.rows) < wanted:
            waiting.rows.append((place, tail, fitting))
            taken += 1
            window_end = place + FAIR_WINDOW_MS if window_end < 0 else window_end
    return users


_WANTS: Final = {
    Lack.MEMORY: lambda needs: f"has {needs.memory_gb} GB of memory",
    Lack.CPU_SCORE: lambda needs: f"has a CPU score of {needs.cpu_score}",
    Lack.GPU_SCORE: lambda needs: f"has a GPU score of {needs.gpu_score}",
    Lack.GPU_MEMORY: lambda needs: f"has {needs.gpu_memory_gb} GB of GPU memory",
    Lack.GPU_NAME: lambda needs: f"has a GPU named {needs.gpu_name}",
    Lack.LOCATION: lambda needs: f"is in {needs.location}",
}


def why_pending(view: ReadView, live: Mapping[NodeId, LiveNode], task: TaskRecord) -> str:
    """One sentence for a person that says what the task waits for."""
    if task.state is not TaskState.PENDING:
        return f"does not wait: it is {task.state.documented}"
    unended = waiting_for(view, task)
    if unended:
        more = f" and {len(unended) - 1} more" if len(unended) > 1 else ""
        return f"waits for task {unended[0]}{more}"
    rooms = _rooms(view, live)
    if not rooms:
        return "no live node takes tasks"
    needs = task.spec.needs
    able = [room for room in rooms if lacking(room.entry.capabilities, needs) is None]
    if not able:
        return _what_is_missing("no live node", rooms, needs)
    lacks = [misfit(room.entry.capabilities, room.usage, needs) for room in able]
    if None in lacks:
        return f"is being placed (place {_place(view, task)} in the queue)"
    slots = sum(room.entry.capabilities.slots for room in able)
    place = f"(place {_place(view, task)} in the queue)"
    if Lack.FREE_MEMORY in lacks:
        return f"the memory of the {_many(len(able), 'node')} that could run it is taken {place}"
    return f"{'the only slot that fits is' if slots == 1 else f'all {slots} slots that fit are'} taken {place}"


def _many(number: int, noun: str) -> str:
    return noun if number == 1 else f"{number} {noun}s"


def why_impossible(view: ReadView, task: TaskRecord) -> str:
    """What no node of the hive has, alive or not, and the task asks for; empty when some node could run it.

    For nodes that do not lead, and so cannot know who is alive.
    """
    ids = [decode_record(NodeEntry, row).node_id for _, row in view.scan(keys.NODES)]
    everybody = {node_id: LiveNode(node_id=node_id) for node_id in ids}
    rooms = _rooms(view, everybody)
    if not rooms:
        return "no node of the hive takes tasks"
    if any(lacking(room.entry.capabilities, task.spec.needs) is None for room in rooms):
        return ""
    return _what_is_missing("no node of the hive", rooms, task.spec.needs)


def _what_is_missing(nobody: str, rooms: list[_Room], needs: Needs) -> str:
    """Names the one need that none of the nodes meets, with the greatest there is; or says that none meets all at once."""
    alone: dict[Lack, tuple[Needs, int | None]] = {
        Lack.MEMORY: (Needs(memory_gb=needs.memory_gb), max(r.entry.capabilities.memory_gb for r in rooms)),
        Lack.CPU_SCORE: (Needs(cpu_score=needs.cpu_score), max(r.entry.capabilities.cpu_score for r in rooms)),
        Lack.GPU_SCORE: (Needs(gpu_score=needs.gpu_score), max(r.entry.capabilities.gpu_score for r in rooms)),
        Lack.GPU_MEMORY: (
            Needs(gpu_memory_gb=needs.gpu_memory_gb),
            max(r.entry.capabilities.gpu_memory_gb for r in rooms),
        ),
        Lack.GPU_NAME: (Needs(gpu_name=needs.gpu_name), None),
        Lack.LOCATION: (Needs(location=needs.location), None),
    }
    for lack, (one, greatest) in alone.items():
        if all(lacking(room.entry.capabilities, one) is lack for room in rooms):
            tail = "" if greatest is None else f"; the largest has {greatest}"
            return f"{nobody} {_WANTS[lack](needs)}{tail}"
    return f"{nobody} has all at once that the task asks for"


def _place(view: ReadView, task: TaskRecord) -> str:
    """The task's place in the queue, from 1, counted up to a bound."""
    own = queue_key(task)
    for place, (key, _) in enumerate(view.scan(keys.QUEUE), start=1):
        if key == own:
            return str(place)
        if place >= _PLACES_COUNTED_MAX:
            break
    return f"after {_PLACES_COUNTED_MAX}"
