"""The way to a daemon on another machine: TLS, pinned to the certificate that the node with the expected id vouches for.

Which node is expected: the one that `--peer ID@host:port` names; else any member of the hive that this machine's own daemon
is in; else the one that answered here before (`known_hosts.json`); else the user is asked once, and the answer is remembered.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from typing import Any, Final

import click
import grpc

from hivenode.cli import private_files
from hivenode.cli.settings import Settings, Target, own_daemon
from hivenode.errors import Code, HiveError
from hivenode.identity import fingerprint
from hivenode.pb import hive_pb2
from hivenode.transport.parsing import parse_answer
from hivenode.transport.peer_link import NONCE_BYTES, SERVICE, read_answer
from hivenode.transport.statuses import code_in
from hivenode.transport.tls import channel_options, fetch_certificate

KNOWN_HOSTS_FILE: Final = "known_hosts.json"
KNOWN_HOSTS_MAX: Final = 1_024
"""The one remembered first makes room; more machines than anyone asks from one account."""
OWN_DAEMON_DEADLINE_S: Final = 2.0
_FIELD: Final = "hosts"


def open_remote(
    settings: Settings, target: Target, options: tuple[tuple[str, int], ...], deadline_s: float
) -> grpc.Channel:
    """A channel to the daemon at `target`, which is who it should be.

    Raises:
        HiveError: NODE_OFFLINE when nobody answers, PEER_REJECTED when somebody else does, or nobody knows who that is.
    """
    der = asyncio.run(fetch_certificate(target.address, deadline_s))
    credentials, pinned = channel_options(der)
    channel = grpc.secure_channel(target.address, credentials, options=(*options, *pinned))
    try:
        node_id = _who_answers(channel, target.address, fingerprint(der), deadline_s)
        _require_trusted(settings, target, node_id)
    except BaseException:
        channel.close()
        raise
    return channel


def _who_answers(channel: grpc.Channel, address: str, certificate_sha256: bytes, deadline_s: float) -> str:
    """The id of the node that vouches, by its key and now, for the certificate of the channel."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    invoke: Any = channel.unary_unary(
        f"{SERVICE}Challenge", request_serializer=hive_pb2.ChallengeRequest.SerializeToString
    )
    try:
        data = invoke(hive_pb2.ChallengeRequest(caller_nonce=nonce), timeout=deadline_s)
    except grpc.RpcError as error:
        call: Any = error
        code = code_in(tuple(call.trailing_metadata() or ()))
        raise HiveError(code or Code.NODE_OFFLINE, f"{address} does not say who it is: {call.details()}") from None
    introduction = read_answer(
        parse_answer(hive_pb2.ChallengeResponse, data, address),
        caller="",
        nonce=nonce,
        address=address,
        certificate_sha256=certificate_sha256,
        now_ms=time.time_ns() // 1_000_000,
    )
    return introduction.record.node_id


def _require_trusted(settings: Settings, target: Target, node_id: str) -> None:
    if target.node_id:
        if target.node_id != node_id:
            raise HiveError(Code.PEER_REJECTED, f"{target.address} is {node_id}, and not {target.node_id}")
        return
    if node_id in _own_members(settings):
        return
    hosts = private_files.read(KNOWN_HOSTS_FILE, _FIELD)
    known = hosts.get(target.address)
    if known == node_id:
        return
    if known is not None:
        raise HiveError(
            Code.PEER_REJECTED,
            f"{target.address} was {known} before and is {node_id} now: somebody may stand between, or the machine is a new one. "
            f"If you know that it is right, say --peer {node_id}@{target.address}, or take the line out of "
            f"{private_files.config_dir() / KNOWN_HOSTS_FILE}",
        )
    _ask(target.address, node_id)
    hosts[target.address] = node_id
    while len(hosts) > KNOWN_HOSTS_MAX:
        del hosts[next(iter(hosts))]
    private_files.write(KNOWN_HOSTS_FILE, _FIELD, hosts)


def _ask(address: str, node_id: str) -> None:
    if not sys.stdin.isatty():
        raise HiveError(
            Code.PEER_REJECTED,
            f"nobody has said yet who answers at {address}; it says that it is {node_id}. "
            f"If that is right, say --peer {node_id}@{address}",
        )
    click.confirm(
        f"{address} says that it is the node {node_id}, and this is not known here.\n"
        "On that machine `hivenode identity show` tells. Go on, and remember it?",
        abort=True,
        err=True,
    )


def _own_members(settings: Settings) -> frozenset[str]:
    """The members of the hive that this machine's daemon is in, as it says; none when there is none."""
    address = own_daemon(settings)
    if address is None:
        return frozenset()
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        invoke: Any = channel.unary_unary(
            "/hive.HiveService/GetStatus",
            request_serializer=hive_pb2.GetStatusRequest.SerializeToString,
            response_deserializer=hive_pb2.GetStatusResponse.FromString,
        )
        try:
            report = invoke(hive_pb2.GetStatusRequest(), timeout=OWN_DAEMON_DEADLINE_S)
        except grpc.RpcError:
            return frozenset()
    return frozenset(member.node_id for member in report.members)
