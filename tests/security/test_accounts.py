"""Users, roles and claims at real daemons, by the command line: what ends a session ends it at every peer, at once."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivenode.cli import logins
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from tests.e2e.test_command_line import DONE, PASSWORD, REFUSED, Person
from tests.e2e.user import HIVE, CallError, User
from tests.support.daemons import Hive, hive

NEW_PASSWORD = "another horse entirely\n"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    with hive(tmp_path_factory.mktemp("accounts"), 3, "--executor", "none") as made:
        yield made


@pytest.fixture
def person(three: Hive, tmp_path: Path) -> Person:
    """Somebody at a follower."""
    return Person(tmp_path, three.followers()[0])


def token_of(person: Person, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HIVENODE_CONFIG_DIR", person.environment["HIVENODE_CONFIG_DIR"])
    login = logins.find(person.daemon.status().hive_id)
    assert login is not None
    return login.token


def codes_everywhere(three: Hive, token: str) -> set[int | None]:
    """What each daemon says to a token, asked at once."""
    said: set[int | None] = set()
    for daemon in three:
        user = User("", daemon, token)
        try:
            user.call(f"{HIVE}WhoAmI", hive_pb2.WhoAmIRequest(), hive_pb2.WhoAmIResponse)
            said.add(Code.SUCCESS)
        except CallError as error:
            said.add(error.code)
    return said


def test_logout_ends_the_session_at_every_peer_at_once(
    three: Hive, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.log_in("lena")
    token = token_of(person, monkeypatch)
    assert codes_everywhere(three, token) == {Code.SUCCESS}
    assert person.says("user", "logout").code == DONE
    assert codes_everywhere(three, token) == {Code.INVALID_SESSION}


def test_each_of_many_logouts_holds_at_the_very_next_call_elsewhere(three: Hive) -> None:
    """A follower may be behind for a moment; it must not answer from then."""
    user = User.new(three.leader(), "mara")
    for _ in range(20):
        user.log_in()
        assert codes_everywhere(three, user.token) == {Code.SUCCESS}
        user.call(f"{HIVE}Logout", hive_pb2.LogoutRequest(), hive_pb2.LogoutResponse)
        assert codes_everywhere(three, user.token) == {Code.INVALID_SESSION}


def test_changed_password_ends_all_sessions_and_stays_logged_in_here(
    three: Hive, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.log_in("paul")
    old = token_of(person, monkeypatch)
    other = Person(person.folder / "elsewhere", three.leader())
    assert other.says("user", "login", "paul", stdin=PASSWORD).code == DONE
    others = token_of(other, monkeypatch)
    wrong = person.says("user", "password", "--json", stdin=NEW_PASSWORD + NEW_PASSWORD)
    assert (wrong.code, wrong.json["error"]["code"]) == (REFUSED, Code.INVALID_PASSWORD)
    assert person.says("user", "password", stdin=PASSWORD + NEW_PASSWORD).code == DONE
    for token in (old, others):
        assert codes_everywhere(three, token) == {Code.INVALID_SESSION}
    assert codes_everywhere(three, token_of(person, monkeypatch)) == {Code.SUCCESS}
    assert person.says("user", "login", "paul", stdin=PASSWORD).code == REFUSED
    assert person.says("user", "login", "paul", stdin=NEW_PASSWORD).code == DONE


def test_owner_of_a_machine_becomes_admin_and_gives_roles(three: Hive, person: Person, tmp_path: Path) -> None:
    code = person.daemon.data_dir / "claim-code"
    assert stat.S_IMODE(code.stat().st_mode) == 0o600
    before = code.read_text()
    person.log_in("otto")
    assert person.says("user", "role", "otto", "admin").code == REFUSED
    assert person.says("user", "claim-admin", "--json").json == {"username": "otto", "user_role": "admin"}
    assert code.read_text() != before
    assert person.says("user", "whoami", "--json").json["user_role"] == "admin"
    other = Person(tmp_path / "other", three.leader())
    other.log_in("rosa")
    given = person.says("user", "role", "ROSA", "operator", "--json")
    assert given.json == {"username": "rosa", "user_role": "operator"}
    assert other.says("user", "whoami", "--json").json["user_role"] == "operator"
    assert other.says("user", "role", "rosa", "admin").code == REFUSED


def test_code_of_another_machine_or_of_before_claims_nothing(three: Hive, person: Person) -> None:
    person.log_in("kurt")
    code = person.daemon.data_dir / "claim-code"
    kept = code.read_text()
    try:
        code.write_text(three.leader().data_dir.joinpath("claim-code").read_text())
        assert person.says("user", "claim-admin").code == REFUSED
        code.unlink()
        missing = person.says("user", "claim-admin")
        assert missing.code == REFUSED
        assert "cannot be read" in missing.err
    finally:
        code.write_text(kept)
    assert person.says("user", "whoami", "--json").json["user_role"] == "user"


def test_owner_claims_the_machine_and_is_listed_as_its_owner(person: Person) -> None:
    person.log_in("nils")
    claimed = person.says("node", "claim", "--json").json
    assert claimed == {"username": "nils", "node_id": person.daemon.node_id, "cpt_received": 0}
    nodes = person.says("node", "ls", "--json").json["nodes"]
    assert {node["node_id"]: node["owner"] for node in nodes}[person.daemon.node_id] == "nils"
