"""How the command line proves that its user owns this machine: it shows the daemon the code of the data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hivenode.cli.settings import Settings, data_folder
from hivenode.errors import Code, HiveError

if TYPE_CHECKING:
    from hivenode.cli.peer import Peer

CODE_FILE: Final = "claim-code"
"""Left by the daemon in its data directory, with mode 0600."""
_CODE_BYTES_MAX: Final = 1_024


def make_claim(peer: Peer, settings: Settings, purpose: str, username: str) -> bytes:
    """This machine's signed word for a user.

    Raises:
        HiveError: PERMISSION_DENIED when the code cannot be read, or is another daemon's.
    """
    from hivenode.cli.peer import HIVE
    from hivenode.pb import hive_pb2

    path = data_folder(settings) / CODE_FILE
    try:
        with path.open("rb") as file:
            code = file.read(_CODE_BYTES_MAX).decode("ascii", "replace").strip()
    except OSError as error:
        raise HiveError(
            Code.PERMISSION_DENIED,
            f"{path} cannot be read ({error.strerror}): claim on the machine itself, as the user whose daemon it is, "
            "with its --data-dir",
        ) from None
    request = hive_pb2.MakeClaimRequest(code=code, purpose=purpose, username=username)
    claim: bytes = peer.call(f"{HIVE}MakeClaim", request, hive_pb2.MakeClaimResponse).claim
    return claim
