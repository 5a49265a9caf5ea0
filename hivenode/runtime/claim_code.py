"""The one-time code of this machine: who can read it from the data directory owns the machine, and may claim things in its name.

The code lies in a 0600 file. It changes at every start of the daemon and with every use, so one that was seen is worth nothing
afterwards. For a code the daemon signs one claim (`encoding/claim.py`), which the hive takes from the named user alone, once.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hivenode.durable_files import write_file
from hivenode.encoding.claim import CLAIM_DOMAIN, Claim, ClaimPurpose, SignedClaim
from hivenode.encoding.records import encode_record
from hivenode.errors import Code, HiveError
from hivenode.identity import Identity
from hivenode.pool.validation import check_username

CODE_FILE: Final = "claim-code"
CODE_BYTES: Final = 16
"""Nobody guesses 128 bits, so tries need no counting."""
CLAIM_LIFETIME_MS: Final = 600_000
"""The command line shows the claim at once; ten minutes outlast an election and clocks that differ."""


class ClaimCode:
    """Keeps the code and signs claims.

    Args:
        folder: the data directory.
        hive_id: the hive that this node is in, empty for none.
        now_ms: wall clock, ms since 1970.
    """

    def __init__(self, folder: Path, identity: Identity, hive_id: Callable[[], str], now_ms: Callable[[], int]) -> None:
        self._path = folder / CODE_FILE
        self._identity = identity
        self._hive_id = hive_id
        self._now_ms = now_ms
        self._code = ""
        self._expires_ms = 0
        self._writing = asyncio.Lock()

    async def renew(self) -> None:
        """Leaves a new code; the one before counts no more, whether or not the disk takes the new one."""
        self._code = secrets.token_hex(CODE_BYTES)
        async with self._writing:
            try:
                await asyncio.to_thread(write_file, self._path, f"{self._code}\n".encode())
            except OSError as error:
                raise HiveError(Code.DISK_FULL, f"{self._path} cannot be written: {error.strerror}") from error

    async def redeem(self, code: str, purpose: ClaimPurpose, username: str) -> bytes:
        """Canonical bytes of a `SignedClaim` for who shows the code.

        Raises:
            HiveError: PERMISSION_DENIED for another code, NOT_A_MEMBER while this node is in no hive, INVALID_ARGUMENT.
        """
        check_username(username)
        hive_id = self._hive_id()
        if not hive_id:
            raise HiveError(Code.NOT_A_MEMBER, "this machine belongs to no hive yet: ask again when it does")
        if not self._code or not hmac.compare_digest(code.encode("utf-8", "replace"), self._code.encode()):
            raise HiveError(
                Code.PERMISSION_DENIED,
                f"this is not the code in {self._path}, which changes with every use and every start of the daemon",
            )
        await self.renew()
        # Each claim expires later than the one before, since the hive takes them in that order alone.
        self._expires_ms = max(self._now_ms() + CLAIM_LIFETIME_MS, self._expires_ms + 1)
        claim = encode_record(
            Claim(
                purpose=purpose,
                hive_id=hive_id,
                node_id=self._identity.node_id,
                username=username,
                expires_ms=self._expires_ms,
            )
        )
        return encode_record(SignedClaim(claim=claim, signature=self._identity.sign(CLAIM_DOMAIN + claim)))

    def __repr__(self) -> str:
        return f"ClaimCode({self._path})"
