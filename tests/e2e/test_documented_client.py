"""A client made from the documented API alone does all that the documents' examples do, wherever it asks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import ROOT, Hive, hive

HERE = Path(__file__).parent
CLIENT_DEADLINE_S = 100.0


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs made from the stranger's own file."""
    folder = tmp_path_factory.mktemp("stubs")
    argv = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{HERE}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    ]
    subprocess.run([*argv, str(HERE / "documented.proto")], check=True, timeout=CLIENT_DEADLINE_S)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    with hive(tmp_path_factory.mktemp("documented"), 3, "--executor", "sandbox", workers=3) as made:
        yield made


@pytest.mark.parametrize("where", ["leader", "follower", "peer-port"])
def test_stranger_does_what_the_documents_do(three: Hive, stubs: Path, tmp_path: Path, where: str) -> None:
    match where:
        case "leader":
            address = three.leader().api
        case "follower":
            address = three.followers()[0].api
        case _:
            address = three.followers()[1].peer_address
    arguments = [address, f"-{where}"]
    if where == "peer-port":
        # What the owner of that machine gives to whoever shall call it from another one.
        export = [
            sys.executable,
            "-m",
            "hivenode",
            "identity",
            "cert",
            "--data-dir",
            str(three.followers()[1].data_dir),
        ]
        shown = subprocess.run(export, cwd=ROOT, capture_output=True, timeout=CLIENT_DEADLINE_S, check=True)
        (tmp_path / "node.pem").write_bytes(shown.stdout)
        arguments.append(str(tmp_path / "node.pem"))
    done = subprocess.run(
        [sys.executable, str(HERE / "documented_client.py"), *arguments],
        env={"PYTHONPATH": str(stubs), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=CLIENT_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert not seen["foreign"]
    assert seen["registered"] is True
    assert seen["registered_again"][0] is False
    assert "already exists" in seen["registered_again"][1]
    assert seen["registered_again"][2] == "1003"
    assert seen["registered_by_guide"][0] is False
    assert "already exists" in seen["registered_by_guide"][1]
    assert seen["wrong_password"] == [False, "", "1002"]
    assert seen["logged_in"] is True
    assert seen["balance"] == [True, 1000]
    _check_nodes(seen, f"worker-001-{where}")
    _check_task(seen, f"task-001-{where}", f"testuser-{where}")
    _check_doors(seen)


def _check_nodes(seen: dict[str, Any], worker_id: str) -> None:
    assert seen["worker_registered"][0] is True, seen["worker_registered"]
    assert seen["health"]
    assert seen["status_reported"] is True
    assert seen["nodes"][worker_id] == ["192.168.1.100", 8, "RTX 4090"]
    assert len(seen["nodes"]) >= 4, "the three machines and the foreign one"


def _check_task(seen: dict[str, Any], task_id: str, user: str) -> None:
    assert seen["uploaded"][0] is True, seen["uploaded"]
    assert seen["status"] == [True, "COMPLETED", ["Hello, HiveMind!"]]
    assert seen["logs"].strip() == "Hello, HiveMind!"
    assert seen["result"] == [True, "PK"]
    # Whose task it is follows from the token, not from the user_id in the message.
    assert seen["tasks"] == [[task_id, "COMPLETED", user, True]]
    assert seen["running_status"] == [False, 0, True]
    assert seen["forged_end"] is False


def _check_doors(seen: dict[str, Any]) -> None:
    for call, told in (*seen["without_token"].items(), ("a bad token", seen["bad_token"])):
        assert (told["status"], told["code"]) == ("UNAUTHENTICATED", "1004"), f"{call}: {told}"
        assert told["message"], call
    wanted = {"UserService", "NodeManagerService", "MasterNodeService", "WorkerNodeService", "NodePoolService"}
    assert {f"nodepool.{name}" for name in wanted} <= set(seen["reflection"])
    assert "grpc.health.v1.Health" in seen["reflection"]
    assert seen["serving"] == [True, True, True]
