"""Snapshots of a simulated node: made as a file, offered, fetched in pieces over the network, and unpacked beside.

It does what `hivenode.storage.snapshots` and `hivenode.runtime.snapshots` do, with the production file format and the production
decisions on offers and tries; only the waiting is virtual. A piece may be lost, which ends the try, or come with a flipped bit,
which is found when the whole file is checked.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hivenode.consensus import Snapshot, SnapshotMeta, SnapshotOffer
from hivenode.errors import Code, HiveError
from hivenode.runtime.snapshots import (
    FAILED_PAUSE_S,
    RETRY_S,
    Offered,
    SnapshotFetch,
    decode_ref,
    encode_ref,
)
from hivenode.runtime.stores import MadeSnapshot, PreparedState, SnapshotRef
from hivenode.storage.state_file import HashedFile, damaged, read_state, write_state
from simulations.calls import PieceAsked, PieceSent
from simulations.disk import FIRST_IMAGE, Disk, StateImage
from simulations.engine import MS, SECOND
from simulations.network import DELAY_US

if TYPE_CHECKING:
    from simulations.node import Node

COPY_US: Final = (1 * MS, 300 * MS)
"""To copy the state into a file, or to make a state of a file: from some rows to some hundred thousand."""
PIECE_US: Final = (DELAY_US[1], 20 * MS)
"""Between two pieces: at least so long that none overtakes another on a calm network."""
PIECE_DEADLINE_US: Final = 2 * SECOND
"""A stream that brings nothing for so long has broken."""
UNSYNCED_PER_MILLE: Final = 500
"""How often a power cut takes the end of a file that was being received."""


class SnapshotDisk:
    """The files: what this node made last, and what it has received so far of another's. They survive a crash."""

    def __init__(self, node: Node, disk: Disk) -> None:
        self._node = node
        self._disk = disk
        self._made: tuple[MadeSnapshot, bytes] | None = None
        self._partial: dict[str, bytearray] = {}

    def restarted(self) -> None:
        """What was made is made anew when somebody asks for it."""
        self._made = None

    def power_lost(self) -> None:
        """The end of a file that was being received may be gone."""
        engine = self._node.world.engine
        for name in sorted(self._partial):
            if engine.chance(UNSYNCED_PER_MILLE):
                del self._partial[name][engine.between(0, len(self._partial[name])) :]

    def make(self, image: StateImage) -> MadeSnapshot:
        """The agreed state as it was flushed last, in place of the snapshot made before."""
        content = io.BytesIO()
        file = HashedFile(content)
        write_state(file, self._disk.log.hive_id, image.mark, image.read())
        ref = SnapshotRef(sha256=file.sha256, size_bytes=file.size_bytes)
        meta = SnapshotMeta(index=image.mark.index, term=image.mark.term, conf=image.mark.conf)
        made = MadeSnapshot(ref=ref, meta=meta, path=Path(f"{ref.sha256}.snapshot"))
        self._made = (made, content.getvalue())
        if self._node.tainted:
            self._node.world.tainted_files.add(ref.sha256)
        return made

    def read(self, sha256: str, offset: int, pieces: int) -> bytes | None:
        """The next of so many pieces of the snapshot made last, empty at its end; None when it is another one by now."""
        if self._made is None or self._made[0].ref.sha256 != sha256:
            return None
        content = self._made[1]
        return content[offset : offset + len(content) // pieces + 1]

    def received_bytes(self, ref: SnapshotRef) -> int:
        """How much of it has been received; all other unfinished files are given up."""
        for other in [name for name in self._partial if name != ref.sha256]:
            del self._partial[other]
        return len(self._partial.get(ref.sha256, b""))

    def receive(self, ref: SnapshotRef, offset: int, data: bytes) -> None:
        """Raises BLOB_CORRUPT beyond its size."""
        if offset + len(data) > ref.size_bytes:
            raise damaged("more came than it has")
        partial = self._partial.setdefault(ref.sha256, bytearray())
        partial[offset:] = data

    def prepare(self, ref: SnapshotRef, meta: SnapshotMeta) -> PreparedState:
        """Unpacks a received file beside the state. Raises BLOB_CORRUPT, and then forgets the file."""
        content = self._partial.pop(ref.sha256, bytearray())
        mark, rows = read_state(HashedFile(io.BytesIO(content)), self._disk.log.hive_id, ref, meta)
        image = StateImage(dict(rows), mark)
        number = int(self._disk.log.state_image.rpartition(".")[2]) if "." in self._disk.log.state_image else 0
        folder = Path(f"{FIRST_IMAGE}.{number + 1}")
        self._disk.images[folder.name] = image
        return PreparedState(meta=meta, folder=folder)

    def discard(self, prepared: PreparedState) -> None:
        self._disk.images.pop(prepared.folder.name, None)


class SnapshotFetcher:
    """Brings offered snapshots to this node's disk, for one life of its process.

    Args:
        deliver: takes an offer whose state is prepared, and calls back when it is installed or refused.
        failed: told of an offer that could not be fetched.
    """

    def __init__(
        self,
        node: Node,
        deliver: Callable[[SnapshotOffer, PreparedState, Callable[[], None]], None],
        failed: Callable[[SnapshotOffer], None],
    ) -> None:
        self._node = node
        self._engine = node.world.engine
        self._deliver = deliver
        self._failed = failed
        self._decide = SnapshotFetch()
        self._run = 0
        """Which fetch it is, so that what was waited for by an earlier one is passed over."""
        self._under_way = False
        self._ref: SnapshotRef | None = None
        self._offset = 0
        self._tried_from = 0
        self._stream = 0
        self._heard_us = 0

    @property
    def received(self) -> int:
        """Bytes of the snapshot that is being fetched; 0 when none is."""
        return self._offset if self._under_way else 0

    def awaits(self, asked: PieceAsked) -> bool:
        """Whether what comes for it is still read."""
        ref = self._ref
        return ref is not None and (asked.run, asked.stream, asked.sha256) == (self._run, self._stream, ref.sha256)

    def offered(self, offer: SnapshotOffer) -> None:
        """A leader offers a snapshot; the work goes on beside."""
        ref = decode_ref(offer.snapshot.data)
        if self._decide.offered(offer, ref, under_way=self._under_way) in (Offered.DROPPED, Offered.RENEWED):
            return
        self._run += 1
        self._under_way, self._ref = True, ref
        self._offset = self._node.snapshots.received_bytes(ref)
        self._engine.note(
            f"{self._node.name} fetches the snapshot of {offer.snapshot.meta.index} from {offer.from_}, "
            f"{self._offset} of {ref.size_bytes} bytes are here"
        )
        self._try()

    def _later(self, delay_us: int, action: Callable[[], None]) -> None:
        run = self._run

        def act() -> None:
            if run == self._run:
                action()

        self._node.at(self._engine.now_us + delay_us, act)

    # --- one try ---------------------------------------------------------------------------------------------------

    def _try(self) -> None:
        ref = self._ref
        if ref is None:
            return
        if self._offset >= ref.size_bytes:
            self._later(self._engine.between(*COPY_US), self._prepare)
            return
        self._stream += 1
        self._tried_from = self._offset
        asked = PieceAsked(run=self._run, stream=self._stream, sha256=ref.sha256, offset=self._offset)
        self._node.send_to_member(self._decide.current.from_, asked)
        self._heard_us = self._engine.now_us
        self._watch(self._stream)

    def _watch(self, stream: int) -> None:
        def look() -> None:
            if stream != self._stream:
                return
            if self._engine.now_us - self._heard_us >= PIECE_DEADLINE_US:
                self._broke_off(Code.NODE_OFFLINE)
            else:
                self._watch(stream)

        self._later(self._heard_us + PIECE_DEADLINE_US - self._engine.now_us, look)

    def piece(self, sent: PieceSent) -> None:
        """The next bytes come; what is of an earlier try, or out of order, is not of this stream."""
        ref = self._ref
        if ref is None or (sent.run, sent.stream) != (self._run, self._stream):
            return
        if sent.data is None:
            self._broke_off(Code.BLOB_NOT_FOUND)
            return
        if sent.offset != self._offset:
            self._broke_off(Code.NODE_OFFLINE)
            return
        self._heard_us = self._engine.now_us
        self._node.snapshots.receive(ref, self._offset, sent.data)
        self._offset += len(sent.data)
        if self._offset >= ref.size_bytes:
            self._stream += 1
            self._try()

    def _broke_off(self, code: Code) -> None:
        self._stream += 1
        progressed = self._offset > self._tried_from

        def again() -> None:
            if self._decide.try_again(code, progressed=progressed):
                self._try()
            else:
                self._give_up(code)

        self._later(int(RETRY_S * SECOND), again)

    def _give_up(self, code: Code) -> None:
        self._engine.note(f"{self._node.name} cannot fetch the snapshot: {code.name}")

        def tell() -> None:
            self._under_way = False
            self._failed(self._decide.current)

        self._later(int(FAILED_PAUSE_S * SECOND), tell)

    def _prepare(self) -> None:
        ref = self._ref
        if ref is None:
            return
        try:
            prepared = self._node.snapshots.prepare(ref, self._decide.current.snapshot.meta)
        except HiveError as error:
            self._give_up(error.code)
            return
        self._decide.delivering = True
        self._deliver(self._decide.current, prepared, self._ended)

    def _ended(self) -> None:
        self._under_way = False


def serve_pieces(node: Node, asker: str, asked: PieceAsked) -> None:
    """Sends a snapshot's bytes from an offset on, piece by piece, as long as the file is there."""
    world = node.world

    def send(offset: int) -> None:
        replica = world.nodes[asker].replica
        if replica is None or not replica.fetcher.awaits(asked):
            return  # Who reads no more has ended the call.
        data = node.snapshots.read(asked.sha256, offset, world.settings.snapshot_pieces)
        answer = PieceSent(run=asked.run, stream=asked.stream, offset=offset, data=data)
        world.network.send(node.name, asker, answer, once=True)
        if data:
            node.at(world.engine.now_us + world.engine.between(*PIECE_US), lambda: send(offset + len(data)))

    send(asked.offset)


def offered_snapshot(made: MadeSnapshot) -> Snapshot:
    """What the core is given to offer."""
    return Snapshot(meta=made.meta, data=encode_ref(made.ref))
