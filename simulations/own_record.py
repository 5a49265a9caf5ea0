"""What a machine says of itself to others: its signed record, and what it can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hivenode.encoding.node_record import Capabilities, NodeRecord, SignedNodeRecord, sign_record

if TYPE_CHECKING:
    from simulations.node import Node

NEVER_EXPIRES_MS: Final = 253_402_300_799_999


def signed_record(node: Node, *, later: bool = False) -> SignedNodeRecord:
    """What a node says of itself now, or `later`, after its next start; a later one has a greater sequence."""
    record = NodeRecord(
        node_id=node.node_id,
        public_key=node.public_key,
        incarnation=node.disk.log.incarnation,
        role=node.role,
        addresses=(node.address,),
        capabilities=node.capabilities,
        sequence=max(node.clock.wall_ms(), node.least_sequence) + later,
        expires_ms=NEVER_EXPIRES_MS,
        version="0.1.0",
        certificate_sha256=bytes(32),
    )
    return sign_record(record, node.sign)


def capabilities_of(name: str) -> Capabilities:
    return Capabilities(
        hostname=name,
        cpu_cores=2,
        memory_gb=8,
        cpu_score=1_000,
        gpu_score=0,
        gpu_memory_gb=0,
        gpu_name="",
        location="",
        docker_status="",
        executor="sandbox",
        executor_note="",
        slots=2,
    )
