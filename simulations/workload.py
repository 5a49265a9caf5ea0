"""What people and programs do with the hive: clients with deadlines and idempotency keys, each with a mind of its own.

A client is a generator that yields what it waits for and is sent what came of it. It asks through any node that runs, asks
again with the same key while its patience lasts, and keeps what it did and learned in the history, for the checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from hivenode.encoding.claim import CLAIM_DOMAIN, Claim, ClaimPurpose, SignedClaim
from hivenode.encoding.records import Record, encode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, Outcome, outcome_of
from hivenode.pool import queries
from hivenode.pool.commands import (
    ChangePassword,
    ClaimNode,
    CloseSession,
    LogIn,
    OpenSession,
    RefreshSession,
    RegisterUser,
    Reply,
    StopTask,
    SubmitTask,
    Transfer,
)
from hivenode.pool.records import BlobRef, Priority, TaskSpec
from simulations.calls import Failure, Read, Write
from simulations.engine import MS, SECOND, Engine
from simulations.hive_life import GRANT
from simulations.node import Node
from simulations.signatures import signature_of
from simulations.world import World

PATIENCE_US: Final = 30 * SECOND
"""How long a client asks for one thing before it gives up and learns nothing."""
TRY_US: Final = 4 * SECOND
"""How long it waits for one node."""
AGAIN_US: Final = (50 * MS, 600 * MS)
KEEP_MS: Final = 24 * 3_600_000
SESSION_MS: Final = 12 * 3_600_000
CLAIM_MS: Final = 600_000
FIRST_PASSWORD: Final = "$argon2id$x"
WANDERER_SESSIONS_MAX: Final = 6
"""Sessions that a wanderer knows of; it looks at those that ended as well."""
BANKERS: Final = 4
"""Users whose accounts only transfers touch, so that their balances are a history of their own."""
TASKERS: Final = 2
OPEN_TASKS_MAX: Final = 6
QUIET_TURNS_PER_MILLE: Final = 50
"""How many of its turns a client takes when the tide is out."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """The client does nothing for so long."""

    duration_us: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The client asks one node one thing."""

    node: Node
    request: Write | Read
    deadline_us: int


Life: TypeAlias = Generator[Sleep | Ask, Any, None]


@dataclass(slots=True, eq=False)
class Done:
    """One thing that a client did, and what it learned.

    Args:
        result: a `Reply`, what a query returned, or a `Failure` when the client never learned more.
        owner, key: of a write.
    """

    kind: str
    user: str
    called_us: int
    returned_us: int
    result: Any
    owner: str = ""
    key: str = ""
    receiver: str = ""
    amount: int = 0
    task_id: str = ""
    session: str = ""
    """The session that was shown, or looked at."""
    opened: str = ""
    """The session that the write opens."""

    @property
    def known(self) -> bool:
        return not isinstance(self.result, Failure)

    @property
    def accepted(self) -> bool:
        return isinstance(self.result, Reply) and not self.result.refused


