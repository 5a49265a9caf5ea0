"""The checkers' own teeth: histories and logs that are wrong are found, and right ones pass."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from hivenode.consensus import ConfState, Entry, MemberId, MemoryLog
from hivenode.errors import Code
from hivenode.pool.commands import Reply
from simulations.calls import Failure
from simulations.checkers.agreed import AgreedChecker
from simulations.checkers.consensus import ConsensusChecker
from simulations.checkers.history import account_history, check_history, name_history, session_history
from simulations.checkers.linearizable import Operation, State, Step, UndecidedError, check
from simulations.checkers.violation import Violation
from simulations.hive_life import GRANT
from simulations.views import MemoryView
from simulations.workload import Done


def sees(value: int) -> Step:
    return lambda state: state if state == value else None


def sets(value: int) -> Step:
    return lambda _state: value


def op(called_at: int, returned_at: int | None, step: Step, place: int | None = None) -> Operation:
    text = f"{called_at}..{returned_at}"
    return Operation(called_at=called_at, returned_at=returned_at, step=step, text=text, place=place)


def test_reads_between_writes_are_linearizable() -> None:
    assert check([op(0, 1, sets(1)), op(2, 3, sees(1)), op(4, 5, sets(2)), op(6, 7, sees(2))], 0) is None


def test_a_read_under_way_beside_a_write_may_see_both() -> None:
    assert check([op(0, 10, sets(1)), op(1, 2, sees(0)), op(3, 4, sees(1))], 0) is None
    assert check([op(0, 10, sets(1)), op(1, 2, sees(1)), op(3, 12, sees(1))], 0) is None


def test_a_stale_read_is_found() -> None:
    found = check([op(0, 1, sets(1)), op(2, 3, sees(0))], 0)
    assert found is not None
    assert found.operation.called_at == 2


def test_a_value_that_comes_and_goes_is_found() -> None:
    assert check([op(0, 10, sets(1)), op(1, 2, sees(1)), op(3, 4, sees(0))], 0) is not None


def test_two_reads_that_disagree_on_the_order_of_two_writes_are_found() -> None:
    writes = [op(0, 10, sets(1)), op(0, 10, sets(2))]
    assert check([*writes, op(11, 12, sees(1)), op(13, 14, sees(2))], 0) is not None


def test_two_takers_of_one_name_are_found() -> None:
    def takes(state: State) -> State | None:
        return True if state is False else None

    assert check([op(0, 5, takes)], False) is None
    assert check([op(0, 5, takes), op(1, 6, takes)], False) is not None


def test_a_write_of_which_nobody_knows_may_happen_late_or_never() -> None:
    unknown = op(0, None, sets(1))
    assert check([unknown, op(10, 11, sees(0))], 0) is None
    assert check([unknown, op(10, 11, sees(0)), op(20, 21, sees(1)), op(22, 23, sees(1))], 0) is None


def test_a_write_of_which_nobody_knows_is_not_undone_not_done_twice_and_not_done_before_it_was_asked_for() -> None:
    assert check([op(0, None, sets(1)), op(10, 11, sees(1)), op(20, 21, sees(0))], 0) is not None
    twice = [op(0, None, sets(1)), op(1, 2, sees(1)), op(3, 4, sets(2)), op(5, 6, sees(1))]
    assert check(twice, 0) is not None
    assert check([op(10, None, sets(1)), op(0, 5, sees(1))], 0) is not None


def adds(amount: int) -> Step:
    return lambda state: state + amount if isinstance(state, int) else None


def test_too_many_possibilities_are_said_and_not_passed_over() -> None:
    history = [op(0, 100 + number, adds(1 << number)) for number in range(22)]
    with pytest.raises(UndecidedError):
        check([*history, op(0, 200, sees(-1))], 0)


def test_the_order_of_the_log_decides_among_any_number_of_possibilities_and_is_not_trusted() -> None:
    history = [op(0, 200 - number, adds(1 << number), place=number) for number in range(64)]
    reads = [op(2 * number, 300, sees((1 << number) - 1)) for number in range(64)]
    assert check([*history, *reads], 0) is None
    assert check([op(0, 5, sets(1), place=2), op(6, 9, sets(2), place=1), op(10, 11, sees(1))], 0) is not None
    assert check([op(0, 9, sets(1), place=1), op(0, 9, sets(2), place=2), op(10, 11, sees(1))], 0) is None


def brute_force(history: list[Operation], start: int) -> bool:
    """All orders of all choices of what never happened, one by one; for the few operations of a test."""
    certain = [operation for operation in history if operation.returned_at is not None]
    unknown = [operation for operation in history if operation.returned_at is None]
    return any(
        explains(order, start)
        for count in range(len(unknown) + 1)
        for happened in itertools.combinations(unknown, count)
        for order in itertools.permutations([*certain, *happened])
    )


def explains(order: tuple[Operation, ...], start: int) -> bool:
    if any(b.returned_at is not None and a.called_at > b.returned_at for a, b in itertools.combinations(order, 2)):
        return False
    state: State | None = start
    for operation in order:
        state = operation.step(state)
        if state is None:
            return False
    return True


def test_the_checker_agrees_with_trying_all_orders() -> None:
    rng = random.Random(7)
    verdicts = set()
    for _ in range(600):
        history = []
        for _ in range(rng.randint(1, 6)):
            called_at = rng.randint(0, 12)
            writes, known = rng.random() < 0.5, rng.random() < 0.7
            step = sets(rng.randint(0, 2)) if writes else sees(rng.randint(0, 2))
            place = rng.randint(0, 9) if writes and rng.random() < 0.7 else None
            history.append(op(called_at, called_at + rng.randint(1, 6) if known or not writes else None, step, place))
        expected = brute_force(history, 0)
        verdicts.add(expected)
        assert (check(history, 0) is None) == expected
    assert verdicts == {True, False}


# --- what clients learned ----------------------------------------------------------------------------------------------


def did(kind: str, user: str, called_us: int, result: object, **fields: object) -> Done:
    done = Done(kind=kind, user=user, called_us=called_us, returned_us=called_us + 1, result=result)
    for name, value in fields.items():
        setattr(done, name, value)
    return done


def reply(code: Code = Code.SUCCESS, number: int = 0) -> Reply:
    return Reply(code=int(code), message="", number=number)


def log_of(history: list[Done]) -> AgreedChecker:
    """A log in which everything that was answered stands as it was answered."""
    agreed = AgreedChecker()
    for index, done in enumerate(history, start=1):
        if isinstance(done.result, Reply):
            agreed.requests[done.owner, done.key] = (index, done.result)
            agreed.first_applied_us[index] = done.called_us
    return agreed


def two_accounts() -> list[Done]:
    return [
        did("register", "a", 0, reply(), owner="o", key="1"),
        did("register", "b", 0, reply(), owner="o", key="2"),
        did("transfer", "a", 10, reply(number=GRANT - 7), owner="a", key="3", receiver="b", amount=7),
        did("balance", "b", 20, GRANT + 7),
    ]


def looks_wrong(history: list[Done], agreed: AgreedChecker) -> bool:
    try:
        check_history([done for done in history if done.kind != "register"], agreed, MemoryView())
    except Violation:
        return True
    return any(check(account_history(user, history, agreed), -1) is not None for user in ("a", "b"))


def test_a_right_history_of_two_accounts_passes() -> None:
    history = two_accounts()
    agreed = log_of(history)
    assert all(check(account_history(user, history, agreed), -1) is None for user in ("a", "b"))


def test_a_balance_from_before_an_acknowledged_transfer_is_found() -> None:
    history = two_accounts()
    history[3].result = GRANT
    assert looks_wrong(history, log_of(history))


def test_an_acknowledged_transfer_that_the_log_lacks_is_found() -> None:
    history = two_accounts()
    agreed = log_of(history)
    del agreed.requests["a", "3"]
    with pytest.raises(Violation, match="not in the log"):
        check_history(history[2:3], agreed, MemoryView())


def test_an_answer_other_than_the_log_has_it_is_found() -> None:
    history = two_accounts()
    agreed = log_of(history)
    agreed.requests["a", "3"] = (3, reply(number=1))
    with pytest.raises(Violation, match="the log says"):
        check_history(history[2:3], agreed, MemoryView())


def test_a_transfer_done_twice_is_found_by_the_balance_after_it() -> None:
    history = two_accounts()
    history[3].result = GRANT + 14
    assert looks_wrong(history, log_of(history))


def test_a_transfer_of_unknown_outcome_counts_when_the_log_has_it() -> None:
    history = two_accounts()
    agreed = log_of(history)
    history[2].result = Failure(code=Code.OUTCOME_UNKNOWN, text="")
    assert check(account_history("b", history, agreed), -1) is None
    del agreed.requests["a", "3"]
    assert check(account_history("b", history, agreed), -1) is not None


def test_a_name_given_to_two_is_found() -> None:
    history = [
        did("register", "x", 0, reply(), owner="o", key="1"),
        did("register", "x", 10, reply(), owner="p", key="2"),
    ]
    assert check(name_history("x", history, log_of(history)), False) is not None
    history[1].result = reply(Code.USER_EXISTS)
    assert check(name_history("x", history, log_of(history)), False) is None


# --- the log -----------------------------------------------------------------------------------------------------------

A, B = MemberId("a.1"), MemberId("b.1")


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    return Entry(index=index, term=term, data=data)


def test_two_leaders_of_one_term_are_found() -> None:
    checker = ConsensusChecker()
    checker.leads(A, 3, MemoryLog(), ())
    checker.leads(A, 3, MemoryLog(), ())
    with pytest.raises(Violation, match="two leaders"):
        checker.leads(B, 3, MemoryLog(), ())


def test_a_leader_without_a_committed_entry_is_found() -> None:
    checker = ConsensusChecker()
    assert checker.applied("a", entry(1, 1))
    with pytest.raises(Violation, match="without the committed entry"):
        checker.leads(B, 2, MemoryLog(), (entry(1, 2),))


def test_a_leader_of_an_earlier_term_need_not_have_what_a_later_one_committed() -> None:
    """§5.4.3 speaks of later terms: the votes that made it leader may have been long on their way."""
    checker = ConsensusChecker()
    checker.leads(A, 46, MemoryLog(), ())
    checker.applied("a", entry(1, 46))
    checker.leads(B, 45, MemoryLog(), ())
    with pytest.raises(Violation, match="without the committed entry"):
        checker.leads(B, 47, MemoryLog(), ())


def test_a_committed_entry_that_changes_is_found() -> None:
    checker = ConsensusChecker()
    checker.applied("a", entry(1, 1, b"x"))
    assert not checker.applied("b", entry(1, 1, b"x"))
    with pytest.raises(Violation, match="applied another entry"):
        checker.applied("c", entry(1, 2, b"x"))


def test_logs_that_part_before_an_equal_entry_are_found() -> None:
    checker = ConsensusChecker()
    one, other = MemoryLog(), MemoryLog()
    one.append([entry(1, 1), entry(2, 3)])
    other.append([entry(1, 2), entry(2, 3)])
    checker.persisted("a", one.entries(1, 3, 1 << 20), one)
    with pytest.raises(Violation, match="another log before it"):
        checker.persisted("b", other.entries(2, 3, 1 << 20), other)


def test_replicas_that_answer_differently_are_found() -> None:
    checker = AgreedChecker()
    view, conf = MemoryView(), ConfState()
    checker.applied("a", entry(1, 1), reply(number=1), False, view, conf, 0)
    with pytest.raises(Violation, match="another reply"):
        checker.applied("b", entry(1, 1), reply(number=2), False, view, conf, 0)
    with pytest.raises(Violation, match="another reply"):
        checker.applied("c", entry(1, 1), reply(number=1), False, view, replace(conf, voters=frozenset({A})), 0)


def test_states_that_differ_at_one_index_are_found() -> None:
    checker = AgreedChecker()
    checker.compare("a", 7, MemoryView({b"k": b"1"}))
    with pytest.raises(Violation, match="another state"):
        checker.compare("b", 7, MemoryView({b"k": b"2"}))


# --- sessions ----------------------------------------------------------------------------------------------------------


def a_session() -> list[Done]:
    return [
        did("login", "w", 0, reply(), owner="w", key="1", opened="s1"),
        did("stands", "w", 10, True, session="s1"),
        did("refresh", "w", 20, reply(), owner="w", key="2", session="s1", opened="s2"),
        did("stands", "w", 30, False, session="s1"),
        did("stands", "w", 30, True, session="s2"),
        did("password", "w", 40, reply(), owner="w", key="3", session="s2", opened="s3"),
        did("logout", "w", 50, reply(Code.INVALID_SESSION), owner="w", key="4", session="s2"),
        did("stands", "w", 60, True, session="s3"),
    ]


def sessions_look_wrong(history: list[Done]) -> bool:
    agreed = log_of(history)
    return any(check(session_history(name, history, agreed), "new") is not None for name in ("s1", "s2", "s3"))


def test_a_right_history_of_sessions_passes() -> None:
    assert not sessions_look_wrong(a_session())


@pytest.mark.parametrize("place", [3, 6])
def test_a_session_that_stands_after_its_end_is_found(place: int) -> None:
    """After the refresh, and after another session changed the password."""
    history = a_session()
    ended = history[place].session
    assert not sessions_look_wrong([*history, did("stands", "w", 70, False, session=ended)])
    assert sessions_look_wrong([*history, did("stands", "w", 70, True, session=ended)])


def test_what_an_ended_session_still_does_is_found() -> None:
    history = a_session()
    assert sessions_look_wrong([*history, did("logout", "w", 70, reply(), owner="w", key="5", session="s1")])


def test_a_session_that_stands_before_it_was_opened_is_found() -> None:
    assert sessions_look_wrong([did("stands", "w", -10, True, session="s1"), *a_session()])
