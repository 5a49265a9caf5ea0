"""How connections between daemons are made, in one place for both sides."""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

import grpc

from hivenode.transport.tls import channel_options

MESSAGE_BYTES_MAX: Final = 104 << 20
"""The documented 100 MB of a task archive or result, with slack for the fields beside it."""
CHUNK_BYTES: Final = 256 << 10
"""Piece of a streamed blob or result: large enough for line rate, and small, since a stream holds some five copies of one."""
PIECE_ANSWER_BYTES_MAX: Final = 2 * CHUNK_BYTES
"""One message of a blob or log from another node, which may mean harm: refused by its head, before more of it is taken."""
PEER_ANSWER_BYTES_MAX: Final = 4 << 20
"""Any other message from another node, but for lists of all members; the largest is a piece of a snapshot, of 1 MiB."""
PING_INTERVAL_MS: Final = 2_000
"""A machine that lost its power is noticed within two of these."""
API_STREAMS_MAX: Final = 100
"""Calls at once on a program's connection to its own machine; RFC 9113, section 6.5.2, advises no fewer. More wait at the
program: gRPC takes the calls of all connections out of one row, and whoever could fill it would have others wait behind."""
PEER_STREAMS_MAX: Final = 1_024
"""The same of a connection from another machine, which may bring the calls of all its users."""
CONNECTIONS_MAX: Final = 1_024
"""To one server: a thousand programs and some hundred peers; more would be a fault or an attack."""
FILES_RESERVE: Final = 256
"""Open files that are no connections of peers and programs: stores, blobs, sandboxes, the engine, discovery; an idle daemon has
some 35."""
_CONNECTION_KINDS: Final = 3
"""From programs, from peers, and to peers: each has an equal share of the files, so none takes the others' nor the reserve."""
WINDOW_BYTES: Final = 1 << 20
"""That may be on its way in a call before it is asked for; 20 MB/s at a round trip of 50 ms."""
CALLS_MAX: Final = 4_096
"""Calls at once on one server; what comes over it is told RESOURCE_EXHAUSTED."""
PING_STRIKES_MAX: Final = 16
"""Pings that come too fast before the connection is closed; a machine that was paused sends a few at once."""
HANDSHAKE_MS_MAX: Final = 10_000
"""A connection that has not said by then that it speaks HTTP/2, or shown no TLS, holds a place for nothing."""

CONNECT_MS_MAX: Final = 3_000
"""A connection to another node takes some three round trips to stand. A LAN answers in milliseconds, but a board that is busy
with tasks does not, nor does another continent."""

_PEER_SERVICE: Final = "hive.PeerService"

_Options: TypeAlias = tuple[tuple[str, int | str], ...]

_SIZES: Final[_Options] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
)
_WINDOW: Final[_Options] = (
    # What a call that is not read yet may hold: gRPC would let it grow to tens of megabytes on a fast network.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
)


def _answers(bytes_max: int, *methods: str) -> dict[str, Any]:
    """The bound of an answer's messages, for some methods of the peer protocol or for all of them that are not named."""
    names: list[dict[str, str]] = [{"method": method} for method in methods] or [{}]
    return {"name": [{"service": _PEER_SERVICE, **name} for name in names], "maxResponseMessageBytes": bytes_max}


_METHODS: Final = {
    "methodConfig": [
        _answers(PIECE_ANSWER_BYTES_MAX, "FetchBlob", "ReadLog"),
        _answers(MESSAGE_BYTES_MAX, "Join", "ListMembers"),
        _answers(PEER_ANSWER_BYTES_MAX),
    ]
}

CLIENT_OPTIONS: Final[_Options] = (
    *_SIZES,
    *_WINDOW,
    ("grpc.service_config", json.dumps(_METHODS)),
    # In spite of its name it is how long a connection may take to stand; a call fails when it takes longer.
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS_MAX),
    ("grpc.keepalive_time_ms", PING_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", PING_INTERVAL_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # Without it a new channel shares the broken connection of an old one.
    ("grpc.use_local_subchannel_pool", 1),
    # Names and proxies are no business of a connection between daemons.
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: Final[_Options] = (
    *_SIZES,
    # Two daemons on one port would share it silently.
    ("grpc.so_reuseport", 0),
    # It would reset some of the streams that the two bounds above allow, and clients would take that for UNAVAILABLE.
    ("grpc.http.overload_protection", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS // 2),
    ("grpc.http2.max_ping_strikes", PING_STRIKES_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
    *_WINDOW,
    # A request that unpacks to a thousand times its size is no use to anybody: archives are packed already.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.keepalive_time_ms", PING_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", PING_INTERVAL_MS),
)


def connections_max(files: int) -> int:
    """How many connections one server takes when the process may have so many files open."""
    reserve = min(FILES_RESERVE, files // 2)
    return max(1, min(CONNECTIONS_MAX, (files - reserve) // _CONNECTION_KINDS))


def open_channel(address: str, der: bytes) -> grpc.aio.Channel:
    """A channel to a peer port that shows exactly this certificate (DER), connected by its first call."""
    credentials, pinned = channel_options(der)
    return grpc.aio.secure_channel(address, credentials, options=(*CLIENT_OPTIONS, *pinned))
