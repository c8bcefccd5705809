"""What goes into a record comes out of it."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.data.cache.records import DamagedRecord, check, decode, encode
from detkit.structures import BitmapMasks, PolygonMasks

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=6), plain, max_size=5))
def test_plain_values_keep_their_types(values: dict):
    assert repr(decode(encode(values))) == repr(values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(['uint8', 'float32', 'int64', 'bool', '>i2']),
                          st.lists(st.integers(0, 4), min_size=1, max_size=3)), max_size=4))
def test_arrays_keep_type_shape_and_values(kinds: list):
    arrays = [np.asarray(np.random.default_rng(i).random(shape) * 3).astype(dtype) for i, (dtype, shape) in enumerate(kinds)]
    for ours, theirs in zip(decode(encode(dict(a=arrays, again=tuple(arrays))))['a'], arrays, strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
        assert ours.flags.writeable


def test_a_view_is_kept_as_it_looks():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(decode(encode(dict(img=image[:, ::-1])))['img'], image[:, ::-1])


@pytest.mark.parametrize('masks', [
    BitmapMasks(np.random.default_rng(0).integers(0, 2, (3, 7, 5), dtype=np.uint8), 7, 5), BitmapMasks([], 7, 5), PolygonMasks([], 7, 5),
    PolygonMasks([[np.array([0., 0, 3, 0, 3, 3])], [np.array([1., 1, 2, 1, 2, 2, 1, 2]), np.array([0., 0, 1, 0, 1, 1])]], 7, 5)])
def test_masks(masks: BitmapMasks | PolygonMasks):
    again = decode(encode(dict(m=masks)))['m']
    assert type(again) is type(masks) and (again.height, again.width, len(again)) == (7, 5, len(masks))
    assert np.array_equal(again.to_ndarray(), masks.to_ndarray())
    if isinstance(masks, PolygonMasks):
        assert [[p.tolist() for p in polygons] for polygons in again.masks] == [[p.tolist() for p in polygons] for polygons in masks.masks]


def test_what_cannot_be_kept_is_named():
    with pytest.raises(TypeError, match="'rng' holds a Generator"):
        encode(dict(rng=np.random.default_rng(0)))
    with pytest.raises(TypeError, match="'odd' holds a ndarray"):
        encode(dict(odd=np.array([object()])))


def test_damage_is_noticed():
    record = encode(dict(img=np.arange(200, dtype=np.uint8), name='x'))
    check(record)
    for broken in (record[:6], b'junk' + record[4:], record[:4] + bytes(8) + record[12:], record[:40]):
        with pytest.raises(DamagedRecord):
            decode(broken)
    flipped = bytearray(record)
    flipped[-1] ^= 1
    with pytest.raises(DamagedRecord, match='checksum'):
        check(bytes(flipped))
