"""Session tokens: JWTs (RFC 7519) signed with a node's Ed25519 key (`EdDSA`, RFC 8037).

A token names its session, user, hive and signer. It proves nothing by itself: the signer must be a node with voter right, and
the session must stand in agreed state (`accounts.py`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.pool.records import SessionRecord

_ALGORITHM: Final = "EdDSA"
TOKEN_CHARACTERS_MAX: Final = 2_048
"""A token of the longest user name has under 700 characters; what is longer is not looked at."""
LEEWAY_S: Final = 60
"""Clocks of machines on a LAN may differ by this much; the agreed clock decides about the session in any case."""
CACHE_MAX: Final = 16_384
"""Verified tokens kept, some 5 MB: more sessions than talk to one node at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a token says. `expires_s` counts from 1970; `signer` is a node id."""

    session_id: str
    username: str
    expires_s: int
    signer: str
    hive_id: str


def invalid_session() -> HiveError:
    """The one refusal of whatever is wrong with a token."""
    return HiveError(Code.INVALID_SESSION, "the session has ended or the token is not valid: log in again")


class TokenSigner:
    """Signs tokens with this node's key; its repr shows the node id alone."""

    def __init__(self, identity: Identity) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(identity.seed)
        self._node_id = identity.node_id

    def sign(self, session: SessionRecord, hive_id: str) -> str:
        """The token of a session in a hive."""
        claims: dict[str, Any] = {
            "sub": session.username,
            "sid": session.session_id,
            "iat": session.created_ms // 1_000,
            "exp": session.expires_ms // 1_000,
            "iss": self._node_id,
            "aud": hive_id,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._node_id})

    def __repr__(self) -> str:
        return f"TokenSigner({self._node_id})"


def signer_of(token: str) -> str:
    """The node id that a token names as its signer, nothing checked yet. Raises INVALID_SESSION."""
    if not 0 < len(token) <= TOKEN_CHARACTERS_MAX or not token.isascii():
        raise invalid_session()
    try:
        signer = jwt.get_unverified_header(token).get("kid")
    except (
        jwt.PyJWTError,
        ValueError,
        RecursionError,
    ):  # The header is JSON of anybody's making, perhaps a thousand deep.
        raise invalid_session() from None
    if not isinstance(signer, str):
        raise invalid_session()
    return signer


def open_token(token: str, *, signer: str, public_key: bytes, hive_id: str) -> TokenClaims:
    """The claims of a token whose signature, hive and signer hold; its times are checked by `check_time`.

    Args:
        signer, public_key: the node that the token names, and its Ed25519 key (32 bytes).
        hive_id: the hive that the token must be for.
    Raises:
        HiveError: INVALID_SESSION.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        claims = jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            audience=hive_id,
            issuer=signer,
            options={"require": ["sub", "exp", "iss", "aud"], "verify_exp": False, "verify_iat": False},
        )
    except (jwt.PyJWTError, ValueError, UnsupportedAlgorithm):
        raise invalid_session() from None
    session_id, username, expires_s = claims.get("sid"), claims.get("sub"), claims.get("exp")
    if not (isinstance(session_id, str) and isinstance(username, str) and type(expires_s) is int):
        raise invalid_session()
    return TokenClaims(session_id=session_id, username=username, expires_s=expires_s, signer=signer, hive_id=hive_id)


def check_time(claims: TokenClaims, now_ms: int) -> None:
    """Raises INVALID_SESSION when the token is past its time by this node's clock, with a leeway."""
    if now_ms >= (claims.expires_s + LEEWAY_S) * 1_000:
        raise invalid_session()


class TokenCache:
    """Claims of tokens whose signature was checked, by a hash of the token, the least recently used forgotten first."""

    def __init__(self, entries_max: int = CACHE_MAX) -> None:
        self._entries: OrderedDict[bytes, TokenClaims] = OrderedDict()
        self._entries_max = entries_max

    def get(self, token: str) -> TokenClaims | None:
        key = _digest(token)
        claims = self._entries.get(key)
        if claims is not None:
            self._entries.move_to_end(key)
        return claims

    def put(self, token: str, claims: TokenClaims) -> None:
        self._entries[_digest(token)] = claims
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
