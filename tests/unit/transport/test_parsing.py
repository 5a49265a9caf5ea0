"""Requests and answers of too many fields are refused before protobuf builds them."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.validation import DEPENDENCIES_MAX
from hivenode.transport import bounds
from hivenode.transport.parsing import (
    ANSWER_FIELDS_MAX,
    COUNTED_FROM_BYTES,
    UNKNOWN_FIELDS_MAX,
    fields_max,
    parse,
    parse_answer,
)
from hivenode.transport.statuses import MalformedError
from tests.support.requests import request_descriptors

EMPTY_DEPENDENCY = nodepool_pb2.UploadTaskRequest(dependencies=[""]).SerializeToString()
LARGE = b"z" * COUNTED_FROM_BYTES


def test_no_request_has_a_list_of_numbers_which_would_be_one_field_on_the_wire() -> None:
    lists = [
        field
        for descriptor in request_descriptors().values()
        for field in descriptor.fields
        if isinstance(bounds.TABLE[descriptor.full_name][field.name], bounds.Many)
    ]
    wanted = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}
    assert {field.type for field in lists} == wanted


def test_a_large_message_is_parsed_as_it_was_sent() -> None:
    message = nodepool_pb2.UploadTaskRequest(
        task_data=LARGE, cpu_score=7, dependencies=[f"t{number}" for number in range(DEPENDENCIES_MAX)]
    )
    assert parse(nodepool_pb2.UploadTaskRequest, message.SerializeToString()) == message
    piece = hive_pb2.UploadTaskPiece(data=LARGE)
    piece.header.options.dependencies.extend(["a", "b"])
    assert parse(hive_pb2.UploadTaskPiece, piece.SerializeToString()) == piece
    frame = hive_pb2.RaftFrame(messages=[b"m" * 64] * bounds.FRAME_MESSAGES_MAX)
    assert parse(hive_pb2.RaftFrame, frame.SerializeToString()) == frame


def test_fields_that_a_newer_client_knows_are_passed_over() -> None:
    unknown = b"".join(
        (
            b"\x98\x3f\x01",  # 1011, a number
            b"\xa1\x3f" + bytes(8),  # 1012, eight bytes
            b"\xad\x3f" + bytes(4),  # 1013, four
            b"\xb2\x3f\x02hi",  # 1014, a text
        )
    )
    data = unknown * (UNKNOWN_FIELDS_MAX // 4 - 1) + nodepool_pb2.UploadTaskRequest(task_data=LARGE).SerializeToString()
    assert parse(nodepool_pb2.UploadTaskRequest, data).task_data == LARGE


def _nested(*, times: int) -> bytes:
    options = hive_pb2.TaskOptions(dependencies=[""]).SerializeToString() * times
    header = hive_pb2.UploadTaskHeader.DESCRIPTOR.fields_by_name["options"].number
    body = bytes((header << 3 | 2,)) + _size(len(options)) + options
    piece = hive_pb2.UploadTaskPiece.DESCRIPTOR.fields_by_name["header"].number
    return bytes((piece << 3 | 2,)) + _size(len(body)) + body


def _size(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def test_the_wire_form_written_here_is_protobufs() -> None:
    assert len(hive_pb2.UploadTaskPiece.FromString(_nested(times=300)).header.options.dependencies) == 300


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (nodepool_pb2.UploadTaskRequest, EMPTY_DEPENDENCY * (1 << 20)),
        (hive_pb2.UploadTaskPiece, _nested(times=1 << 18)),
        (hive_pb2.RaftFrame, hive_pb2.RaftFrame(messages=[b""]).SerializeToString() * (1 << 18)),
    ],
    ids=["list", "list within", "frame"],
)
def test_a_great_many_empty_entries_are_refused_before_they_are_built(kind: type[Message], data: bytes) -> None:
    with pytest.raises(MalformedError, match="must not have so many fields"):
        parse(kind, data)


@pytest.mark.parametrize(
    "tail", [b"\x0a\xff\xff\xff\x7f", b"\x80" * 11, b"\x0a", b"\x0d\0"], ids=lambda tail: tail.hex()
)
@pytest.mark.parametrize("size", [0, COUNTED_FROM_BYTES])
def test_bytes_that_are_no_message_are_refused_whatever_their_size(tail: bytes, size: int) -> None:
    number = nodepool_pb2.UploadTaskRequest.DESCRIPTOR.fields_by_name["task_data"].number
    data = bytes((number << 3 | 2,)) + _size(size) + bytes(size) + tail
    with pytest.raises(DecodeError):
        nodepool_pb2.UploadTaskRequest.FromString(data)
    with pytest.raises(MalformedError):
        parse(nodepool_pb2.UploadTaskRequest, data)


def test_as_many_fields_as_the_table_allows_may_be_there() -> None:
    assert fields_max(nodepool_pb2.LoginRequest.DESCRIPTOR) == UNKNOWN_FIELDS_MAX + 2
    options = len(hive_pb2.TaskOptions.DESCRIPTOR.fields) - 1 + DEPENDENCIES_MAX + UNKNOWN_FIELDS_MAX
    header = UNKNOWN_FIELDS_MAX + 1 + 1 + options
    assert fields_max(hive_pb2.UploadTaskPiece.DESCRIPTOR) == UNKNOWN_FIELDS_MAX + 1 + 1 + header


def test_an_answer_of_a_whole_hive_is_parsed_as_it_was_sent() -> None:
    ids = ["n" * 26] * 4_096
    answer = hive_pb2.JoinResponse(
        members=[b"r" * 400] * 4_096, node_ids=ids, voter_ids=ids, leader_addresses=["a"] * 16
    )
    assert parse_answer(hive_pb2.JoinResponse, answer.SerializeToString(), "a node") == answer


def test_an_answer_of_more_fields_than_a_hive_has_use_for_is_refused_before_they_are_built() -> None:
    data = hive_pb2.JoinResponse(members=[b""] * (ANSWER_FIELDS_MAX + 1)).SerializeToString()
    with pytest.raises(HiveError, match="a node answers what is no JoinResponse") as caught:
        parse_answer(hive_pb2.JoinResponse, data, "a node")
    assert caught.value.code is Code.PEER_REJECTED
