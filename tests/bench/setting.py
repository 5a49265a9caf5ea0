"""What every case gets: a folder, how long to measure, and three daemons that are one hive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivenode.pb import nodepool_pb2
from tests.bench.figures import Report
from tests.bench.load import Caller, Metadata
from tests.e2e.user import CallError, User
from tests.support.daemons import Daemon, Hive, hive

NO_LIMIT = {"HIVENODE_REGISTRATIONS_PER_MINUTE_MAX": "100000", "HIVENODE_LOGINS_PER_MINUTE_MAX": "100000"}
"""The rates that keep strangers out are no part of what is measured."""


SUCCESS = b"\x08\x01"
"""How an answer begins whose first field is `success = true`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much is measured.

    Args:
        runs, seconds: of each rate.
        tasks, failovers, trials: of those cases.
        inputs: of the fuzzing, over all decoders.
    """

    folder: Path
    report: Report
    runs: int = 5
    seconds: float = 2.0
    tasks: int = 40
    failovers: int = 30
    trials: int = 5
    inputs: int = 1_000_000

    def place(self, name: str) -> Path:
        """A new folder for one hive."""
        made = self.folder / name
        made.mkdir()
        return made


@contextlib.contextmanager
def three(setting: Setting, name: str, *flags: str, workers: int | None = None) -> Iterator[Hive]:
    """Three daemons, on loopback, that are one hive with three voters."""
    with hive(setting.place(name), 3, *flags, workers=workers, settings=NO_LIMIT) as made:
        yield made


def funded_users(daemon: Daemon, count: int) -> list[User]:
    """New accounts with their grants."""
    return [User.new(daemon) for _ in range(count)]


def balance_callers(users: Sequence[User]) -> list[Caller]:
    """Every user asks for their own balance."""
    return [
        Caller(
            turns=((nodepool_pb2.GetBalanceRequest(username=user.name).SerializeToString(), bearer(user)),),
            begins=SUCCESS,
        )
        for user in users
    ]


def transfer_callers(pairs: Sequence[tuple[User, User]]) -> list[Caller]:
    """The two of each pair give 1 CPT to and fro, so that nobody runs out."""
    return [Caller(turns=(_gift(one, other), _gift(other, one)), begins=SUCCESS) for one, other in pairs]


def _gift(sender: User, receiver: User) -> tuple[bytes, Metadata]:
    request = nodepool_pb2.TransferRequest(receiver_username=receiver.name, amount=1)
    return request.SerializeToString(), bearer(sender)


def bearer(user: User) -> Metadata:
    return (("authorization", f"Bearer {user.token}"),)


def try_once(user: User, receiver: str, timeout_s: float) -> str:
    """One transfer of 1 CPT, not repeated: how it ended, as done, refused, retry or unknown."""
    request = nodepool_pb2.TransferRequest(receiver_username=receiver, amount=1)
    try:
        user.call("/nodepool.UserService/Transfer", request, nodepool_pb2.TransferResponse, timeout_s=timeout_s)
    except CallError as error:
        return error.outcome.value
    return "done"
