from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from hivenode.cli import peer
from hivenode.errors import Code
from hivenode.pb import hive_pb2
from tests.unit.cli.conftest import Invoke
from tests.unit.cli.small_hive import HIVE_ID, SmallHive, result_zip


@pytest.fixture
def refused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_help_needs_none_of_the_slow_libraries() -> None:
    slow = ("grpc", "rich", "pydantic", "google.protobuf")
    program = f"import sys, hivenode.cli.app; sys.exit(str([m for m in {slow!r} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == ""


def test_status_without_a_daemon_is_told_as_not_reachable(invoke: Invoke, refused_address: str) -> None:
    result = invoke("--peer", refused_address, "status")
    assert result.exit_code == 3
    assert f"no daemon answers at {refused_address}: start one with `hivenode start --role auto`" in result.stderr


def test_failure_in_json_is_one_document_on_stdout(invoke: Invoke, refused_address: str) -> None:
    result = invoke("status", "--json", "--peer", refused_address)
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert error["code"] == 2002
    assert error["name"] == "NODE_OFFLINE"
    assert error["outcome"] == "retry"


def test_usage_error_ends_with_two_and_json_when_asked_for(invoke: Invoke) -> None:
    assert invoke("task", "run").exit_code == 2
    result = invoke("task", "run", "--json", "--no-such-option")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == 1006


def test_a_snapshot_has_the_time_that_copying_a_large_state_takes(invoke: Invoke, hive: SmallHive) -> None:
    result = invoke("--peer", hive.address, "cluster", "snapshot")
    assert "/data/one.snapshot" in result.stdout
    assert hive.granted_s > 10 * peer.CALL_DEADLINE_S


def test_malformed_peer_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("status", "--peer", "nonsense").exit_code == 2
    assert invoke("status", "--peer", "host:99999").exit_code == 2


def test_status_tells_a_person_and_a_program(hive: SmallHive, invoke: Invoke) -> None:
    text = invoke("--peer", hive.address, "status")
    assert text.exit_code == 0
    assert "voters 1" in text.stdout
    assert "! one copy only" in text.stdout
    document = json.loads(invoke("--peer", hive.address, "status", "--json").stdout)
    assert document["hive_id"] == HIVE_ID
    assert document["supply"] == 1_000_000
    assert document["members"][0]["voter"] is True


def test_status_of_a_worker_never_says_that_its_hive_has_no_leader(hive: SmallHive, invoke: Invoke) -> None:
    hive.report = hive_pb2.GetStatusResponse(hive_id=HIVE_ID, role="worker", phase="member")
    text = invoke("--peer", hive.address, "status").stdout
    assert "not told by a worker" in text
    assert "none: a majority" not in text
    assert "users" not in text


