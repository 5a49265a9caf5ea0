"""What a node without the hive's log knows of the hive: its nodes, and who of them may vote and where, as the leader told it.

Kept in the data directory, so that after a restart a light node still knows whom to believe. Strangers that know the hive's id
are not in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from hivenode.durable_files import read_document, write_document
from hivenode.encoding.node_record import NodeId
from hivenode.errors import HiveError

ROSTER_FILE: Final = "roster.json"


class Roster:
    """See the module. `known` is False until a hive has told anything."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ROSTER_FILE
        self.hive_id = ""
        self.voter_rights = False
        self.nodes: frozenset[NodeId] = frozenset()
        self.voters: frozenset[NodeId] = frozenset()
        self.addresses: dict[NodeId, tuple[str, ...]] = {}
        self.index = 0
        """Of the agreed state that all this rests on, at the leader that told it; 0 in files of earlier versions."""
        self._is_kept = True
        with contextlib.suppress(HiveError):  # What is damaged is told anew by the first leader.
            self._read()

    def _read(self) -> None:
        if (found := read_document(self._path)) is None:
            return
        self.hive_id, self.voter_rights = str(found["hive_id"]), bool(found["voter_rights"])
        self.nodes, self.voters = frozenset(found["nodes"]), frozenset(found["voters"])
        self.addresses = {node: tuple(addresses) for node, addresses in found["addresses"].items()}
        self.index = int(found.get("index", 0))

    @property
    def known(self) -> bool:
        return bool(self.hive_id)

    def note(
        self,
        hive_id: str,
        nodes: Iterable[NodeId],
        voters: Iterable[NodeId],
        addresses: Mapping[NodeId, tuple[str, ...]],
        *,
        voter_rights: bool,
        index: int,
    ) -> None:
        """Takes what the leader tells; blocks for the write when it is news, or the last write failed.

        Of voters alone the addresses are kept. Raises OSError; what was told counts all the same.
        """
        entitled = frozenset(voters)
        kept = {node: addresses[node] for node in sorted(entitled & addresses.keys())}
        told = (hive_id, frozenset(nodes), entitled, kept, voter_rights)
        is_news = told != (self.hive_id, self.nodes, self.voters, self.addresses, self.voter_rights)
        self.index = index
        if not is_news and self._is_kept:
            return
        self.hive_id, self.nodes, self.voters, self.addresses, self.voter_rights = told
        document = {
            "hive_id": hive_id,
            "nodes": sorted(self.nodes),
            "voters": sorted(self.voters),
            "addresses": kept,
            "voter_rights": voter_rights,
            "index": index,
        }
        self._is_kept = False
        write_document(self._path, document)
        self._is_kept = True
