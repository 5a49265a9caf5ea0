"""What a machine says of itself."""

from __future__ import annotations

from structlog.testing import capture_logs

from hivenode.worker.resources import NO_GPU, Gpu, Usage, available_cores, measure_capabilities, parse_gpus
from tests.support.parts import no_files_left


def test_measured_machine_has_plausible_figures() -> None:
    measured = measure_capabilities(location="Taipei", slots=0)
    assert measured.cpu_cores == available_cores() >= 1
    assert measured.memory_gb >= 1
    assert 1 <= measured.cpu_score < 1_000_000
    assert measured.slots == 2 * measured.cpu_cores
    assert measured.location == "Taipei"
    assert measure_capabilities(location="", slots=3).slots == 3


def test_usage_is_in_percent() -> None:
    sample = Usage().look()
    assert 0 <= sample.cpu_percent <= 100
    assert 0 < sample.memory_percent <= 100


def test_usage_that_cannot_be_seen_is_what_it_was_and_the_log_says_so_once() -> None:
    usage = Usage()
    known = usage.look()
    with capture_logs() as logs, no_files_left():
        assert [usage.look(), usage.look()] == [known, known]
    assert [(entry["log_level"], "last figures" in entry["event"]) for entry in logs] == [("warning", True)]
    with capture_logs() as logs:
        assert usage.look().memory_percent > 0
        with no_files_left():
            usage.look()
    assert len(logs) == 1


def test_largest_gpu_is_the_one_that_counts() -> None:
    text = "NVIDIA T4, 15360, 1590\nNVIDIA GeForce RTX 4090, 24564, 3105\nbroken line\nOld, [N/A], 3\n"
    assert parse_gpus(text) == Gpu(name="NVIDIA GeForce RTX 4090", memory_gb=24, score=3105)
    assert parse_gpus("No devices were found\n") == NO_GPU
