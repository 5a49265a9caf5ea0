"""The ledger's own rules: conservation, no debt, one chain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.encoding.records import decode_record, encode_record
from hivenode.errors import InvariantError
from hivenode.ledger import chain
from hivenode.ledger.accounts import TREASURY, escrow_account, node_account, user_account
from hivenode.ledger.entries import NO_HASH, EntryKind, LedgerEntry, Posting, hash_of
from simulations.views import MemoryView

SUPPLY = 1_000


def founded() -> MemoryView:
    view = MemoryView()
    chain.found(view, time_ms=5, supply=SUPPLY, reference="log:1")
    return view


def move(view: MemoryView, *postings: tuple[str, int], kind: EntryKind = EntryKind.TRANSFER) -> LedgerEntry | None:
    return chain.post(view, time_ms=7, kind=kind, postings=postings, reference="log:2", origin="hive")


def test_genesis_is_the_first_entry_and_holds_the_supply() -> None:
    view = MemoryView()
    assert chain.head(view) == (0, NO_HASH)
    genesis = chain.found(view, time_ms=5, supply=SUPPLY, reference="log:1")
    assert (genesis.height, genesis.prev_hash, genesis.kind) == (1, NO_HASH, EntryKind.GENESIS)
    assert chain.balance(view, TREASURY) == SUPPLY
    assert chain.head(view) == (1, hash_of(genesis))
    with pytest.raises(InvariantError):
        chain.found(view, time_ms=5, supply=SUPPLY, reference="log:1")


def test_entry_moves_cpt_and_chains_to_the_one_before() -> None:
    view = founded()
    first = chain.entry(view, 1)
    second = move(view, (TREASURY, -10), ("user:a", 10))
    assert first is not None
    assert second is not None
    assert second.prev_hash == hash_of(first)
    assert (chain.balance(view, TREASURY), chain.balance(view, "user:a")) == (SUPPLY - 10, 10)
    assert list(chain.entries(view)) == [first, second]
    assert list(chain.entries(view, 2)) == [second]
    assert chain.verify_chain(view) == (2, hash_of(second))


def test_account_that_is_empty_has_no_row() -> None:
    view = founded()
    move(view, (TREASURY, -10), ("user:a", 10))
    move(view, ("user:a", -10), ("user:b", 10))
    assert dict(chain.accounts(view)) == {TREASURY: SUPPLY - 10, "user:b": 10}


def test_account_named_twice_is_taken_together_and_nothing_is_no_entry() -> None:
    view = founded()
    entry = move(view, (TREASURY, -10), ("user:a", 4), ("user:a", 6))
    assert entry is not None
    assert entry.postings == (Posting(account=TREASURY, amount=-10), Posting(account="user:a", amount=10))
    assert move(view, ("user:a", -3), ("user:a", 3)) is None
    assert chain.head(view)[0] == 2


@pytest.mark.parametrize(
    "postings",
    [
        ((TREASURY, -10), ("user:a", 9)),
        ((TREASURY, 10),),
        (("user:a", -1), (TREASURY, 1)),
        ((TREASURY, -SUPPLY - 1), ("user:a", SUPPLY + 1)),
    ],
)
def test_posting_that_breaks_a_rule_is_a_broken_invariant_and_writes_nothing(
    postings: tuple[tuple[str, int], ...],
) -> None:
    view = founded()
    before = view.rows()
    with pytest.raises(InvariantError):
        move(view, *postings)
    assert view.rows() == before


def test_amount_that_is_not_whole_and_second_genesis_are_broken_invariants() -> None:
    view = founded()
    with pytest.raises(InvariantError):
        move(view, (TREASURY, -1.5), ("user:a", 1.5))  # type: ignore[arg-type]
    with pytest.raises(InvariantError):
        move(view, (TREASURY, -1), ("user:a", 1), kind=EntryKind.GENESIS)
    with pytest.raises(InvariantError):
        chain.found(MemoryView(), time_ms=0, supply=0, reference="")


def test_names_of_accounts_of_different_owners_differ() -> None:
    names = [TREASURY, user_account("a"), node_account("a"), escrow_account("a", "b/c"), escrow_account("a", "b")]
    assert len(set(names)) == len(names)


def tamper(view: MemoryView, height: int, changes: dict[str, object]) -> None:
    entry = chain.entry(view, height)
    assert entry is not None
    fields = {name: getattr(entry, name) for name in LedgerEntry.__dataclass_fields__}
    view.put(b"L" + height.to_bytes(8, "big"), encode_record(LedgerEntry(**{**fields, **changes})))


@pytest.mark.parametrize(
    ("height", "changes"),
    [
        (1, {"time_ms": 6}),
        (2, {"reference": "other"}),
        (2, {"postings": (Posting(account="user:a", amount=10), Posting(account=TREASURY, amount=-10))}),
        (3, {"prev_hash": NO_HASH}),
        (3, {"height": 4}),
        (3, {"origin": "user:b"}),
        (1, {"postings": (Posting(account="user:a", amount=SUPPLY),)}),
        (2, {"kind": EntryKind.GENESIS}),
    ],
)
def test_verification_finds_a_changed_entry(height: int, changes: dict[str, object]) -> None:
    view = founded()
    move(view, (TREASURY, -10), ("user:a", 10))
    move(view, ("user:a", -5), ("user:b", 5))
    chain.verify_chain(view)
    tamper(view, height, changes)
    with pytest.raises(InvariantError):
        chain.verify_chain(view)


@pytest.mark.parametrize("key", [b"L" + (2).to_bytes(8, "big"), b"H", b"Buser:a"])
def test_verification_finds_a_missing_row(key: bytes) -> None:
    view = founded()
    move(view, (TREASURY, -10), ("user:a", 10))
    view.delete(key)
    with pytest.raises(InvariantError):
        chain.verify_chain(view)


def test_verification_finds_a_forged_balance_and_an_unreadable_entry() -> None:
    view = founded()
    view.put(b"Buser:a", (5).to_bytes(8, "big"))
    with pytest.raises(InvariantError):
        chain.verify_chain(view)
    view = founded()
    view.put(b"L" + (1).to_bytes(8, "big"), b"rubbish")
    with pytest.raises(InvariantError):
        chain.verify_chain(view)


@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from((TREASURY, "user:a", "user:b")), st.sampled_from(("user:a", "user:b")), st.integers()
        ),
        max_size=20,
    )
)
def test_whatever_is_tried_the_sum_stays_and_the_chain_verifies(moves: list[tuple[str, str, int]]) -> None:
    view = founded()
    for source, target, amount in moves:
        try:
            move(view, (source, -amount), (target, amount))
        except InvariantError:
            continue
    chain.verify_chain(view)
    assert sum(amount for _, amount in chain.accounts(view)) == SUPPLY
    assert all(amount > 0 for _, amount in chain.accounts(view))


def test_entry_bytes_and_hash_are_those_of_the_released_layout() -> None:
    genesis = chain.found(MemoryView(), time_ms=5, supply=SUPPLY, reference="log:1")
    assert decode_record(LedgerEntry, encode_record(genesis)) == genesis
    assert encode_record(genesis).hex() == (
        "8918c901015820" + "00" * 32 + "056767656e6573697381" + "8418c801687472656173757279" + "1903e8"
        "656c6f673a316468697665"
    )
    assert hash_of(genesis).hex() == "c7df3c344896cc0ec68561bbab5fa8c40d2b89ab7c3d21714cf335357d8f3cb9"
