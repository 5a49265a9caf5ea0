"""The simulated LAN: delay, loss, duplication, reordering, cuts in one or both directions, and streams that break.

Rules:
- A datagram may be lost, come twice, come late and overtake another. Every direction of every pair can be cut alone; what
  is on its way when the cut comes is lost as well.
- A stream keeps its order and loses nothing while it stands. A lost packet only delays it. A cut breaks it, which each end
  notices after a silence; the end of one process resets it, which the other end notices at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from simulations.engine import MS, SECOND, Engine
from simulations.marks import Kind

DELAY_US: Final = (80, 500)
"""A switched LAN with a busy sender."""
LATE_US: Final = (2 * MS, 80 * MS)
"""A packet that waited in a full queue or for a busy receiver: late enough to be overtaken by many."""
RESEND_US: Final = 200 * MS
"""TCP's shortest wait before it sends a lost segment again."""
SILENCE_US: Final = (2 * SECOND, 8 * SECOND)
"""When an end of a cut stream finds out: keepalives differ."""
RESENDS_MAX: Final = 6

Receive = Callable[[str, Any], None]


@dataclass(slots=True)
class Weather:
    """How bad the network is, in parts of a thousand; faults change it."""

    loss: int = 0
    duplicate: int = 0
    late: int = 2
    late_us: tuple[int, int] = LATE_US


class Network:
    """All wires. Machines are known by name, and take datagrams by `attach`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._receivers: dict[str, Receive] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        self.weather = Weather()
        self.sent = 0
        self.lost = 0

    def attach(self, name: str, receive: Receive) -> None:
        self._receivers[name] = receive

    def cut(self, source: str, target: str) -> None:
        """Nothing goes from source to target any more; cuts of several faults add up."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1
        self._engine.mark(Kind.CUT, source, target)

    def mend(self, source: str, target: str) -> None:
        """Takes one cut back."""
        left = self._cuts.get((source, target), 0) - 1
        if left > 0:
            self._cuts[source, target] = left
        else:
            self._cuts.pop((source, target), None)
            self._engine.mark(Kind.MENDED, source, target)

    def mend_all(self) -> None:
        """No cuts, and calm weather."""
        for source, target in self._cuts:
            self._engine.mark(Kind.MENDED, source, target)
        self._cuts.clear()
        self.weather = Weather()

    def open(self, source: str, target: str) -> bool:
        return (source, target) not in self._cuts

    def delay_us(self) -> int:
        rng = self._engine.rng
        low, high = self.weather.late_us if rng.random() * 1_000 < self.weather.late else DELAY_US
        return low + int(rng.random() * (high - low))

    def send(self, source: str, target: str, payload: Any, *, once: bool = False) -> None:
        """Sends a datagram; `once` says that it is never doubled, as an RPC is not."""
        self.sent += 1
        weather = self.weather
        if self._cuts and (source, target) in self._cuts:
            self.lost += 1
            return
        if weather.loss and self._engine.chance(weather.loss):
            self.lost += 1
            return
        self._engine.after(self.delay_us(), lambda: self._arrive(source, target, payload))
        if weather.duplicate and not once and self._engine.chance(weather.duplicate):
            self._engine.after(self.delay_us(), lambda: self._arrive(source, target, payload))

    def _arrive(self, source: str, target: str, payload: Any) -> None:
        if self._cuts and (source, target) in self._cuts:
            self.lost += 1
            return
        self._receivers[target](source, payload)


class Stream:
    """One connection of two machines with an order of its own.

    Args:
        ends: the names of the caller and the called.
        receive: what each end does with a message.
        closed: what each end does when the stream is over; the argument says whether it was reset.
    """

    def __init__(
        self,
        engine: Engine,
        network: Network,
        ends: tuple[str, str],
        receive: tuple[Callable[[Any], None], Callable[[Any], None]],
        closed: tuple[Callable[[bool], None], Callable[[bool], None]],
    ) -> None:
        self._engine = engine
        self._network = network
        self._ends = ends
        self._receive = receive
        self._closed = closed
        self._standing = [True, True]
        self._broken = False
        self._last_us = [0, 0]

    def send(self, side: int, message: Any) -> None:
        """Sends from one side (0 the caller, 1 the called) to the other."""
        if self._broken or not self._standing[side]:
            return
        source, target = self._ends[side], self._ends[1 - side]
        if not self._network.open(source, target):
            self._break()
            return
        delay_us = self._network.delay_us()
        for _ in range(RESENDS_MAX):
            if not self._network.weather.loss or not self._engine.chance(self._network.weather.loss):
                break
            delay_us += RESEND_US
        arrival_us = max(self._engine.now_us + delay_us, self._last_us[side])
        self._last_us[side] = arrival_us
        self._engine.at(arrival_us, lambda: self._arrive(side, message))

    def _arrive(self, side: int, message: Any) -> None:
        if self._broken or not self._standing[1 - side]:
            return
        if not self._network.open(self._ends[side], self._ends[1 - side]):
            self._break()
            return
        self._receive[1 - side](message)

    def _break(self) -> None:
        self._broken = True
        for side in (0, 1):
            self._engine.after(self._engine.between(*SILENCE_US), lambda side=side: self._end(side, reset=False))  # type: ignore[misc]

    def close(self, side: int) -> None:
        """One side ends the stream; the other hears of it by and by, or by silence when the way is cut."""
        if not self._standing[side]:
            return
        self._standing[side] = False
        if not self._broken:
            arrival_us = max(self._engine.now_us + self._network.delay_us(), self._last_us[side])
            self._engine.at(arrival_us, lambda: self._hear_end(side))

    def fall_silent(self, side: int) -> None:
        """One side's machine is gone without a word; the other finds out by silence."""
        self._standing[side] = False
        if not self._broken:
            self._break()

    def _hear_end(self, side: int) -> None:
        if self._network.open(self._ends[side], self._ends[1 - side]):
            self._end(1 - side, reset=True)
        else:
            self._break()

    def _end(self, side: int, *, reset: bool) -> None:
        if self._standing[side]:
            self._standing[side] = False
            self._closed[side](reset)
