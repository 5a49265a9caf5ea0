"""Bits that flip on one machine: on its disk, in its page cache, and between its wire and its files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simulations.calls import PieceSent
from simulations.disk import flipped

if TYPE_CHECKING:
    from simulations.node import Node


class Damage:
    """What can go wrong with the bits of one machine, and whether some have."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node

    def flip_log(self) -> bool:
        """A bit of some entry on the disk flips; returns whether there is one."""
        node = self._node
        log, engine = node.disk.log, node.world.engine
        first, last = log.on_disk()
        if first > last:
            return False
        index = engine.between(first, last)
        log.flip_bit(index, engine.rng.getrandbits(20))
        engine.note(f"a bit of entry {index} of {node.member_id} flips")
        return True

    def flip_state(self, *, prefixes: tuple[bytes, ...] = (b"",)) -> bool:
        """A bit of some row of agreed state flips, in the page cache and on the disk; returns whether there is one.

        Args:
            prefixes: of the rows among which one is taken.
        """
        node = self._node
        key, bit = self._some_row(prefixes), node.world.engine.rng.getrandbits(16)
        if key is None:
            return False
        node.disk.state.flip_bit(key, bit)
        if node.replica is not None:
            node.replica.view.flip_bit(key, bit)
        node.world.engine.note(f"a bit of the row {key!r} of {node.member_id} flips")
        return True

    def spoil_state(self, *, prefixes: tuple[bytes, ...]) -> bool:
        """A number in some row is wrong by one and has its checksum, as if it was computed so; whether there is one."""
        node = self._node
        key = self._some_row(prefixes)
        if key is None:
            return False
        rows = node.disk.state.rows
        bit = 8 * (len(rows[key]) - 1)
        node.tainted = True
        rows[key] = flipped(rows[key], bit)
        if node.replica is not None and (value := node.replica.view.get(key)) is not None:
            node.replica.view.overwrite(key, flipped(value, bit))
        node.world.engine.note(f"the row {key!r} of {node.member_id} is wrong")
        return True

    def _some_row(self, prefixes: tuple[bytes, ...]) -> bytes | None:
        keys = [key for key in sorted(self._node.disk.state.rows) if key.startswith(prefixes)]
        return keys[self._node.world.engine.rng.randrange(len(keys))] if keys else None

    @property
    def is_rotten(self) -> bool:
        """Whether a bit of its agreed state flipped that nobody has read since."""
        node = self._node
        return bool(node.disk.state.rotten or (node.replica is not None and node.replica.view.rotten))

    def as_it_arrives(self, piece: PieceSent) -> PieceSent:
        """A bit may flip on the way from the wire to the file."""
        node = self._node
        engine = node.world.engine
        per_mille = node.world.corrupt_piece_per_mille
        if piece.data and per_mille and engine.chance(per_mille):
            engine.note(f"a bit flips in the snapshot that {node.name} receives")
            return replace(piece, data=flipped(piece.data, engine.rng.getrandbits(16)))
        return piece