class Workload:
    """All clients of a run. `stop` lets each finish what it is at."""

    def __init__(self, world: World) -> None:
        self.world: Final = world
        self.engine: Final[Engine] = world.engine
        self.history: Final[list[Done]] = []
        self.stopping = False
        self.running = 0
        self._keys = 0

    def start(self) -> None:
        """Lets the clients begin."""
        for number in range(self.world.settings.clients):
            if number % 3 == 2:
                self._begin(Tasker(self, number).live())
            else:
                self._begin(Banker(self, number).live())
        if self.world.settings.clients:
            self._begin(Registrar(self, 0).live())
            self._begin(Registrar(self, 1).live())
        for number in range(self.world.settings.wanderers):
            self._begin(Wanderer(self, number).live())

    def stop(self) -> None:
        self.stopping = True

    @property
    def idle(self) -> bool:
        """Whether every client has come to its end."""
        return self.running == 0

    def next_key(self) -> str:
        self._keys += 1
        return f"k{self._keys}"

    # --- how a generator runs --------------------------------------------------------------------------------------

    def _begin(self, life: Life) -> None:
        self.running += 1
        self.engine.after(0, lambda: self._go_on(life, None))

    def _go_on(self, life: Life, value: Any) -> None:
        try:
            wanted = life.send(value)
        except StopIteration:
            self.running -= 1
            return
        match wanted:
            case Sleep():
                self.engine.after(wanted.duration_us, lambda: self._go_on(life, None))
            case Ask():
                self._ask(life, wanted)

    def _ask(self, life: Life, ask: Ask) -> None:
        answered = False

        def answer(result: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                # The answer crosses from one process to another, so it does not run on the node's own stack.
                self.engine.after(MS // 10, lambda: self._go_on(life, result))

        late = Failure(code=Code.OUTCOME_UNKNOWN, text="the node did not answer in time")
        self.engine.at(ask.deadline_us + MS, lambda: answer(late))
        if ask.node.alive:
            ask.node.run(lambda: ask.node.calls.serve(ask.request, ask.deadline_us, answer))
        else:
            answer(Failure(code=Code.NODE_OFFLINE, text="no process answers"))


class _Client:
    """What all clients can do."""

    def __init__(self, workload: Workload, number: int) -> None:
        self.load: Final = workload
        self.engine: Final = workload.engine
        self.number: Final = number

    def think(self) -> Life:
        """Waits until the client wants the next thing; in quiet times it lets most of its turns pass."""
        settings = self.load.world.settings
        busy_us, quiet_us = settings.tide_us
        while True:
            yield Sleep(self.engine.between(*settings.think_us))
            busy = not quiet_us or self.engine.now_us % (busy_us + quiet_us) < busy_us
            if busy or self.load.stopping or self.engine.chance(QUIET_TURNS_PER_MILLE):
                return

    def _some_node(self) -> Node:
        nodes = self.load.world.present()
        return nodes[self.engine.rng.randrange(len(nodes))]

    def ask(self, request: Write | Read) -> Generator[Sleep | Ask, Any, Any]:
        """Asks until there is an answer or patience ends. A failure at the end is unknown if any try was."""
        end_us = self.engine.now_us + PATIENCE_US
        unknown: Failure | None = None
        while True:
            deadline_us = min(end_us, self.engine.now_us + TRY_US)
            result = yield Ask(self._some_node(), request, deadline_us)
            if not isinstance(result, Failure):
                return result
            if outcome_of(result.code) is Outcome.UNKNOWN:
                unknown = result
            if self.engine.now_us >= end_us:
                return unknown or result
            yield Sleep(self.engine.between(*AGAIN_US))

    def write(self, command: Record, done: Done) -> Generator[Sleep | Ask, Any, Done]:
        """Asks for a write and keeps what came of it."""
        done.called_us = self.engine.now_us
        self.load.history.append(done)
        request = Write(body=command, owner=done.owner, key=done.key, keep_ms=KEEP_MS)
        done.result = yield from self.ask(request)
        done.returned_us = self.engine.now_us
        shown = done.result.code if isinstance(done.result, Reply | Failure) else done.result
        self.engine.note(f"client {done.kind} {done.owner} {done.key}: {int(shown)}")
        return done

    def read(self, kind: str, user: str, query: Callable[[ReadView], Any]) -> Generator[Sleep | Ask, Any, Done]:
        """Asks for a linearizable read and keeps what it saw."""
        done = Done(kind=kind, user=user, called_us=self.engine.now_us, returned_us=0, result=None)
        self.load.history.append(done)
        done.result = yield from self.ask(Read(query=query))
        done.returned_us = self.engine.now_us
        return done

    def _new(self, kind: str, user: str, **fields: Any) -> Done:
        key = self.load.next_key()
        return Done(kind=kind, user=user, called_us=0, returned_us=0, result=None, owner=user, key=key, **fields)

    def register(self, user: str) -> Generator[Sleep | Ask, Any, Done]:
        command = RegisterUser(username=user, password_hash=FIRST_PASSWORD, email=f"{user}@example.org")
        done = self._new("register", user)
        done.owner = f"origin-{self.number}"
        return (yield from self.write(command, done))

    def log_in(self, user: str) -> Generator[Sleep | Ask, Any, str]:
        """A session's id; empty when patience ended."""
        done = self._new("login", user)
        command = OpenSession(session_id=f"s-{done.key}", username=user, lifetime_ms=SESSION_MS)
        done = yield from self.write(command, done)
        return done.result.text if done.accepted else ""

    def settle_in(self, user: str) -> Generator[Sleep | Ask, Any, str]:
        """Registers until the user is there, then logs in; empty when the run is over first."""
        while not self.load.stopping:
            done = yield from self.register(user)
            if done.known:
                break
        session = ""
        while not session and not self.load.stopping:
            session = yield from self.log_in(user)
        return session


class Banker(_Client):
    """Moves money to others and looks at the own balance."""

    def live(self) -> Life:
        user = f"banker{self.number % BANKERS}"
        session = yield from self.settle_in(user)
        while not self.load.stopping:
            yield from self.think()
            if self.engine.chance(450):
                yield from self.read("balance", user, lambda view: queries.balance(view, user))
                continue
            receiver = f"banker{(self.number + self.engine.between(1, BANKERS - 1)) % BANKERS}"
            amount = self.engine.between(1, GRANT // 3)
            done = self._new("transfer", user, receiver=receiver, amount=amount)
            command = Transfer(session_id=session, receiver=receiver, amount=amount)
            done = yield from self.write(command, done)
            if isinstance(done.result, Reply) and done.result.code == Code.INVALID_SESSION:
                session = (yield from self.log_in(user)) or session


class Tasker(_Client):
    """Submits tasks, some after others, stops some, and looks at how they are."""

    def live(self) -> Life:
        user = f"tasker{self.number % TASKERS}"
        session = yield from self.settle_in(user)
        mine: list[str] = []
        count = 0
        while not self.load.stopping:
            yield from self.think()
            chosen = mine[self.engine.rng.randrange(len(mine))] if mine else ""
            if chosen and self.engine.chance(100):
                done = self._new("stop", user, task_id=chosen)
                done = yield from self.write(StopTask(session_id=session, task_id=chosen), done)
            elif chosen and (self.engine.chance(400) or len(mine) >= OPEN_TASKS_MAX):
                yield from self._look(user, chosen, mine)
                continue
            else:
                count += 1
                done = yield from self._submit(user, session, f"t{self.number}-{count}", mine)
                if done.accepted:
                    mine.append(done.task_id)
            if isinstance(done.result, Reply) and done.result.code == Code.INVALID_SESSION:
                session = (yield from self.log_in(user)) or session

    def _submit(self, user: str, session: str, task_id: str, mine: list[str]) -> Generator[Sleep | Ask, Any, Done]:
        after = (mine[-1],) if mine and self.engine.chance(250) else ()
        priority = list(Priority)[self.engine.rng.randrange(3)]
        command = SubmitTask(
            session_id=session,
            task_id=task_id,
            spec=TaskSpec(priority=priority, dependencies=after, time_limit_s=300),
            data=BlobRef(sha256=f"{self.engine.rng.getrandbits(256):064x}", size_bytes=1_000),
            data_holders=(),
        )
        done = self._new("submit", user, task_id=task_id)
        return (yield from self.write(command, done))

    def _look(self, user: str, task_id: str, mine: list[str]) -> Life:
        done = yield from self.read("task", user, lambda view: queries.task(view, user, task_id))
        done.task_id = task_id
        if done.known and done.result is not None and done.result.state.ended:
            mine.remove(task_id)


class Wanderer(_Client):
    """Logs in here and there, refreshes, logs out, changes the password, and looks which of its sessions stand.

    Now and then it claims the machine that it is at.
    """

    def live(self) -> Life:
        user = f"wanderer{self.number}"
        while not self.load.stopping:
            done = yield from self.register(user)
            if done.known:
                break
        password = FIRST_PASSWORD
        sessions: list[str] = []
        while not self.load.stopping:
            yield from self.think()
            if sessions and self.engine.chance(400):
                session = sessions[self.engine.rng.randrange(len(sessions))]
                looked = yield from self.read("stands", user, _stands(session))
                looked.session = session
                continue
            done = yield from self._act(user, password, sessions)
            if done.opened:
                sessions = [*sessions, done.opened][-WANDERER_SESSIONS_MAX:]
            if done.kind == "password" or (done.known and not done.accepted):
                known = yield from self.read("password", user, _password_of(user))
                password = known.result if known.known and known.result else password

    def _act(self, user: str, password: str, sessions: list[str]) -> Generator[Sleep | Ask, Any, Done]:
        done = self._new("login", user)
        if not sessions or self.engine.chance(300):
            done.opened = f"s-{done.key}"
            command: Record = LogIn(
                session_id=done.opened, username=user, checked_hash=password, lifetime_ms=SESSION_MS
            )
            return (yield from self.write(command, done))
        done.session = session = sessions[self.engine.rng.randrange(len(sessions))]
        match self.engine.rng.randrange(4):
            case 0:
                done.kind = "logout"
                command = CloseSession(session_id=session)
            case 1:
                done.kind, done.opened = "refresh", f"s-{done.key}"
                command = RefreshSession(session_id=session, new_session_id=done.opened, lifetime_ms=SESSION_MS)
            case 2:
                done.kind, done.opened = "password", f"s-{done.key}"
                command = ChangePassword(
                    session_id=session,
                    checked_hash=password,
                    password_hash=f"$argon2id${done.key}",
                    new_session_id=done.opened,
                    lifetime_ms=SESSION_MS,
                )
            case _:
                done.kind = "claim"
                command = ClaimNode(session_id=session, signed_claim=self._claim(user))
        return (yield from self.write(command, done))

    def _claim(self, user: str) -> bytes:
        node = self._some_node()
        claim = encode_record(
            Claim(
                purpose=ClaimPurpose.NODE,
                hive_id=self.load.world.hive_id,
                node_id=node.node_id,
                username=user,
                expires_ms=max(0, node.clock.wall_ms()) + CLAIM_MS,
            )
        )
        return encode_record(SignedClaim(claim=claim, signature=signature_of(node.public_key, CLAIM_DOMAIN + claim)))


def _stands(session: str) -> Callable[[ReadView], bool]:
    return lambda view: queries.session(view, session) is not None


def _password_of(user: str) -> Callable[[ReadView], str]:
    def look(view: ReadView) -> str:
        found = queries.user(view, user)
        return "" if found is None else found.password_hash

    return look


class Registrar(_Client):
    """Two of them want the same names at about the same time, and look whether a name is taken."""

    def live(self) -> Life:
        count = 0
        while not self.load.stopping:
            yield Sleep(self.engine.between(5 * SECOND, 60 * SECOND))
            count += 1
            name = f"name{count}"
            if self.engine.chance(500):
                yield from self.read("taken", name, _is_taken(name))
            yield from self.register(name)
            yield from self.read("taken", name, _is_taken(name))


def _is_taken(name: str) -> Callable[[ReadView], bool]:
    return lambda view: queries.user(view, name) is not None
