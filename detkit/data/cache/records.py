"""Convert a sample's dict to bytes and back, without pickle: a cache written by others must not be able to run code.

A record is MAGIC, the CRC-32 and the length of a JSON header, the header, and the arrays it names, each aligned to ALIGNMENT bytes.
"""
from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np

from detkit.structures import BitmapMasks, PolygonMasks

MAGIC = b'DKR1'
ALIGNMENT = 64
PREFIX = struct.Struct('<4sII')     # magic, CRC-32 of everything after the prefix, length of the header


class DamagedRecord(ValueError):
    """The bytes are not a record, or the record is incomplete."""


def encode(values: dict[str, Any]) -> bytes:
    """Encode ``values``: None, numbers, text, tuples, lists, dicts, arrays and masks, nested in any way.

    Raises:
        TypeError: a value cannot be stored; the message names its key.
    """
    arrays: list[np.ndarray] = []
    header = json.dumps({key: described(value, key, arrays) for key, value in values.items()}, separators=(',', ':')).encode()
    body, offset = [header], len(header)
    for array in arrays:
        gap = -(PREFIX.size + offset) % ALIGNMENT
        body += [bytes(gap), np.ascontiguousarray(array).data.cast('B') if array.size else b'']
        offset += gap + array.nbytes
    content = b''.join(body)
    return PREFIX.pack(MAGIC, zlib.crc32(content), len(header)) + content


def described(value: Any, key: str, arrays: list[np.ndarray]) -> Any:
    """Return the JSON representation of ``value`` in the header; its arrays are appended to ``arrays``."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        arrays.append(value)
        return {'array': [value.dtype.str, list(value.shape)]}
    if isinstance(value, np.generic):
        return {'scalar': [value.dtype.str, value.item()]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [described(v, key, arrays) for v in value]}
    if type(value) is dict:
        return {'dict': [[described(k, key, arrays), described(v, str(k), arrays)] for k, v in value.items()]}
    if isinstance(value, BitmapMasks):
        bits = np.packbits(value.masks) if len(value) else np.zeros(0, np.uint8)
        return {'bitmaps': [len(value), value.height, value.width, described(bits, key, arrays)]}
    if isinstance(value, PolygonMasks):
        parts = [[len(p) for p in polygons] for polygons in value.masks]
        points = [np.asarray(p, np.float64) for polygons in value.masks for p in polygons]
        return {'polygons': [parts, value.height, value.width, described(np.concatenate([*points, np.zeros(0)]), key, arrays)]}
    raise TypeError(f"'{key}' holds a {type(value).__name__}, which a cache cannot keep.")


def decode(record: memoryview | bytes) -> dict[str, Any]:
    """Return the values that were given to ``encode``. Arrays are copies.

    Raises:
        DamagedRecord: the bytes are not a record.
    """
    view = memoryview(record)
    header, offset = read_header(view)
    position = [offset]
    try:
        return {key: restored(value, view, position) for key, value in header.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedRecord(f'a record breaks off or is not of this kind ({error})') from error


def read_header(view: memoryview) -> tuple[dict, int]:
    """Return the header and its end position."""
    if len(view) < PREFIX.size:
        raise DamagedRecord(f'{len(view)} bytes are no record')
    magic, _, length = PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise DamagedRecord(f'it begins with {magic!r}, not with {MAGIC!r}')
    try:
        return json.loads(bytes(view[PREFIX.size:PREFIX.size + length])), PREFIX.size + length
    except ValueError as error:
        raise DamagedRecord(f'the header of a record cannot be read ({error})') from error


def restored(value: Any, view: memoryview, position: list[int]) -> Any:
    """Return the value that the header entry ``value`` represents. ``position``: start of the next array; it is advanced."""
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == 'array':
        dtype, shape = np.dtype(content[0]), tuple(content[1])
        start = position[0] + -position[0] % ALIGNMENT
        count = int(np.prod(shape, dtype=np.int64))
        position[0] = start + count * dtype.itemsize
        return np.frombuffer(view[start:position[0]], dtype, count).reshape(shape).copy()
    if kind == 'scalar':
        return np.dtype(content[0]).type(content[1])
    if kind in ('tuple', 'list'):
        return {'tuple': tuple, 'list': list}[kind](restored(v, view, position) for v in content)
    if kind == 'dict':
        return {restored(k, view, position): restored(v, view, position) for k, v in content}
    parts, height, width, array = content
    array = restored(array, view, position)
    if kind == 'bitmaps':
        bits = np.unpackbits(array, count=parts * height * width) if parts else np.zeros(0, np.uint8)
        return BitmapMasks(bits.reshape(parts, height, width), height, width)
    pieces = iter(np.split(array, np.cumsum([n for polygons in parts for n in polygons])[:-1]) if any(parts) else [])
    return PolygonMasks([[next(pieces) for _ in polygons] for polygons in parts], height, width)


def check(record: memoryview | bytes) -> None:
    """Raise DamagedRecord unless all bytes are as written."""
    view = memoryview(record)
    read_header(view)
    if zlib.crc32(view[PREFIX.size:]) != PREFIX.unpack_from(view)[1]:
        raise DamagedRecord('its checksum is wrong')
