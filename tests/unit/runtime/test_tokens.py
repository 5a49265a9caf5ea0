"""Tokens, good and forged."""

from __future__ import annotations

import json
from typing import Any

import jwt
import nacl.signing
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.pool.records import SessionId, SessionRecord, UserName
from hivenode.runtime.tokens import LEEWAY_S, TokenCache, TokenSigner, check_time, open_token, signer_of

IDENTITY = Identity(nacl.signing.SigningKey(b"1" * 32))
OTHER = Identity(nacl.signing.SigningKey(b"2" * 32))
SESSION = SessionRecord(
    session_id=SessionId("s1"), username=UserName("ann"), created_ms=1_000_500, expires_ms=2_000_500
)
CLAIMS: dict[str, Any] = {"sub": "ann", "sid": "s1", "exp": 2_000, "iss": IDENTITY.node_id, "aud": "hive"}


def opened(token: str, hive_id: str = "hive") -> object:
    return open_token(token, signer=signer_of(token), public_key=IDENTITY.public_key, hive_id=hive_id)


def refused(token: str, hive_id: str = "hive") -> bool:
    with pytest.raises(HiveError) as caught:
        opened(token, hive_id)
    return caught.value.code is Code.INVALID_SESSION


def forged(claims: dict[str, Any], key: Any = None, algorithm: str = "EdDSA", **headers: Any) -> str:
    key = Ed25519PrivateKey.from_private_bytes(IDENTITY.seed) if key is None else key
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": IDENTITY.node_id} | headers)


def test_a_signed_token_opens_to_its_session() -> None:
    token = TokenSigner(IDENTITY).sign(SESSION, "hive")
    claims = open_token(token, signer=signer_of(token), public_key=IDENTITY.public_key, hive_id="hive")
    assert (claims.session_id, claims.username, claims.expires_s) == ("s1", "ann", 2_000)
    assert jwt.get_unverified_header(token)["kid"] == IDENTITY.node_id
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload == CLAIMS | {"iat": 1_000}


def test_a_token_of_another_key_hive_or_signer_is_refused() -> None:
    assert refused(TokenSigner(OTHER).sign(SESSION, "hive"))
    assert refused(TokenSigner(IDENTITY).sign(SESSION, "hive"), "other hive")
    assert refused(forged(CLAIMS | {"iss": OTHER.node_id}))
    assert refused(forged(CLAIMS, Ed25519PrivateKey.from_private_bytes(OTHER.seed)))


@pytest.mark.parametrize("claim", ["sub", "sid", "exp", "iss", "aud"])
def test_a_token_without_a_claim_is_refused(claim: str) -> None:
    assert refused(forged({name: value for name, value in CLAIMS.items() if name != claim}))


@pytest.mark.parametrize("change", [{"sub": 1}, {"sid": None}, {"exp": "soon"}, {"exp": 1.5}, {"aud": 3}])
def test_a_claim_of_another_type_is_refused(change: dict[str, Any]) -> None:
    token = jwt.api_jws.encode(
        json.dumps(CLAIMS | change).encode(),
        Ed25519PrivateKey.from_private_bytes(IDENTITY.seed),
        algorithm="EdDSA",
        headers={"kid": IDENTITY.node_id},
    )
    assert refused(token)


def test_a_header_nested_a_thousand_deep_is_an_invalid_session() -> None:
    header = jwt.utils.base64url_encode(b"[" * 1_400).decode()
    assert refused(f"{header}.e30.AA")


def test_no_other_algorithm_counts() -> None:
    assert refused(forged(CLAIMS, "", "none"))
    assert refused(forged(CLAIMS, "0" * 64, "HS256"))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "." * 10, "é" * 20, "\ud800.a.b", "x" * 5_000])
def test_rubbish_is_an_invalid_session(token: str) -> None:
    assert refused(token)


def test_a_signer_that_is_no_text_is_refused() -> None:
    token = forged(CLAIMS)
    header = jwt.utils.base64url_encode(b'{"alg":"EdDSA","kid":["a"]}').decode()
    assert refused(".".join([header, *token.split(".")[1:]]))


def test_a_token_ends_with_its_time_and_a_leeway() -> None:
    token = TokenSigner(IDENTITY).sign(SESSION, "hive")
    claims = open_token(token, signer=signer_of(token), public_key=IDENTITY.public_key, hive_id="hive")
    check_time(claims, (2_000 + LEEWAY_S) * 1_000 - 1)
    with pytest.raises(HiveError):
        check_time(claims, (2_000 + LEEWAY_S) * 1_000)


def test_the_cache_is_bounded_and_forgets_the_least_used() -> None:
    token = TokenSigner(IDENTITY).sign(SESSION, "hive")
    claims = open_token(token, signer=signer_of(token), public_key=IDENTITY.public_key, hive_id="hive")
    cache = TokenCache(2)
    cache.put("a", claims)
    cache.put("b", claims)
    assert cache.get("a") is claims
    cache.put("c", claims)
    assert cache.get("b") is None
    assert len(cache) == 2


def test_no_secret_shows_in_a_repr() -> None:
    token = TokenSigner(IDENTITY).sign(SESSION, "hive")
    cache = TokenCache()
    cache.put(token, open_token(token, signer=signer_of(token), public_key=IDENTITY.public_key, hive_id="hive"))
    shown = repr(TokenSigner(IDENTITY)) + repr(cache) + repr(vars(cache))
    assert token not in shown
    assert IDENTITY.seed.hex() not in shown
