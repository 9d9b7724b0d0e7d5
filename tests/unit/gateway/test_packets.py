"""Packets are judged without I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.errors import InvalidRequest
from flow_manager.gateway.packets import MAX_CONTROL, RESERVED_EVENTS, Event, StrictPacket, read_event, read_header

LIMIT = 1000


def event(text: str) -> Event:
    return read_event(read_header(text.encode()), LIMIT)


@pytest.mark.parametrize(
    ("text", "type_", "attachments", "namespace", "number", "body"),
    [
        ("0", 0, 0, "/", None, b""),
        ('0{"token":"x"}', 0, 0, "/", None, b'{"token":"x"}'),
        ("0/admin,{}", 0, 0, "/admin", None, b"{}"),
        ("0/admin", 0, 0, "/admin", None, b""),
        ('2["a"]', 2, 0, "/", None, b'["a"]'),
        ('212["a"]', 2, 0, "/", 12, b'["a"]'),
        ('2/ns,12["a"]', 2, 0, "/ns", 12, b'["a"]'),
        ('51-["a",{"_placeholder":true,"num":0}]', 5, 1, "/", None, b'["a",{"_placeholder":true,"num":0}]'),
        ('599-/ns,7["a"]', 5, 99, "/ns", 7, b'["a"]'),
    ],
)
def test_a_header_is_read(text, type_, attachments, namespace, number, body):
    header = read_header(text.encode())
    assert (header.type, header.attachments, header.namespace, header.id, header.body) == (
        type_,
        attachments,
        namespace,
        number,
        body,
    )


@pytest.mark.parametrize("raw", [b"", b"9", b"x", b"7[]", b"2" + b"1" * 16 + b"[]", b"2/\xff,[]", b"\x00"])
def test_what_has_no_header_is_refused(raw):
    with pytest.raises(InvalidRequest):
        read_header(raw)


@pytest.mark.parametrize(
    ("text", "name", "payload"),
    [
        ('2["a"]', "a", {}),
        ('2["a",null]', "a", {}),
        ('2["a",{"b":1}]', "a", {"b": 1}),
        ('2["a","text"]', "a", "text"),
        ('2["a",0]', "a", 0),
        ('2["a",[]]', "a", []),
    ],
)
def test_an_event_has_a_name_and_a_payload(text, name, payload):
    read = event(text)
    assert (read.refusal, read.name, read.payload) == (None, name, payload)


@pytest.mark.parametrize(
    "body",
    ["", "{}", "[]", "true", '"a"', "[1]", "[null]", "[[]]", '[""]', '["a",1,2]', '["a",NaN]', '["a"', "[" * 100_000]
    + [f'["{name}"]' for name in RESERVED_EVENTS],
)
def test_a_refused_event_keeps_its_acknowledgement_id(body):
    read = read_event(read_header(b"25" + body.encode()), 10**6)
    assert read.id == 5
    assert read.refusal is not None
    assert read.refusal.code == "invalid_request"


@pytest.mark.parametrize("text", ['51-5["a",{}]', '50-5["a"]', '599-5["a"]'])
def test_binary_is_refused(text):
    assert event(text).refusal.code == "invalid_request"
    assert event(text).id == 5


@pytest.mark.parametrize(("size", "refused"), [(LIMIT - 2, False), (LIMIT + 300, True)])
def test_a_payload_is_measured_before_it_is_parsed(size, refused):
    read = event('25["a","' + "x" * size + '"]')
    assert (read.refusal is not None) is refused
    if refused:
        assert (read.refusal.code, read.id, read.refusal.details["limit"]) == ("payload_too_large", 5, LIMIT)


@given(st.binary(max_size=200) | st.from_regex(rb"[0-6]([0-9]{1,3}-)?(/[a-z]*,)?[0-9]*[\[{\"].{0,60}", fullmatch=True))
def test_no_packet_raises_anything_but_a_refusal(raw):
    StrictPacket(encoded_packet=raw or b"x")
    try:
        header = read_header(raw)
    except InvalidRequest:
        return
    read = read_event(header, LIMIT)
    assert read.id == header.id
    assert (read.refusal is None) == bool(read.name)
    assert read.name not in RESERVED_EVENTS


def test_the_librarys_packet_class_waits_for_no_attachment():
    packet = StrictPacket(encoded_packet='599999999-["a",{"_placeholder":true,"num":0}]')
    assert packet.attachment_count == 0
    assert packet.refusal is not None


def test_the_librarys_packet_class_still_writes_what_clients_read():
    assert StrictPacket(0, {"sid": "x"}, namespace="/").encode() == '0{"sid":"x"}'
    assert StrictPacket(4, data={"message": "no"}, namespace="/a").encode() == '4/a,{"message":"no"}'


def test_a_connect_is_measured_before_it_is_parsed():
    """Nobody has proved who they are by then; four megabytes of brackets took most of a second."""
    assert StrictPacket(encoded_packet='0{"token":"' + "x" * 1000 + '"}').refusal is None
    packet = StrictPacket(encoded_packet="0" + "[" * MAX_CONTROL + "]")
    assert packet.data is None
    assert packet.refusal is not None
    assert (packet.refusal.code, packet.refusal.details["limit"]) == ("payload_too_large", MAX_CONTROL)
