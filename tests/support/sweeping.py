"""The first runs of `make sweep`, made beside the other tests: these mostly wait, and the runs stand back for them."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from threading import Thread
from typing import Final

from simulations.engine import MINUTE
from simulations.run import Plan
from simulations.sweep import Total, results

SEEDS: Final = tuple(range(1, 41))
"""With five nodes and half an hour each they are a hundred node-hours."""
ENDS_AFTER_S: Final = 3_600
NICENESS: Final = 19


class Sweeping:
    """The runs, begun once; what they came to is waited for."""

    def __init__(self) -> None:
        self._outcome: Future[tuple[Total, float]] = Future()
        self._begun = False

    def begin(self) -> None:
        """Starts the runs. A second time it does nothing."""
        if not self._begun:
            self._begun = True
            Thread(target=self._work, name="sweep", daemon=True).start()

    def result(self, deadline_s: float) -> tuple[Total, float]:
        """What the runs came to, and the seconds that they took. Raises TimeoutError."""
        self.begin()
        return self._outcome.result(deadline_s)

    def _work(self) -> None:
        began, total = time.monotonic(), Total()
        plans = [Plan(seed=seed, nodes=5, duration_us=30 * MINUTE, faults="all") for seed in SEEDS]
        try:
            for result, processor_s in results(plans, os.cpu_count() or 1, ENDS_AFTER_S, NICENESS):
                total.add(result, processor_s)
        except BaseException as error:
            self._outcome.set_exception(error)
            return
        self._outcome.set_result((total, time.monotonic() - began))


BESIDE: Final = Sweeping()
