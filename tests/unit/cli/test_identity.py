"""`hivenode identity`, and which daemon of another machine is believed to be who it says."""

from __future__ import annotations

import json
import resource
import stat
from pathlib import Path

import click
import pytest

from hivenode.cli import remote
from hivenode.cli.settings import Settings, Target
from hivenode.errors import Code, HiveError
from hivenode.identity import CERTIFICATE_FILE, KEY_FILE, load_certificate, load_identity
from tests.unit.cli.conftest import Invoke

ADDRESS = "192.0.2.7:50052"
NODE = "a" * 26
OTHER = "b" * 26


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "node"
    made.mkdir()
    load_identity(made)
    load_certificate(made)
    return made


def test_show_and_cert_tell_what_others_verify(invoke: Invoke, folder: Path) -> None:
    told = json.loads(invoke("identity", "show", "--json", "--data-dir", str(folder)).stdout)
    assert told["node_id"] == load_identity(folder).node_id
    assert told["certificate_sha256"] == load_certificate(folder).sha256.hex()
    assert invoke("identity", "cert", "--data-dir", str(folder)).stdout_bytes == load_certificate(folder).pem
    nobody = invoke("identity", "show", "--data-dir", str(folder / "none"))
    assert nobody.exit_code != 0
    assert not (folder / "none").exists()


def test_no_secret_is_shown(invoke: Invoke, folder: Path) -> None:
    for command in ("show", "cert"):
        for form in ((), ("--json",)):
            shown = invoke("identity", command, *form, "--data-dir", str(folder)).output
            assert "PRIVATE KEY" not in shown
            assert load_identity(folder).seed.hex() not in shown


def test_an_exported_key_can_be_imported_once_and_is_the_owners_alone(
    invoke: Invoke, folder: Path, tmp_path: Path
) -> None:
    file, there = tmp_path / "key.json", tmp_path / "there"
    assert invoke("identity", "export", str(file), "--data-dir", str(folder)).exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert invoke("identity", "export", str(file), "--data-dir", str(folder)).exit_code != 0, "nothing is overwritten"
    assert invoke("identity", "import", str(file), "--data-dir", str(there)).exit_code == 0
    assert load_identity(there).node_id == load_identity(folder).node_id
    assert load_certificate(there) == load_certificate(folder)
    for name in (KEY_FILE, CERTIFICATE_FILE):
        assert stat.S_IMODE((there / name).stat().st_mode) == 0o600
    assert invoke("identity", "import", str(file), "--data-dir", str(there)).exit_code != 0


def test_an_export_that_breaks_off_leaves_no_half_key(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    bound = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, bound[1]))  # As a full disk, but for this process alone.
    try:
        assert invoke("identity", "export", str(file), "--data-dir", str(folder)).exit_code == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bound)
    assert not file.exists()
    assert invoke("identity", "export", str(file), "--data-dir", str(folder)).exit_code == 0


def test_a_key_is_not_imported_beside_the_log_of_another_node(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    file, there = tmp_path / "key.json", tmp_path / "there"
    invoke("identity", "export", str(file), "--data-dir", str(folder))
    (there / "log").mkdir(parents=True)
    assert invoke("identity", "import", str(file), "--data-dir", str(there)).exit_code != 0
    assert not (there / KEY_FILE).exists()


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2}', '{"format": 1, "key": "AA==", "certificate": "x"}'])
def test_a_file_that_is_no_exported_identity_is_refused(invoke: Invoke, tmp_path: Path, content: str) -> None:
    file, there = tmp_path / "key.json", tmp_path / "there"
    file.write_text(content)
    assert invoke("identity", "import", str(file), "--data-dir", str(there)).exit_code != 0
    assert not (there / KEY_FILE).exists()
    assert not (there / CERTIFICATE_FILE).exists()


# --- who is believed -------------------------------------------------------------------------------------------------


def _asked(monkeypatch: pytest.MonkeyPatch, answer: bool) -> list[str]:
    questions: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        questions.append(text)
        if not answer:
            raise click.Abort
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    monkeypatch.setattr("sys.stdin", _Terminal())
    return questions


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HIVENODE_CONFIG_DIR", str(tmp_path / "config"))
    return Settings(data_dir=tmp_path)


def test_a_stranger_is_asked_about_once_and_remembered(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    questions = _asked(monkeypatch, True)
    for _ in range(2):
        remote._require_trusted(settings, Target(address=ADDRESS), NODE)
    assert len(questions) == 1
    assert NODE in questions[0]
    kept = tmp_path / "config" / remote.KNOWN_HOSTS_FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with pytest.raises(HiveError) as caught:
        remote._require_trusted(settings, Target(address=ADDRESS), OTHER)
    assert caught.value.code is Code.PEER_REJECTED
    assert str(kept) in caught.value.message
    assert len(questions) == 1, "a change is no first time"


def test_a_stranger_that_is_not_believed_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    questions = _asked(monkeypatch, False)
    for number in (1, 2):
        with pytest.raises(click.Abort):
            remote._require_trusted(settings, Target(address=ADDRESS), NODE)
        assert len(questions) == number
    assert not (tmp_path / "config" / remote.KNOWN_HOSTS_FILE).exists()


def test_the_named_id_is_the_only_one_that_counts(settings: Settings) -> None:
    remote._require_trusted(settings, Target(address=ADDRESS, node_id=NODE), NODE)
    with pytest.raises(HiveError) as caught:
        remote._require_trusted(settings, Target(address=ADDRESS, node_id=NODE), OTHER)
    assert caught.value.code is Code.PEER_REJECTED


@pytest.mark.parametrize(
    ("address", "node_id", "remote_"),
    [
        ("127.0.0.1:50051", "", False),
        ("[::1]:50051", "", False),
        ("localhost:50051", "", False),
        ("127.0.0.1:50052", NODE, True),
        ("192.0.2.7:50052", "", True),
        ("somewhere:50052", "", True),
    ],
)
def test_plain_text_stays_on_this_machine(address: str, node_id: str, remote_: bool) -> None:
    assert Target(address=address, node_id=node_id).is_remote is remote_
