"""TLS of the peer port: what it shows, and how whoever dials pins exactly that certificate.

The certificate is fetched by a handshake that trusts nobody. It counts only after the node that answers on a channel pinned to it
has proven, by its node key, that its signed record vouches for it: who stands between two nodes shows another certificate, which
the record does not name.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import grpc

from hivenode.config import split_address
from hivenode.errors import Code, HiveError
from hivenode.identity import TLS_NAME, Certificate

CERTIFICATES_MAX: Final = 4_096
"""Certificates remembered by address; a forgotten one costs a handshake."""
CERTIFICATE_BYTES_MAX: Final = 4_096
"""A node's own has some 400 bytes."""


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


_UNVERIFIED: Final = _context()


def server_credentials(certificate: Certificate, accepted: Callable[[], None]) -> grpc.ServerCredentials:
    """For a port that shows this certificate. TLS 1.3 only (`hivenode.TLS12_SUITES`).

    Args:
        accepted: told of each connection before anything of it is read, on a thread of gRPC's.
    """
    shown = grpc.ssl_server_certificate_configuration([(certificate.key_pem, certificate.pem)])

    def same_certificate() -> Any:
        accepted()
        return None  # No other certificate: gRPC's stub does not say that it may be none.

    return grpc.dynamic_ssl_server_credentials(shown, same_certificate)


def channel_options(der: bytes) -> tuple[grpc.ChannelCredentials, tuple[tuple[str, str], ...]]:
    """Credentials and options of a channel that takes exactly this certificate (DER)."""
    pem = ssl.DER_cert_to_PEM_cert(der).encode("ascii")
    return grpc.ssl_channel_credentials(pem), (("grpc.ssl_target_name_override", TLS_NAME),)


async def fetch_certificate(address: str, deadline_s: float) -> bytes:
    """The certificate (DER) that is shown at `host:port`, unverified.

    Raises:
        HiveError: NODE_OFFLINE when nobody answers, PEER_REJECTED when the answer is no TLS 1.3.
    """
    try:
        host, port = split_address(address)
        async with asyncio.timeout(deadline_s):
            _, writer = await asyncio.open_connection(host, port, ssl=_UNVERIFIED, server_hostname=TLS_NAME)
    except ssl.SSLError as error:
        raise HiveError(Code.PEER_REJECTED, f"{address} does not speak TLS 1.3: {error.reason or error}") from error
    except TimeoutError:
        raise HiveError(Code.NODE_OFFLINE, f"{address} did not answer in time") from None
    except (OSError, ValueError) as error:
        raise HiveError(Code.NODE_OFFLINE, f"{address} cannot be reached: {error}") from error
    try:
        shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
        der = shown.getpeercert(binary_form=True) or b""
    finally:
        writer.transport.abort()
    if not 0 < len(der) <= CERTIFICATE_BYTES_MAX:
        raise HiveError(Code.PEER_REJECTED, f"{address} shows a certificate that no node has")
    return der


class Certificates:
    """Which certificate was shown, and vouched for, at which address."""

    def __init__(self) -> None:
        self._shown: OrderedDict[str, bytes] = OrderedDict()

    def shown_at(self, address: str) -> bytes | None:
        return self._shown.get(address)

    def note(self, address: str, der: bytes) -> None:
        self._shown[address] = der
        self._shown.move_to_end(address)
        while len(self._shown) > CERTIFICATES_MAX:
            self._shown.popitem(last=False)

    def forget(self, address: str) -> None:
        self._shown.pop(address, None)
