"""The machine's one-time code."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nacl.signing
import pytest

from hivenode.encoding.claim import Claim, ClaimPurpose, check_claim, read_claim
from hivenode.errors import Code, HiveError
from hivenode.identity import Identity, verify_signature
from hivenode.runtime.claim_code import CLAIM_LIFETIME_MS, CODE_FILE, ClaimCode

IDENTITY = Identity(nacl.signing.SigningKey(b"1" * 32))
NOW_MS = 1_700_000_000_000


@pytest.fixture
async def code(tmp_path: Path) -> ClaimCode:
    made = ClaimCode(tmp_path, IDENTITY, lambda: "hive", lambda: NOW_MS)
    await made.renew()
    return made


def written(folder: Path) -> str:
    return (folder / CODE_FILE).read_text().strip()


async def refused(code: ClaimCode, tried: str, username: str = "ann") -> Code:
    with pytest.raises(HiveError) as caught:
        await code.redeem(tried, ClaimPurpose.ADMIN, username)
    return caught.value.code


async def test_code_lies_in_a_file_of_the_owner_alone(code: ClaimCode, tmp_path: Path) -> None:
    assert (tmp_path / CODE_FILE).stat().st_mode & 0o777 == 0o600
    assert len(written(tmp_path)) == 32
    assert written(tmp_path) not in repr(code) + str(code)


async def test_code_buys_one_claim_and_is_another_afterwards(code: ClaimCode, tmp_path: Path) -> None:
    first = written(tmp_path)
    claim, signed = read_claim(await code.redeem(first, ClaimPurpose.NODE, "ann"))
    check_claim(signed, IDENTITY.public_key, verify_signature)
    assert claim == Claim(
        purpose=ClaimPurpose.NODE,
        hive_id="hive",
        node_id=IDENTITY.node_id,
        username="ann",
        expires_ms=NOW_MS + CLAIM_LIFETIME_MS,
    )
    assert await refused(code, first) is Code.PERMISSION_DENIED
    later, _ = read_claim(await code.redeem(written(tmp_path), ClaimPurpose.NODE, "ann"))
    assert later.expires_ms > claim.expires_ms


async def test_one_code_shown_twice_at_once_buys_one_claim(code: ClaimCode, tmp_path: Path) -> None:
    shown = written(tmp_path)
    tries = (code.redeem(shown, ClaimPurpose.ADMIN, name) for name in ("ann", "bob"))
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(isinstance(one, HiveError) for one in done) == [False, True]


@pytest.mark.parametrize("tried", ["", "x", "0" * 32, "\ud800"])
async def test_wrong_code_buys_nothing_and_stays_what_it_is(code: ClaimCode, tmp_path: Path, tried: str) -> None:
    before = written(tmp_path)
    assert await refused(code, tried) is Code.PERMISSION_DENIED
    assert written(tmp_path) == before


async def test_code_changes_at_every_start(code: ClaimCode, tmp_path: Path) -> None:
    before = written(tmp_path)
    again = ClaimCode(tmp_path, IDENTITY, lambda: "hive", lambda: NOW_MS)
    assert await refused(again, "") is Code.PERMISSION_DENIED
    await again.renew()
    assert written(tmp_path) != before
    assert await refused(again, before) is Code.PERMISSION_DENIED


async def test_machine_without_a_hive_claims_nothing(tmp_path: Path) -> None:
    code = ClaimCode(tmp_path, IDENTITY, lambda: "", lambda: NOW_MS)
    await code.renew()
    assert await refused(code, written(tmp_path)) is Code.NOT_A_MEMBER
