"""`hivenode identity`: who this machine's node is, what others need to verify it, and moving its key."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Final

import click

from hivenode.cli.output import print_fields, print_json, say
from hivenode.cli.settings import current_settings, data_folder, shared_options
from hivenode.errors import Code, HiveError

FORMAT: Final = 1
"""Of the exported file."""
_EXPORT_BYTES_MAX: Final = 16_384
"""A key and a certificate have some 1,000 bytes."""
_HIVE_FOLDERS: Final = ("log", "snapshots", "blobs", "state*")


@click.group()
@shared_options
def identity() -> None:
    """The key of this machine's node, in the data directory. No daemon is asked."""


def _folder() -> Path:
    """Raises NODE_NOT_FOUND when no node was ever started there."""
    from hivenode.identity import CERTIFICATE_FILE, KEY_FILE

    folder = data_folder(current_settings())
    if not (folder / KEY_FILE).exists() or not (folder / CERTIFICATE_FILE).exists():
        raise HiveError(Code.NODE_NOT_FOUND, f"{folder} has no node yet: the first `hivenode start` makes one")
    return folder


@identity.command()
@shared_options
def show() -> None:
    """Tell the node's id, and the fingerprint of its certificate."""
    from hivenode.identity import load_certificate, load_identity

    folder = _folder()
    own, certificate = load_identity(folder), load_certificate(folder)
    if current_settings().json:
        document = {
            "node_id": own.node_id,
            "public_key": own.public_key.hex(),
            "certificate_sha256": certificate.sha256.hex(),
        }
        print_json(document)
        return
    print_fields(
        [
            ("node", own.node_id),
            ("public key", own.public_key.hex()),
            ("certificate", f"sha256 {certificate.sha256.hex()}"),
            ("kept in", str(folder)),
        ]
    )


@identity.command()
@shared_options
def cert() -> None:
    """Print the certificate of the peer port, for a gRPC client of another machine.

    The client takes it as its only root certificate, and the name `hivenode` for the host's: in Python
    `grpc.ssl_channel_credentials(certificate)` and the option `grpc.ssl_target_name_override`.
    """
    from hivenode.identity import TLS_NAME, load_certificate

    certificate = load_certificate(_folder())
    if current_settings().json:
        document = {
            "certificate": certificate.pem.decode("ascii"),
            "sha256": certificate.sha256.hex(),
            "target_name": TLS_NAME,
        }
        print_json(document)
        return
    say(certificate.pem.decode("ascii"), nl=False)


@identity.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@shared_options
def export(file: Path) -> None:
    """Write the node's key and certificate to FILE, which must not exist; who has it can be this node."""
    from hivenode.identity import load_certificate, load_identity

    folder = _folder()
    own, certificate = load_identity(folder), load_certificate(folder)
    document = {
        "format": FORMAT,
        "node_id": own.node_id,
        "key": base64.b64encode(own.seed).decode("ascii"),
        "certificate": (certificate.key_pem + certificate.pem).decode("ascii"),
    }
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as out:
            json.dump(document, out, indent=1)
    except BaseException:
        file.unlink()  # Half a key is none, and the next export must not find it.
        raise
    _tell({"node_id": own.node_id, "file": str(file)}, f"the key of {own.node_id} is in {file}: keep it secret")


@identity.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@shared_options
def import_(file: Path) -> None:
    """Give this machine the node key of FILE, in a data directory without one.

    A key without the log that it had is a new member of the hive: it never votes with a forgotten vote.
    """
    from hivenode.daemon import DataDirectory
    from hivenode.identity import KEY_FILE, keep_identity, load_identity

    folder = data_folder(current_settings())
    key, certificate = _exported(file)
    directory = DataDirectory(folder)
    directory.take()
    try:
        if (folder / KEY_FILE).exists():
            raise HiveError(
                Code.NODE_EXISTS, f"{folder} has a key already: import into a data directory of its own (--data-dir)"
            )
        if any(any(folder.glob(name)) for name in _HIVE_FOLDERS):
            raise HiveError(Code.INVALID_ARGUMENT, f"{folder} has the log of another node: choose an empty directory")
        keep_identity(folder, key, certificate)
        node_id = load_identity(folder).node_id
    finally:
        directory.release()
    _tell({"node_id": node_id}, f"{node_id} is the node of {folder} now; never start two machines with one key")


def _exported(file: Path) -> tuple[bytes, bytes]:
    """The key and the certificate in an exported file. Raises INVALID_ARGUMENT."""
    try:
        with file.open("rb") as handle:
            document = json.loads(handle.read(_EXPORT_BYTES_MAX))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} is not known")
        return base64.b64decode(document["key"], validate=True), str(document["certificate"]).encode("ascii")
    except (ValueError, KeyError, TypeError) as error:
        raise HiveError(Code.INVALID_ARGUMENT, f"{file} is no exported identity: {error}") from None


def _tell(document: dict[str, str], text: str) -> None:
    if current_settings().json:
        print_json(document)
    else:
        say(text)
