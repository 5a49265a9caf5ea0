"""A full run with everything logged: no key, token, password or one-time code is in what was written or said."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from hivenode.cli.claims import CODE_FILE
from hivenode.identity import CERTIFICATE_FILE, KEY_FILE
from hivenode.pb import hive_pb2, nodepool_pb2
from tests.e2e.test_command_line import DONE, REFUSED, Person, Said
from tests.e2e.user import HIVE, USERS, CallError, User
from tests.support.daemons import Daemon, Hive, hive

PASSWORD = "a-pass-phrase-that-no-file-has"
NEW_PASSWORD = "the-next-pass-phrase-that-no-file-has"
WRONG_PASSWORD = "a-wrong-pass-phrase-that-no-file-has"
SECRET_FILES = frozenset({KEY_FILE, CERTIFICATE_FILE, CODE_FILE})
"""What they are for is to hold a secret, with mode 0600. The certificate's file has its key in it."""
PIECE_CHARACTERS = 24
"""So much of a secret in a row is no accident."""


class Run:
    """What was said and shown on the way."""

    def __init__(self, made: Hive, folder: Path) -> None:
        self.hive = made
        self.person = Person(folder, made.followers()[0])
        self.said: list[Said] = []
        self.secrets: dict[str, bytes] = {
            "password": PASSWORD.encode(),
            "new password": NEW_PASSWORD.encode(),
            "wrong password": WRONG_PASSWORD.encode(),
        }

    def says(self, *arguments: str, stdin: str = "", code: int = DONE) -> None:
        said = self.person.says(*arguments, stdin=stdin)
        assert said.code == code, (arguments, said)
        self.said.append(said)
        self.note_secrets(" ".join(arguments[:2]))

    def note_secrets(self, when: str) -> None:
        """Keeps the codes and tokens that there are now; some are others after each step."""
        for daemon in self.hive:
            self.secrets[f"code of {daemon.name} after {when}"] = (daemon.data_dir / CODE_FILE).read_bytes().strip()
        logins = self.person.folder / "config" / "logins.json"
        for login in json.loads(logins.read_text())["hives"].values() if logins.exists() else ():
            self.keep_token(f"login after {when}", login["token"])

    def keep_token(self, name: str, token: str) -> None:
        # The first part of all tokens is the same and says nothing; the last makes them good.
        self.secrets[f"token, {name}"] = token.encode()
        self.secrets[f"signature of the token, {name}"] = token.rpartition(".")[2].encode()

    def keep_keys(self) -> None:
        for daemon in self.hive:
            seed = (daemon.data_dir / KEY_FILE).read_bytes()
            self.secrets[f"key of {daemon.name}"] = seed
            self.secrets[f"key of {daemon.name} in hexadecimal"] = seed.hex().encode()
            self.secrets[f"key of {daemon.name} in base 64"] = base64.b64encode(seed).rstrip(b"=")
            private = re.search(
                r"BEGIN (?:\w+ )?PRIVATE KEY-----\n(.+?)-----END",
                (daemon.data_dir / CERTIFICATE_FILE).read_text(),
                re.DOTALL,
            )
            assert private is not None
            # Its beginning is the same for all keys of the kind.
            self.secrets[f"key of the certificate of {daemon.name}"] = private[1].split()[1].encode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All that people do, rightly and wrongly, with a hive that logs as much as it can."""
    folder = tmp_path_factory.mktemp("secrets")
    settings = {"HIVENODE_LOG_LEVEL": "debug"}
    with hive(folder, 3, "--executor", "process", workers=3, settings=settings) as made:
        run = Run(made, folder)
        run.keep_keys()
        run.note_secrets("the start")
        do_everything(run)
        run.note_secrets("all")
    return run


def do_everything(run: Run) -> None:
    run.says("user", "register", "ann", stdin=f"{PASSWORD}\n")
    run.says("user", "register", "ann", stdin=f"{PASSWORD}\n", code=REFUSED)
    run.says("user", "register", "bob", "--json", stdin=f"{PASSWORD}\n")
    run.says("user", "login", "ann", stdin=f"{WRONG_PASSWORD}\n", code=REFUSED)
    run.says("user", "login", "ann", "--json", stdin=f"{PASSWORD}\n")
    run.says("user", "claim-admin")
    run.says("node", "claim", "--json")
    run.says("user", "role", "bob", "operator", "--json")
    run.says("ledger", "transfer", "bob", "5")
    run.says("task", "run", run.person.script("print('done')"), "--wait")
    run.says("user", "password", stdin=f"{WRONG_PASSWORD}\n{NEW_PASSWORD}\n", code=REFUSED)
    run.says("user", "password", stdin=f"{PASSWORD}\n{NEW_PASSWORD}\n")
    run.says("user", "whoami", "--json")
    for daemon in run.hive:
        misuse(run, daemon)
    run.says("user", "login", "ann", stdin=f"{NEW_PASSWORD}\n")
    run.says("status", "--json")
    run.says("node", "ls", "--json")
    run.says("user", "logout")


def misuse(run: Run, daemon: Daemon) -> None:
    """Calls that fail in every way, with secrets in places where they do not belong."""
    token = next(secret for name, secret in reversed(run.secrets.items()) if name.startswith("token")).decode()
    user = User("ann", daemon, token)
    refresh = nodepool_pb2.RefreshTokenRequest(old_token=token)
    user.token = str(user.call(f"{USERS}RefreshToken", refresh, nodepool_pb2.RefreshTokenResponse).new_token)
    run.keep_token(f"refreshed at {daemon.name}", user.token)
    code = next(secret for name, secret in run.secrets.items() if name.startswith(f"code of {daemon.name}")).decode()
    wrong = [
        ("Login", nodepool_pb2.LoginRequest(username=token, password=NEW_PASSWORD)),
        ("Login", nodepool_pb2.LoginRequest(username="ann", password=f"{WRONG_PASSWORD}{'x' * 2_000}")),
        ("Transfer", nodepool_pb2.TransferRequest(token=token, receiver_username="ann", amount=-1)),
    ]
    for name, request in wrong:
        said_to(run, user, f"{USERS}{name}", request)
    said_to(run, user, f"{HIVE}MakeClaim", hive_pb2.MakeClaimRequest(code=f"{code}x", purpose="admin", username="ann"))
    user.token = ""
    said_to(run, user, f"{USERS}RefreshToken", nodepool_pb2.RefreshTokenRequest(old_token=f"{token}x"))
    user.token = f"{token}.Bearer"
    said_to(run, user, f"{HIVE}WhoAmI", hive_pb2.WhoAmIRequest())


def said_to(run: Run, user: User, method: str, request: object) -> None:
    """Keeps what a refused call was told."""
    with pytest.raises(CallError) as caught:
        user.call(method, request, nodepool_pb2.StatusResponse)  # type: ignore[arg-type]
    run.said.append(Said(REFUSED, "", str(caught.value)))


def found_in(data: bytes, secrets: dict[str, bytes]) -> list[str]:
    """Names of the secrets of which a good part is in the data."""
    return [
        name
        for name, secret in secrets.items()
        if any(
            secret[start : start + PIECE_CHARACTERS] in data
            for start in range(0, max(1, len(secret) - PIECE_CHARACTERS + 1), 8)
        )
    ]


def alone(run: Run) -> dict[str, bytes]:
    """The secrets without whole tokens, of which the first parts are public: their signatures stand for them."""
    kept = {name: secret for name, secret in run.secrets.items() if not name.startswith("token")}
    assert len(kept) > 15
    assert all(len(secret) >= PIECE_CHARACTERS for secret in kept.values())
    return kept


def test_what_is_looked_for_is_found_where_it_belongs(run: Run) -> None:
    daemon = run.hive[0]
    for name in (KEY_FILE, CERTIFICATE_FILE, CODE_FILE):
        assert found_in((daemon.data_dir / name).read_bytes(), alone(run)), name


def test_no_daemon_logs_a_secret(run: Run) -> None:
    for daemon in run.hive:
        log = daemon.log_path.read_bytes()
        assert b'"debug"' in log or b'"info"' in log
        assert found_in(log, alone(run)) == []
        assert b"Bearer " not in log
        assert b"hive-peer-ticket" not in log


def test_no_command_and_no_refusal_says_a_secret(run: Run) -> None:
    assert len(run.said) > 30
    for said in run.said:
        assert found_in((said.out + said.err).encode(), alone(run)) == []


def test_no_other_file_of_a_data_directory_has_a_secret(run: Run) -> None:
    """The log and the agreed state hold hashes of passwords and names of sessions, and nothing to log in with."""
    looked_at = 0
    for daemon in run.hive:
        for path in daemon.data_dir.rglob("*"):
            if path.is_file() and path.name not in SECRET_FILES:
                looked_at += 1
                assert found_in(path.read_bytes(), alone(run)) == [], path
    assert looked_at >= 6


def test_files_with_secrets_are_their_owners_alone(run: Run) -> None:
    for daemon in run.hive:
        assert daemon.data_dir.stat().st_mode & 0o777 == 0o700
        for name in SECRET_FILES:
            assert (daemon.data_dir / name).stat().st_mode & 0o777 == 0o600, name
