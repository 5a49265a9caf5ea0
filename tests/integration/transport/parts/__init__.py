"""Nodes for the transport's tests: real servers and channels on loopback, with small in-memory fillings of the ports.

The transport is what is tested; the rooms behind its ports have tests of their own.
"""

from tests.integration.transport.parts.node import Node, nodes
from tests.integration.transport.parts.ports import World
from tests.integration.transport.parts.samples import DEADLINE_S, HIVE, capabilities, stored, task_record

__all__ = ["DEADLINE_S", "HIVE", "Node", "World", "capabilities", "nodes", "stored", "task_record"]
