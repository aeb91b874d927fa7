"""The protobuf wire format, as far as ONNX files need it: messages → fields, and fields → messages, without a library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Fields = dict[int, list[Any]]
"""Field number → its values in order: whole numbers, or views of bytes."""

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


def read_fields(data: memoryview) -> Fields:
    """One message of the wire format.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    fields: Fields = {}
    for number, value in iterate_fields(data):
        fields.setdefault(number, []).append(value)
    return fields


def iterate_fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of one message in their order, as number and value.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    for number, value, _ in pieces(data):
        yield number, value


def pieces(data: memoryview) -> Iterator[tuple[int, Any, memoryview]]:
    """As `iterate_fields`, with the bytes of each field as they stand in the message.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    position = 0
    while position < len(data):
        start = position
        key, position = read_varint(data, position)
        if not 8 <= key < 1 << 32:
            raise ValueError(f'field key {key}')
        wire = key & 7
        if wire == VARINT:
            value: Any
            value, position = read_varint(data, position)
        else:
            if wire == BYTES:
                size, position = read_varint(data, position)
            elif wire in (FIXED_64, FIXED_32):
                size = 8 if wire == FIXED_64 else 4
            else:
                raise ValueError(f'wire type {wire}')
            if size > len(data) - position:
                raise ValueError('a field runs over the end of the file')
            value = data[position : position + size]
            position += size
        yield key >> 3, value, data[start:position]


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """A whole number of up to 64 bits, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError('varint of more than 64 bits')


def text(fields: Fields, number: int) -> str:
    """A text field; empty where it is left out."""
    return str(fields[number][0], 'utf-8') if number in fields else ''


def signed(value: int) -> int:
    """An int64 out of its 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def varints(entries: Iterable[Any]) -> Iterator[int]:
    """Repeated whole numbers, packed or one by one."""
    for entry in entries:
        if isinstance(entry, int):
            yield signed(entry)
            continue
        position = 0
        while position < len(entry):
            value, position = read_varint(entry, position)
            yield signed(value)


def floats(entries: Iterable[Any], dtype: str) -> npt.NDArray[Any]:
    """Repeated floats, packed or one by one."""
    return np.frombuffer(b''.join(entries), dtype).astype(dtype[1:])


def varint(value: int) -> bytes:
    """A whole number; negative ones as int64."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, value: int | float | str | bytes | memoryview) -> bytes:
    """One field: a whole number, a float of 32 bits, a text, or the bytes of a message."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | FIXED_32) + np.float32(value).tobytes()
    content = value.encode() if isinstance(value, str) else bytes(value)
    return varint(number << 3 | BYTES) + varint(len(content)) + content
