"""What a name, an amount or a task specification may be: one table of bounds, used at the edge and again in `apply`.

Every check raises `HiveError` with INVALID_ARGUMENT (amounts: INVALID_AMOUNT) and a text that names the field and its bound.
The checks are part of what replicas agree on, so they never depend on the machine. That is why letters and digits of a user
name are judged by Unicode 3.2, which every Python carries unchanged (and RFC 3454 builds on), and not by the newest tables.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

from hivenode.encoding.node_record import Capabilities, NodeRecord
from hivenode.errors import Code, HiveError
from hivenode.ledger.chain import AMOUNT_MAX
from hivenode.pool.records import BlobRef, Needs, TaskSpec


class Bound(NamedTuple):
    """The least and the greatest number, or length in UTF-8 bytes, and the words for its unit."""

    least: int
    most: int
    unit: str


TEXTS: Final[dict[str, Bound]] = {
    # With a user, a task and a node in one key, LMDB's 511 bytes are kept with room to spare.
    "user name": Bound(1, 64, "bytes"),
    "task id": Bound(1, 128, "bytes"),
    "node id": Bound(1, 128, "bytes"),
    "session id": Bound(1, 64, "bytes"),
    "request owner": Bound(0, 128, "bytes"),
    "request key": Bound(0, 192, "bytes"),
    "hive id": Bound(1, 64, "bytes"),
    # RFC 5321 §4.5.3.1.3: a path is at most 256 bytes with its brackets.
    "email": Bound(0, 254, "bytes"),
    # An Argon2id string of PyNaCl has 97 bytes; the rest is room for greater parameters.
    "password hash": Bound(1, 256, "bytes"),
    "gpu name": Bound(0, 128, "bytes"),
    "location": Bound(0, 128, "bytes"),
    # RFC 1035 §2.3.4 bounds a host name by 255 bytes; the node's other words need no more.
    "hostname": Bound(0, 255, "bytes"),
    "docker status": Bound(0, 64, "bytes"),
    "executor": Bound(0, 64, "bytes"),
    "executor note": Bound(0, 512, "bytes"),
    "address": Bound(1, 300, "bytes"),
    "incarnation": Bound(0, 64, "bytes"),
    "version": Bound(0, 64, "bytes"),
}

NUMBERS: Final[dict[str, Bound]] = {
    "amount": Bound(1, AMOUNT_MAX, "CPT"),
    "supply": Bound(1, AMOUNT_MAX, "CPT"),
    "signup grant": Bound(0, AMOUNT_MAX, "CPT"),
    "grants per day": Bound(0, 1_000_000_000, "accounts"),
    # The end of the year 9999, so that a time fits into 8 bytes with any of the durations below added.
    "time": Bound(0, 253_402_300_799_999, "ms"),
    # Replies are kept 24 h; a week leaves room for a longer setting and bounds what a bad leader can pin.
    "reply keeping": Bound(0, 7 * 86_400_000, "ms"),
    "session lifetime": Bound(1_000, 31 * 86_400_000, "ms"),
    "task keeping": Bound(0, 3_660 * 86_400_000, "ms"),
    # One entry is applied in one transaction; this many rows take well under a second.
    "rows to sweep": Bound(1, 10_000, "rows"),
    # Greater than any machine, small enough that the cost of a week fits into an amount many times over.
    "memory": Bound(0, 65_536, "GB"),
    "cpu score": Bound(0, 1_000_000_000, "points"),
    "gpu score": Bound(0, 1_000_000_000, "points"),
    "gpu memory": Bound(0, 65_536, "GB"),
    "cpu cores": Bound(0, 65_536, "cores"),
    # All open attempts of a node are lost in one entry when it goes.
    "slots": Bound(0, 1_024, "attempts"),
    "time limit": Bound(1, 7 * 86_400, "s"),
    "attempts": Bound(1, 16, "attempts"),
    "port": Bound(0, 65_535, "as a port"),
    "sequence": Bound(0, (1 << 63) - 1, "as a sequence number"),
    "log index": Bound(0, (1 << 63) - 1, "as a log index"),
    "exit code": Bound(-(1 << 31), (1 << 32) - 1, "as an exit code"),
    "blob size": Bound(0, 1 << 40, "bytes"),
}

DEPENDENCIES_MAX: Final = 32
"""A task's end looks at the tasks that wait for it, and theirs at it: few enough to do at once."""
HOLDERS_MAX: Final = 16
"""Holders are hints for where to ask first; more than some copies help nobody."""
ADDRESSES_MAX: Final = 16
RECORD_BYTES_MAX: Final = 16_384
"""A signed node record with every text at its bound is smaller."""
REASON_BYTES_MAX: Final = 1_024
"""A worker's reason is cut and not refused: refusing the end of an attempt would strand its task."""

_SHOWN_CHARACTERS_MAX: Final = 128
_NAME_SIGNS: Final = frozenset("._-@+")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
"""The same rule for the names that have only signs of ASCII, as most have: it need not be looked up sign by sign."""
_SHA256_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


def _refuse(message: str) -> HiveError:
    return HiveError(Code.INVALID_ARGUMENT, message)


def check_text(field: str, text: str) -> None:
    """A text of one line within the bound that `TEXTS` has for the field."""
    bound = TEXTS[field]
    try:
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise _refuse(f"The {field} is not valid Unicode.") from None
    if not bound.least <= size <= bound.most:
        raise _refuse(f"The {field} must have {bound.least} to {bound.most} {bound.unit}; it has {size}.")
    if text.isascii() and text.isprintable():
        return  # Of ASCII this is all but the control characters, and `apply` comes here several times an entry.
    for character in text:
        if character < " " or "\x7f" <= character <= "\x9f":
            raise _refuse(f"The {field} must not contain control characters.")


