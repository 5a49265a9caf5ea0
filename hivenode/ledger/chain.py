"""The ledger in agreed state: balances, the chain of entries, and the only functions that move CPT.

Rules:
1. CPT comes into being once, by `found`, as the first entry. After that every entry's postings sum to 0.
2. No account is ever below 0, the treasury included.
3. Entry n holds the hash of entry n-1, so a head (height, hash) speaks for all that came before.
4. A balance is the sum of the postings to its account; an account of 0 has no row, so closed escrows leave nothing behind.

Who may move what is not decided here: the caller checks and refuses in a person's words. A posting that breaks a rule is
a broken invariant.

Tables (the first byte of the key): `B` account → 8-byte balance, `L` 8-byte height → entry, `H` → height and hash of the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.records import decode_record, encode_record
from hivenode.encoding.state_view import ReadView, StateView
from hivenode.errors import ensure
from hivenode.ledger.accounts import TREASURY
from hivenode.ledger.entries import NO_HASH, EntryKind, LedgerEntry, Posting, entry_hash

BALANCES: Final = b"B"
ENTRIES: Final = b"L"
HEAD: Final = b"H"
TABLES: Final = (BALANCES, ENTRIES, HEAD)

AMOUNT_MAX: Final = (1 << 62) - 1
"""Greatest supply, so that a balance and a sum of two fit into the `int64` of the wire."""


def _balance_key(account: str) -> bytes:
    return BALANCES + account.encode("utf-8")


def _entry_key(height: int) -> bytes:
    return ENTRIES + height.to_bytes(8, "big")


def head(view: ReadView) -> tuple[int, bytes]:
    """Height and hash of the newest entry; (0, `NO_HASH`) before the genesis."""
    row = view.get(HEAD)
    return (0, NO_HASH) if row is None else (int.from_bytes(row[:8], "big"), row[8:])


def balance(view: ReadView, account: str) -> int:
    """Whole CPT in an account; 0 for one that was never used."""
    row = view.get(_balance_key(account))
    return 0 if row is None else int.from_bytes(row, "big")


def accounts(view: ReadView) -> Iterator[tuple[str, int]]:
    """All accounts that are not 0, by name."""
    for key, row in view.scan(BALANCES):
        yield key[1:].decode("utf-8"), int.from_bytes(row, "big")


def entry(view: ReadView, height: int) -> LedgerEntry | None:
    """The entry at a height (from 1), or None."""
    row = view.get(_entry_key(height)) if 0 < height <= AMOUNT_MAX else None
    return None if row is None else decode_record(LedgerEntry, row)


def entries(view: ReadView, from_height: int = 1) -> Iterator[LedgerEntry]:
    """Entries from a height on, in order."""
    after = _entry_key(from_height - 1) if from_height > 0 else b""
    for _, row in view.scan(ENTRIES, after=after):
        yield decode_record(LedgerEntry, row)


def found(view: StateView, *, time_ms: int, supply: int, reference: str) -> LedgerEntry:
    """The genesis: puts `supply` CPT into the treasury. Only into an empty ledger."""
    ensure(head(view)[0] == 0, "the ledger has a genesis already")
    ensure(0 < supply <= AMOUNT_MAX, "the supply is out of bounds")
    return _append(view, time_ms, EntryKind.GENESIS, {TREASURY: supply}, reference, "hive")


def post(
    view: StateView,
    *,
    time_ms: int,
    kind: EntryKind,
    postings: Iterable[tuple[str, int]],
    reference: str,
    origin: str,
) -> LedgerEntry | None:
    """Moves CPT between accounts and appends the entry.

    Args:
        time_ms: the agreed clock.
        postings: (account, amount); an account named twice is taken together, and what comes to 0 is left out.
    Returns: the entry, or None when nothing moves.
    Raises: InvariantError when the sum is not 0 or an account would go below 0; nothing is written then.
    """
    ensure(kind is not EntryKind.GENESIS, "a genesis is made by found alone")
    moved: dict[str, int] = {}
    for account, amount in postings:
        ensure(type(amount) is int, "an amount is not a whole number")
        moved[account] = moved.get(account, 0) + amount
    moved = {account: amount for account, amount in moved.items() if amount != 0}
    ensure(sum(moved.values()) == 0, "the postings of an entry do not sum to 0")
    if not moved:
        return None
    return _append(view, time_ms, kind, moved, reference, origin)


def _append(
    view: StateView, time_ms: int, kind: EntryKind, moved: dict[str, int], reference: str, origin: str
) -> LedgerEntry:
    balances = {account: balance(view, account) + amount for account, amount in moved.items()}
    for account, amount in balances.items():
        ensure(0 <= amount <= AMOUNT_MAX, f"the account {account} would hold {amount} CPT")
    height, prev_hash = head(view)
    new = LedgerEntry(
        height=height + 1,
        prev_hash=prev_hash,
        time_ms=time_ms,
        kind=kind,
        postings=tuple([Posting(account=account, amount=amount) for account, amount in moved.items()]),
        reference=reference,
        origin=origin,
    )
    data = encode_record(new)
    for account, amount in balances.items():
        if amount:
            view.put(_balance_key(account), amount.to_bytes(8, "big"))
        else:
            view.delete(_balance_key(account))
    number = new.height.to_bytes(8, "big")
    view.put(ENTRIES + number, data)
    view.put(HEAD, number + entry_hash(data))
    return new


def verify_chain(view: ReadView) -> tuple[int, bytes]:
    """Reads the whole ledger and checks it against its rules, its head and the balances.

    Returns: height and hash of the head.
    Raises: InvariantError that names the first entry or account that is wrong.
    """
    height, last_hash = 0, NO_HASH
    sums: dict[str, int] = {}
    for key, row in view.scan(ENTRIES):
        height += 1
        try:
            found_entry = decode_record(LedgerEntry, row)
        except DecodeError as error:
            ensure(False, f"ledger entry {height} cannot be read: {error}")
            raise
        ensure(key == _entry_key(height) and found_entry.height == height, f"ledger entry {height} is not at its place")
        ensure(found_entry.prev_hash == last_hash, f"ledger entry {height} does not follow the entry before it")
        _verify_postings(found_entry, sums)
        last_hash = entry_hash(row)
    ensure(head(view) == (height, last_hash), "the ledger's head is not its last entry")
    kept = {account: amount for account, amount in sums.items() if amount}
    ensure(kept == dict(accounts(view)), "a balance is not the sum of its postings")
    return height, last_hash


def _verify_postings(checked: LedgerEntry, sums: dict[str, int]) -> None:
    """Checks one entry's postings and adds them to `sums` (account → CPT)."""
    name = f"ledger entry {checked.height}"
    total = sum(posting.amount for posting in checked.postings)
    if checked.height == 1:
        ensure(checked.kind is EntryKind.GENESIS, "the first ledger entry is no genesis")
        ensure(
            [posting.account for posting in checked.postings] == [TREASURY], "the genesis pays others than the treasury"
        )
    else:
        ensure(checked.kind is not EntryKind.GENESIS, f"{name} is a second genesis")
        ensure(total == 0, f"{name} does not sum to 0")
    ensure(len({posting.account for posting in checked.postings}) == len(checked.postings), f"{name} names one twice")
    for posting in checked.postings:
        ensure(posting.amount != 0, f"{name} moves nothing on {posting.account}")
        sums[posting.account] = sums.get(posting.account, 0) + posting.amount
        ensure(sums[posting.account] >= 0, f"{name} takes {posting.account} below 0")
