"""What the network says in mDNS records is hostile: only what this project itself would announce comes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivenode.discovery.mdns import ADDRESSES_PER_NODE_MAX, read_record

GOOD: dict[bytes, bytes | None] = {b"id": b"a" * 26, b"hive": b"", b"ver": b"0.1.0", b"phase": b"fresh"}


def addresses(properties: dict[bytes, bytes | None], hosts: list[str], port: int | None = 50052) -> list[str]:
    return [candidate.address for candidate in read_record(properties, hosts, port, loopback=False)]


def test_a_good_record_gives_its_ipv4_addresses_first() -> None:
    hosts = ["2001:4860:4860::8888", "192.168.1.5"]
    assert addresses(GOOD, hosts) == ["192.168.1.5:50052", "[2001:4860:4860::8888]:50052"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "224.0.0.251", "fe80::1", "::1", "::", "ff02::fb", "x", "", "1.2.3.4.5"]
)
def test_addresses_that_lead_to_no_other_machine_are_left_out(host: str) -> None:
    assert addresses(GOOD, [host]) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"id", b"A" * 26),
        (b"id", b"a" * 27),
        (b"id", b"a" * 26 + b"\n"),
        (b"id", None),
        (b"hive", b"xyz"),
        (b"hive", b"0" * 33),
        (b"ver", b""),
        (b"ver", b"1" * 33),
        (b"phase", b"\xff\xfe"),
    ],
)
def test_a_record_with_a_field_out_of_bounds_is_dropped(key: bytes, value: bytes | None) -> None:
    assert addresses({**GOOD, key: value}, ["192.168.1.5"]) == []


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_a_record_without_a_callable_port_is_dropped(port: int | None) -> None:
    assert addresses(GOOD, ["192.168.1.5"], port) == []


def test_a_record_with_many_addresses_is_cut() -> None:
    assert len(addresses(GOOD, [f"10.0.0.{n}" for n in range(1, 200)])) == ADDRESSES_PER_NODE_MAX


@given(
    st.dictionaries(st.sampled_from([b"id", b"hive", b"ver", b"phase", b"x"]), st.none() | st.binary(max_size=40)),
    st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=20),
    st.none() | st.integers(),
)
def test_no_record_raises(properties: dict[bytes, bytes | None], hosts: list[str], port: int | None) -> None:
    read_record(properties, hosts, port, loopback=False)
    read_record({**GOOD, **properties}, hosts, 1, loopback=True)