def test_daemon_of_the_data_directory_is_found_by_its_file(hive: SmallHive, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    described = {"pid": 1, "api_address": f"0.0.0.0:{hive.port}", "peer_address": "", "node_id": "n"}
    (tmp_path / "data" / "daemon.json").write_text(json.dumps(described))
    assert invoke("--data-dir", str(tmp_path / "data"), "status").exit_code == 0


def test_named_data_directory_without_a_daemon_never_means_another_one(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("--data-dir", str(tmp_path), "status")
    assert result.exit_code == 3
    assert f"no daemon runs on {tmp_path}" in result.stderr


def test_peer_from_the_environment_is_used(hive: SmallHive, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVENODE_PEER", hive.address)
    assert invoke("status").exit_code == 0


def test_node_list_never_lets_a_hostname_write_to_the_terminal(at_hive: Invoke) -> None:
    result = at_hive("node", "ls")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    nodes = json.loads(at_hive("node", "ls", "--json").stdout)["nodes"]
    assert nodes[0]["slots_free"] == 3


def test_password_is_no_argument_of_any_command(invoke: Invoke) -> None:
    for command in ("register", "login"):
        assert "--password" not in invoke("user", command, "--help").stdout
        assert invoke("user", command, "alice", "secret").exit_code == 2


def test_empty_password_is_a_usage_error(hive: SmallHive, invoke: Invoke) -> None:
    assert invoke("--peer", hive.address, "user", "register", "alice").exit_code == 2
    assert not hive.passwords


def test_login_is_remembered_in_a_file_of_the_user_alone(at_hive: Invoke, config_dir: Path) -> None:
    path = config_dir / "logins.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(config_dir.stat().st_mode) == 0o700
    assert "correct horse" not in path.read_text()
    assert json.loads(at_hive("user", "whoami", "--json").stdout)["username"] == "alice"


def test_wrong_password_and_taken_name_are_refused(at_hive: Invoke) -> None:
    assert at_hive("user", "login", "alice", stdin="wrong\n").exit_code == 4
    result = at_hive("user", "register", "alice", "--json", stdin="other\n")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["name"] == "USER_EXISTS"


def test_command_without_login_says_how_to_log_in(hive: SmallHive, invoke: Invoke) -> None:
    result = invoke("--peer", hive.address, "ledger", "balance")
    assert result.exit_code == 4
    assert "hivenode user login NAME" in result.stderr


def test_expired_login_is_told_before_anything_is_sent(hive: SmallHive, invoke: Invoke) -> None:
    hive.expires_ms = int(time.time() * 1000) - 1
    invoke("--peer", hive.address, "user", "register", "alice", stdin="pw\n")
    invoke("--peer", hive.address, "user", "login", "alice", stdin="pw\n")
    result = invoke("--peer", hive.address, "ledger", "balance")
    assert result.exit_code == 4
    assert "has expired" in result.stderr


def test_session_that_ended_elsewhere_says_how_to_log_in(hive: SmallHive, at_hive: Invoke) -> None:
    hive.tokens.clear()
    result = at_hive("ledger", "balance")
    assert result.exit_code == 4
    assert "hivenode user login NAME" in result.stderr


def test_logout_ends_the_session_and_forgets_it(hive: SmallHive, at_hive: Invoke) -> None:
    assert at_hive("user", "logout").exit_code == 0
    assert not hive.tokens
    assert at_hive("user", "whoami").exit_code == 4
    assert at_hive("user", "logout").stdout == "nobody was logged in\n"


def test_transfer_that_was_done_but_not_answered_happens_once(hive: SmallHive, at_hive: Invoke) -> None:
    hive.balances["bob"] = 0
    hive.failures["done Transfer"] = [
        (grpc.StatusCode.UNAVAILABLE, Code.NO_LEADER),
        (grpc.StatusCode.UNKNOWN, Code.OUTCOME_UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, None),
    ]
    hive.keys.clear()
    result = at_hive("ledger", "transfer", "bob", "30", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["balance"] == 970
    assert hive.balances == {"alice": 970, "bob": 30}
    assert len({key for key in hive.keys if key}) == 1
    assert json.loads(at_hive("ledger", "balance", "--json").stdout)["balance"] == 970


def test_two_transfers_carry_two_keys(hive: SmallHive, at_hive: Invoke) -> None:
    hive.balances["bob"] = 0
    for _ in range(2):
        assert at_hive("ledger", "transfer", "bob", "5").exit_code == 0
    assert hive.balances["bob"] == 10


@pytest.mark.parametrize(
    "command",
    [
        ("ledger", "transfer", "bob", str(1 << 63)),
        ("task", "run", __file__, "--memory-gb", str(1 << 31)),
        ("task", "run", __file__, "--time-limit", str(1 << 31)),
        ("task", "run", __file__, "--retries", str(1 << 31)),
    ],
)
def test_number_that_no_message_holds_is_a_usage_error(at_hive: Invoke, command: tuple[str, ...]) -> None:
    assert at_hive(*command).exit_code == 2


def test_refused_transfer_is_not_repeated(hive: SmallHive, at_hive: Invoke) -> None:
    hive.balances["bob"] = 0
    hive.keys.clear()
    result = at_hive("ledger", "transfer", "bob", "5000")
    assert result.exit_code == 4
    assert "not enough CPT" in result.stderr
    assert len(hive.keys) == 2  # the status at first, the transfer once
    assert at_hive("ledger", "transfer", "bob", "0").exit_code == 2


def test_hive_without_leader_is_told_after_one_long_look_for_it(
    hive: SmallHive, at_hive: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "LEADER_SOUGHT_S", 0.0)
    hive.failures["GetBalance"] = [(grpc.StatusCode.UNAVAILABLE, Code.NO_LEADER)]
    result = at_hive("ledger", "balance")
    assert result.exit_code == 3
    assert "`hivenode status` tells which machines are missing" in result.stderr


def test_transfer_that_was_in_doubt_is_not_told_as_not_done(
    hive: SmallHive, at_hive: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "LEADER_SOUGHT_S", 0.0)
    hive.balances["bob"] = 0
    hive.failures["Transfer"] = [
        (grpc.StatusCode.UNKNOWN, Code.OUTCOME_UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, Code.NO_LEADER),
    ]
    result = at_hive("ledger", "transfer", "bob", "30", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["name"] == "OUTCOME_UNKNOWN"


def test_fault_in_the_daemon_is_a_failure_and_not_repeated(hive: SmallHive, at_hive: Invoke) -> None:
    hive.failures["GetBalance"] = [(grpc.StatusCode.INTERNAL, Code.INTERNAL_ERROR)]
    assert at_hive("ledger", "balance").exit_code == 1


@pytest.mark.parametrize(
    ("method", "command"),
    [
        ("GetStatus", ("status",)),
        ("Transfer", ("ledger", "transfer", "bob", "30")),
        ("UploadTaskStream", ("task", "run", "task.zip")),
        ("WatchTask", ("task", "logs", "-f", "task-1")),
    ],
)
def test_what_is_no_answer_is_told_at_once(
    hive: SmallHive, at_hive: Invoke, tmp_path: Path, method: str, command: tuple[str, ...]
) -> None:
    (tmp_path / "task.zip").write_bytes(result_zip({"run.sh": b""}))
    hive.uploads["task-1"] = b""
    hive.balances["bob"] = 0
    hive.nonsense.add(method)
    hive.keys.clear()
    result = at_hive(*command)
    assert result.exit_code == 1
    assert f"{hive.address} answers what is no" in result.stderr
    assert "`hivenode --version`" in result.stderr
    assert len(hive.keys) <= 3, "it is not asked again"


@pytest.mark.parametrize(
    "flags", [("--listen", "nonsense"), ("--slots", "99999"), ("--role", "king"), ("--bootstrap", "host")]
)
def test_start_with_a_wrong_setting_is_a_usage_error(invoke: Invoke, tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = invoke("start", "--data-dir", str(tmp_path / "data"), *flags)
    assert result.exit_code == 2
    assert not (tmp_path / "data").exists()


def test_damaged_login_file_means_nobody_is_logged_in(at_hive: Invoke, config_dir: Path) -> None:
    (config_dir / "logins.json").write_text("{")
    assert at_hive("user", "whoami").exit_code == 4
