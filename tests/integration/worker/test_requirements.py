"""Requirements installed by the real pip from an index of the test's own on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.server
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivenode.errors import Code, HiveError
from hivenode.worker.requirements import CACHED_MAX, PackageCache

DEADLINE_S = 60.0
_WHEEL = "tinygift-1.2-py3-none-any.whl"


def _write_wheel(path: Path) -> None:
    files = {
        "tinygift/__init__.py": b"WORD = 'gift'\n",
        "tinygift-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinygift\nVersion: 1.2\n",
        "tinygift-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
        wheel.writestr("tinygift-1.2.dist-info/RECORD", record + "tinygift-1.2.dist-info/RECORD,,\n")


class _Index:
    """A simple index with one package; counts how often its wheel was fetched."""

    def __init__(self, folder: Path) -> None:
        index = self
        self.fetched = 0
        (folder / "simple/tinygift").mkdir(parents=True)
        _write_wheel(folder / "simple/tinygift" / _WHEEL)
        (folder / "simple/tinygift/index.html").write_text(f'<html><a href="{_WHEEL}">{_WHEEL}</a></html>')

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                index.fetched += self.path.endswith(_WHEEL)
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/simple"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[_Index]:
    made = _Index(tmp_path / "index")
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def _environment(url: str) -> dict[str, str]:
    """pip with this index and no other, whatever the machine's own settings are."""
    return {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": url,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "NO_PROXY": "127.0.0.1",
    }


async def test_requirements_are_installed_once_for_all_who_ask_at_the_same_time(index: _Index, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages", _environment(index.url))

    async def use() -> Path:
        async with cache.installed(("tinygift>=1.0",)) as place:
            assert (place / "tinygift/__init__.py").read_text() == "WORD = 'gift'\n"
            assert (place / "tinygift/__init__.py").stat().st_mode & 0o777 == 0o644
            return place

    places = await asyncio.gather(use(), use(), use())
    assert len(set(places)) == 1
    assert await use() == places[0]
    assert index.fetched == 1
    await cache.aclose()


async def test_package_that_does_not_exist_is_the_tasks_own_fault(index: _Index, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages", _environment(index.url))
    for wanted in ("tinygift>=9", "no-such-package-anywhere"):
        with pytest.raises(HiveError, match=wanted.split(">")[0]) as caught:
            async with cache.installed((wanted,)):
                pytest.fail("there is nothing to install")
        assert caught.value.code is Code.INVALID_TASK
    assert list((tmp_path / "packages").iterdir()) == []
    await cache.aclose()


async def test_index_that_cannot_be_reached_is_the_machines_fault(tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages", _environment("http://127.0.0.1:9/simple"))
    with pytest.raises(HiveError) as caught:
        async with cache.installed(("tinygift",)):
            pytest.fail("there is nothing to install")
    assert caught.value.code is Code.INSUFFICIENT_RESOURCES
    await cache.aclose()


async def test_installation_goes_on_for_others_when_one_is_stopped(index: _Index, tmp_path: Path) -> None:
    cache = PackageCache(tmp_path / "packages", _environment(index.url))
    manager = cache.installed(("tinygift",))
    first = asyncio.ensure_future(manager.__aenter__())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        async with cache.installed(("tinygift",)) as place:
            assert (place / "tinygift").is_dir()
    await cache.aclose()


async def test_a_set_that_is_asked_for_while_old_ones_are_removed_is_whole(
    index: _Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a task fails that did nothing wrong: what it needs is taken away under it."""
    cache = PackageCache(tmp_path / "packages", _environment(index.url))
    async with cache.installed(("tinygift==1.2",)) as place:
        pass
    for number in range(CACHED_MAX - 1):
        (place.parent / f"newer-{number}").mkdir()
    os.utime(place, (0, 0))
    loop, remove = asyncio.get_running_loop(), shutil.rmtree
    removing, may_remove, first = asyncio.Event(), threading.Event(), iter([True])

    def remove_slowly(folder: Path, *, ignore_errors: bool) -> None:
        if next(first, False):
            loop.call_soon_threadsafe(removing.set)
            assert may_remove.wait(DEADLINE_S)
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", remove_slowly)
    async with asyncio.timeout(DEADLINE_S):
        other = asyncio.create_task(_fails(cache, ("nosuchgift",)))
        await removing.wait()
        async with cache.installed(("tinygift==1.2",)) as again:
            may_remove.set()
            await other
            assert (again / "tinygift/__init__.py").read_bytes() == b"WORD = 'gift'\n"
    await cache.aclose()


async def _fails(cache: PackageCache, requirements: tuple[str, ...]) -> None:
    with pytest.raises(HiveError):
        async with cache.installed(requirements):
            pass
