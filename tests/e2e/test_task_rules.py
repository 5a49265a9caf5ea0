"""What the hive refuses, what it charges, who may see what, and in which order tasks run."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from hivenode.errors import Code, Outcome
from hivenode.pb import nodepool_pb2
from tests.e2e.user import MASTER, CallError, User, refusal, zip_of
from tests.support.daemons import Hive, hive

GRANT_CPT = 1000
MEBIBYTE = 1 << 20
HELLO = "print('hello')\n"
SLEEPER = "print('started', flush=True)\nimport time\ntime.sleep(600)\n"
WHEEL = "tinygift-1.2-py3-none-any.whl"


class Index:
    """A package index on loopback that has one package."""

    def __init__(self, folder: Path) -> None:
        place = folder / "simple/tinygift"
        place.mkdir(parents=True)
        (place / WHEEL).write_bytes(_wheel())
        (place / "index.html").write_text(f'<html><a href="{WHEEL}">{WHEEL}</a></html>')

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _wheel() -> bytes:
    files = {
        "tinygift/__init__.py": b"WORD = 'gift'\n",
        "tinygift-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinygift\nVersion: 1.2\n",
        "tinygift-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    return zip_of({**files, "tinygift-1.2.dist-info/RECORD": record + "tinygift-1.2.dist-info/RECORD,,\n"})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    made = Index(tmp_path_factory.mktemp("index"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def three(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    """Three daemons with one slot each and a place of their own."""
    settings = {
        "HIVENODE_PIP_INDEX_URL": index.url,
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    flags = ("--executor", "sandbox", "--slots", "1", "--location", "place{n}")
    with hive(tmp_path_factory.mktemp("rules"), 3, *flags, workers=3, settings=settings) as made:
        yield made


@pytest.fixture
def user(three: Hive) -> User:
    """A new account, who asks a follower."""
    return User.new(three.followers()[0])


# --- what is refused at upload --------------------------------------------------------------------------------------


def _raw_zip(name: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("main.py", HELLO)
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        archive.writestr(member, data)
    return made.getvalue()


def _bomb_by_size() -> bytes:
    """Packs some 100 to 1, under the bound on the ratio, and unpacks to more than the bound on the size."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("main.py", HELLO)
        with archive.open("big", "w") as member:
            piece = (bytes(range(256)) + bytes(4 * 1024)) * 256
            for _ in range(-(-1025 * MEBIBYTE // len(piece))):
                member.write(piece)
    assert len(made.getvalue()) * 200 > 1025 * MEBIBYTE
    return made.getvalue()


REFUSED_ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "points outside": (lambda: _raw_zip("../x"), "'../x'"),
    "absolute path": (lambda: _raw_zip("/etc/passwd"), "absolute"),
    "symlink out": (lambda: _raw_zip("link", b"../../etc/passwd", stat.S_IFLNK | 0o777), "symbolic link"),
    "bomb by ratio": (lambda: zip_of({"main.py": HELLO, "zeros": bytes(40 * MEBIBYTE)}), "times"),
    "bomb by size": (_bomb_by_size, "unpacks to"),
    "bomb by count": (lambda: zip_of({"main.py": HELLO, **{f"f{n}": b"" for n in range(10_001)}}), "members"),
    "no entry point": (lambda: zip_of({"readme.txt": "nothing to run"}), "main.py"),
    "no ZIP at all": (lambda: b"\x00\x01\x02 this is no program \xff\xfe", "no ZIP and no Python script"),
    "nothing": (lambda: b"", "empty"),
    "damaged ZIP": (lambda: zip_of({"main.py": HELLO})[:-10], "damaged"),
}


@pytest.mark.parametrize("kind", REFUSED_ARCHIVES)
def test_unsound_archive_is_refused_at_upload_with_the_reason(user: User, kind: str) -> None:
    make, reason = REFUSED_ARCHIVES[kind]
    error = refusal(user, lambda user: user.upload("t", make()))
    assert error.code == Code.INVALID_TASK
    assert reason in error.message
    assert user.balance() == GRANT_CPT
    # The name is still free.
    assert user.upload("t", HELLO).success


# --- identity of a task ---------------------------------------------------------------------------------------------


def test_same_id_and_content_is_the_same_success_and_other_content_is_refused(three: Hive, user: User) -> None:
    first = user.upload("t", HELLO)
    held = GRANT_CPT - user.balance()
    for daemon in three:
        again = user.at(daemon).upload("t", HELLO)
        assert (again.success, again.task_id) == (True, first.task_id)
    assert user.ended("t").state == "COMPLETED"
    assert user.upload("t", HELLO).success
    assert user.detail("t").attempt == 1
    assert GRANT_CPT - user.balance() <= held
    error = refusal(user, lambda user: user.upload("t", "print('other')\n"))
    assert error.code == Code.TASK_EXISTS
    # Another user's task of the same name has nothing to do with it.
    other = User.new(three.leader())
    assert other.upload("t", "print('mine')\n").success
    assert other.ended("t").state == "COMPLETED"
    assert other.logs("t") == "mine\n"


def test_other_user_cannot_see_stop_or_fetch_a_task(three: Hive, user: User) -> None:
    user.upload("secret", SLEEPER)
    user.said("secret", "started\n")
    for daemon in three:
        thief = User.new(daemon)
        for act in (
            lambda thief: thief.poll("secret"),
            lambda thief: thief.detail("secret"),
            lambda thief: thief.logs("secret"),
            lambda thief: thief.result("secret"),
            lambda thief: thief.stop("secret"),
            lambda thief: next(thief.watch("secret")),
        ):
            assert refusal(thief, act).code == Code.TASK_NOT_FOUND
        listed = thief.call(f"{MASTER}GetAllTasks", nodepool_pb2.GetAllTasksRequest(), nodepool_pb2.GetAllTasksResponse)
        assert not listed.tasks
    assert user.poll("secret").status == "RUNNING"
    user.stop("secret")
    assert user.ended("secret").state == "STOPPED"


def test_result_of_a_running_task_is_not_finished_and_may_be_asked_again(user: User) -> None:
    user.upload("t", SLEEPER)
    with pytest.raises(CallError) as caught:
        user.result("t")
    assert caught.value.code == Code.TASK_NOT_FINISHED
    assert caught.value.outcome is Outcome.RETRY
    user.stop("t")
    user.ended("t")


# --- money ----------------------------------------------------------------------------------------------------------


def test_started_minutes_are_paid_and_the_rest_of_what_was_held_comes_back(user: User) -> None:
    answer = user.upload("t", HELLO, memory_gb=2, priority="urgent", time_limit_s=61)
    assert answer.cpt_held == 2 * 3, "two started minutes of the limit"
    assert user.balance() == GRANT_CPT - 6
    end = user.ended("t")
    assert (end.state, end.cost_per_minute, end.cpt_paid, end.cpt_held) == ("COMPLETED", 3, 3, 0)
    assert user.balance() == GRANT_CPT - 3


@pytest.mark.parametrize(
    ("asked", "base"),
    [
        ({}, 1),
        ({"memory_gb": 2}, 2),
        ({"cpu_score": 99}, 1),
        ({"memory_gb": 2, "cpu_score": 250, "gpu_score": 150, "gpu_memory_gb": 3}, 9),
        ({"memory_gb": 2, "cpu_score": 250}, 4),
    ],
)
@pytest.mark.parametrize(("priority", "percent"), [("", 100), ("normal", 100), ("high", 120), ("urgent", 150)])
def test_cost_is_the_documented_formula(
    user: User, asked: dict[str, int], base: int, priority: str, percent: int
) -> None:
    held = 5 * (base * percent // 100)  # Five started minutes of the default limit of 300 s.
    assert user.upload("t", HELLO, priority=priority, location="nowhere", **asked).cpt_held == held
    assert user.balance() == GRANT_CPT - held
    user.stop("t")
    assert user.balance() == GRANT_CPT


def test_own_failure_is_paid_for_and_stop_pays_the_started_minute(user: User) -> None:
    user.upload("fails", "import sys\nsys.exit(1)\n")
    assert user.ended("fails").cpt_paid == 1
    user.upload("stopped", SLEEPER)
    user.said("stopped", "started\n")
    user.stop("stopped")
    assert user.ended("stopped").cpt_paid == 1
    assert user.balance() == GRANT_CPT - 2


def test_task_above_the_balance_is_refused_and_nothing_is_held(user: User) -> None:
    error = refusal(user, lambda user: user.upload("t", HELLO, memory_gb=900, time_limit_s=120))
    assert error.code == Code.INSUFFICIENT_BALANCE
    assert user.balance() == GRANT_CPT
    assert refusal(user, lambda user: user.poll("t")).code == Code.TASK_NOT_FOUND


def test_held_cpt_cannot_be_spent_twice(user: User) -> None:
    user.upload("t", HELLO, memory_gb=180, location="nowhere")
    assert user.balance() == GRANT_CPT - 900
    receiver = User.new(user.daemon)
    assert refusal(user, lambda user: user.transfer(receiver.name, 101)).code == Code.INSUFFICIENT_BALANCE
    assert user.transfer(receiver.name, 100) == 0
    user.stop("t")
    assert (user.balance(), receiver.balance()) == (GRANT_CPT - 100, GRANT_CPT + 100)


def test_transfer_is_refused_for_wrong_amounts_and_receivers(user: User) -> None:
    receiver = User.new(user.daemon)
    for amount in (0, -5):
        with pytest.raises(CallError) as caught:
            user.transfer(receiver.name, amount)
        assert caught.value.outcome is Outcome.REFUSED
    assert refusal(user, lambda user: user.transfer("nobody-at-all", 1)).code in (
        Code.USER_NOT_FOUND,
        Code.ACCOUNT_NOT_FOUND,
    )
    assert refusal(user, lambda user: user.transfer(receiver.name, GRANT_CPT + 1)).code == Code.INSUFFICIENT_BALANCE
    assert (user.balance(), receiver.balance()) == (GRANT_CPT, GRANT_CPT)


def test_transfer_under_one_key_happens_once_at_any_peer(three: Hive, user: User) -> None:
    receiver = User.new(user.daemon)
    left = {user.at(daemon).transfer(receiver.name, 7, key="same-key") for daemon in three}
    assert left == {GRANT_CPT - 7}
    assert (user.balance(), receiver.balance()) == (GRANT_CPT - 7, GRANT_CPT + 7)
    error = refusal(user, lambda user: user.transfer(receiver.name, 8, key="same-key"))
    assert error.code == Code.IDEMPOTENCY_CONFLICT


def test_balance_of_another_user_is_refused(user: User) -> None:
    other = User.new(user.daemon)
    with pytest.raises(CallError) as caught:
        User(other.name, user.daemon, user.token).balance()
    assert caught.value.code == Code.PERMISSION_DENIED


def test_token_is_good_at_every_peer_and_a_forged_one_at_none(three: Hive, user: User) -> None:
    for daemon in three:
        assert user.at(daemon).balance() == GRANT_CPT
        head, body, signature = user.token.split(".")
        forged = f"{head}.{body}.{signature[:-4]}{'AAAA' if signature[-4:] != 'AAAA' else 'BBBB'}"
        with pytest.raises(CallError) as caught:
            User(user.name, daemon, forged).balance()
        assert (caught.value.status, caught.value.code) == (grpc.StatusCode.UNAUTHENTICATED, Code.INVALID_SESSION)


# --- order ----------------------------------------------------------------------------------------------------------


def test_task_waits_for_its_dependencies_and_then_runs(user: User) -> None:
    user.upload("first", SLEEPER.replace("600", "1"))
    user.upload("second", HELLO, dependencies=["first"])
    assert user.poll("second").status == "PENDING"
    assert user.ended("second").state == "COMPLETED"
    first, second = user.detail("first"), user.detail("second")
    assert first.state == "COMPLETED"
    assert second.started_ms >= first.ended_ms


def test_task_whose_dependency_failed_fails_and_costs_nothing(user: User) -> None:
    user.upload("first", "import sys\nsys.exit(9)\n")
    user.upload("second", HELLO, dependencies=["first"])
    end = user.ended("second")
    assert (end.state, end.cpt_paid, end.attempt) == ("FAILED", 0, 0)
    assert "first" in end.note
    assert refusal(user, lambda user: user.upload("third", HELLO, dependencies=["no-such"])).code


def test_urgent_task_goes_before_normal_ones_that_wait_for_the_same_machine(user: User) -> None:
    user.upload("holds", SLEEPER, location="place0")
    user.said("holds", "started\n")
    user.upload("normal", HELLO, location="place0")
    user.upload("urgent", HELLO, location="place0", priority="urgent")
    user.stop("holds")
    assert user.ended("normal").state == user.ended("urgent").state == "COMPLETED"
    assert user.detail("urgent").started_ms <= user.detail("normal").started_ms
    assert user.detail("urgent").assigned_ms <= user.detail("normal").assigned_ms


# --- packages -------------------------------------------------------------------------------------------------------


def test_requirements_come_from_the_index_and_can_be_imported(user: User) -> None:
    program = "import tinygift\nprint(tinygift.WORD)\n"
    user.upload("t", zip_of({"main.py": program, "requirements.txt": "tinygift==1.2\n"}))
    assert user.ended("t").state == "COMPLETED", user.detail("t").note
    assert user.logs("t").splitlines()[-1] == "gift"


def test_requirement_that_does_not_exist_is_the_tasks_own_failure(user: User) -> None:
    user.upload("t", zip_of({"main.py": HELLO, "requirements.txt": "tinygift==99\n"}))
    end = user.ended("t")
    assert (end.state, end.attempt) == ("FAILED", 1)
    assert "requirements" in end.note


@pytest.mark.parametrize("line", ["--index-url http://evil.invalid/", "x @ http://evil.invalid/x.whl", "./x.whl"])
def test_requirement_that_is_an_option_address_or_path_fails_the_task_by_its_line(user: User, line: str) -> None:
    user.upload("t", zip_of({"main.py": HELLO, "requirements.txt": f"tinygift\n{line}\n"}))
    end = user.ended("t")
    assert (end.state, end.attempt) == ("FAILED", 1)
    assert "line 2" in end.note