def check_number(field: str, value: int) -> None:
    """A number within the bound that `NUMBERS` has for the field."""
    bound = NUMBERS[field]
    if not bound.least <= value <= bound.most:
        code = Code.INVALID_AMOUNT if field == "amount" else Code.INVALID_ARGUMENT
        raise HiveError(code, f"The {field} must be {bound.least} to {bound.most} {bound.unit}; it is {value}.")


def check_username(name: str) -> None:
    """1 to 64 bytes; letters, digits and `. _ - @ +`, beginning with a letter or digit; in Unicode's NFKC form."""
    check_text("user name", name)
    if _PLAIN_NAME.fullmatch(name):
        return
    if len(name.casefold().encode("utf-8")) > TEXTS["user name"].most:
        raise _refuse("The user name is too long without regard to case: at most 64 bytes.")
    tables = unicodedata.ucd_3_2_0
    for place, character in enumerate(name):
        kind = tables.category(character)[0]
        if not (kind in "LN" or (place > 0 and (kind == "M" or character in _NAME_SIGNS))):
            raise _refuse(
                "The user name must begin with a letter or digit and have only letters, digits and . _ - @ + in it."
            )
    if not name.isascii() and tables.normalize("NFKC", name) != name:
        raise _refuse("The user name must be written in plain letters (Unicode's NFKC form).")


def check_task_id(task_id: str) -> None:
    """1 to 128 bytes without control characters."""
    check_text("task id", task_id)


def check_node_id(node_id: str) -> None:
    """1 to 128 bytes without control characters."""
    check_text("node id", node_id)


def check_email(email: str) -> None:
    """Empty, or at most 254 bytes with one `@` that has something on both sides, and no blanks."""
    check_text("email", email)
    if not email:
        return
    local, at, domain = email.partition("@")
    if not (local and at and domain) or "@" in domain or " " in email:
        raise _refuse("The email must look like name@example.org.")


def check_amount(amount: int) -> None:
    """Whole CPT, at least 1."""
    check_number("amount", amount)


def check_blob(field: str, blob: BlobRef) -> None:
    """A name of 64 lower-case hexadecimal digits and a size within its bound."""
    if len(blob.sha256) != _SHA256_DIGITS or not _HEX.issuperset(blob.sha256):
        raise _refuse(f"The {field} must be named by 64 lower-case hexadecimal digits.")
    check_number("blob size", blob.size_bytes)


def check_holders(holders: tuple[str, ...]) -> None:
    """At most 16 node ids."""
    if len(holders) > HOLDERS_MAX:
        raise _refuse(f"At most {HOLDERS_MAX} holders of a blob can be named.")
    for holder in holders:
        check_node_id(holder)


def check_needs(needs: Needs) -> None:
    """What a task asks of a machine, each within its bound."""
    check_number("memory", needs.memory_gb)
    check_number("cpu score", needs.cpu_score)
    check_number("gpu score", needs.gpu_score)
    check_number("gpu memory", needs.gpu_memory_gb)
    check_text("gpu name", needs.gpu_name)
    check_text("location", needs.location)


def check_spec(spec: TaskSpec) -> None:
    """A task's specification, each field within its bound; at most 32 dependencies, none of them twice."""
    check_needs(spec.needs)
    check_number("time limit", spec.time_limit_s)
    check_number("attempts", spec.attempts_max)
    if len(spec.dependencies) > DEPENDENCIES_MAX:
        raise _refuse(
            f"A task can depend on at most {DEPENDENCIES_MAX} tasks; this one names {len(spec.dependencies)}."
        )
    for dependency in spec.dependencies:
        check_task_id(dependency)
    if len(set(spec.dependencies)) != len(spec.dependencies):
        raise _refuse("A task must not name the same dependency twice.")


def check_capabilities(offer: Capabilities) -> None:
    """What a machine offers, each within its bound."""
    check_text("hostname", offer.hostname)
    check_number("cpu cores", offer.cpu_cores)
    check_number("memory", offer.memory_gb)
    check_number("cpu score", offer.cpu_score)
    check_number("gpu score", offer.gpu_score)
    check_number("gpu memory", offer.gpu_memory_gb)
    check_text("gpu name", offer.gpu_name)
    check_text("location", offer.location)
    check_text("docker status", offer.docker_status)
    check_text("executor", offer.executor)
    check_text("executor note", offer.executor_note)
    check_number("slots", offer.slots)


def check_hash(text: str) -> None:
    """64 hexadecimal digits."""
    if len(text) != _SHA256_DIGITS or not _HEX.issuperset(text):
        raise _refuse("A hash has 64 hexadecimal digits.")


def check_node_record(record: NodeRecord) -> None:
    """A node's own statement, each field within its bound; at most 16 addresses."""
    check_node_id(record.node_id)
    check_text("incarnation", record.incarnation)
    check_text("version", record.version)
    check_number("sequence", record.sequence)
    check_number("time", record.expires_ms)
    if len(record.addresses) > ADDRESSES_MAX:
        raise _refuse(f"A node can name at most {ADDRESSES_MAX} addresses.")
    for address in record.addresses:
        check_text("address", address)
    check_capabilities(record.capabilities)


def shown(text: str) -> str:
    """A text of unknown length as a message may repeat it."""
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…"


def cut_reason(reason: str) -> str:
    """The reason's first 1,024 bytes, in whole characters."""
    return reason.encode("utf-8", "replace")[:REASON_BYTES_MAX].decode("utf-8", "ignore")
