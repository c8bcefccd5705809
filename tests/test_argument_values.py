"""Types from annotations, ranges from names."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from detkit.argument_values import Range, annotations_of, range_fault, type_fault, value_fault


@pytest.mark.parametrize('value, kind', [
    (3, int), (3, float), (3., float), (np.float32(3), float), (np.int64(3), int), (math.inf, float), (True, bool), ('a', str),
    (Path('a'), str), (None, int | None), ('auto', bool | Literal['auto']), ([1, 2], tuple[int, int]), ((1, 2, 3), tuple[int, ...]),
    ([], list[int]), ((1, (2, 3)), list[int | tuple[int, int]]), (dict(a=1), dict), (dict(a=(1, 2)), dict[str, float | tuple[float, ...]]),
    ([[(1, 2)], 3], Any), ('x', Callable), (torch.ones(1), float), (torch.nn.ReLU(), dict), (np.ones(3), Sequence[float])])
def test_a_value_that_fits(value: Any, kind: Any):
    assert type_fault(value, kind) is None


@pytest.mark.parametrize('value, kind, text, keys', [
    (True, int, 'is True; it should be a whole number.', ()), (2.0, int, 'is 2.0; it should be a whole number.', ()),
    ('0.3', float, "is '0.3'; it should be a number.", ()), (1, bool, 'is 1; it should be True or False.', ()),
    (3, str, 'is 3; it should be text.', ()), (None, int, 'is None; it should be a whole number.', ()),
    ('x', int | None, "is 'x'; it should be a whole number or None.", ()),
    ('x', bool | Literal['auto'], "is 'x'; it should be True or False or 'auto'.", ()),
    ('mean', Literal['a', 'b', 'c'], "is 'mean'; it should be 'a', 'b' or 'c'.", ()),
    ([1, '2'], list[int], "is '2'; it should be a whole number.", ('[1]',)),
    ([1, 2, 3], tuple[int, int], 'is [1, 2, 3]; it should be 2 values.', ()), (3, tuple[int, ...], 'is 3; it should be a list.', ()),
    ([[1, 2], [3, 'x']], tuple[int, int] | Sequence[tuple[int, int]], "is 'x'; it should be a whole number.", ('[1]', '[1]')),
    ('nms', dict | None, "is 'nms'; it should be a dict or None.", ()),
    (dict(a=1, b='x'), dict[str, float], "is 'x'; it should be a number.", ('b',))])
def test_a_value_that_does_not_fit(value: Any, kind: Any, text: str, keys: tuple[str, ...]):
    fault = type_fault(value, kind)
    assert (str(fault), fault.keys) == (text, keys)


def test_the_bounds_of_a_range():
    assert 0 in Range(0, 1) and 1 in Range(0, 1) and 1.1 not in Range(0, 1)
    assert 0 not in Range(0, above=True) and 1e-9 in Range(0, above=True)
    assert [str(r) for r in (Range(-1), Range(0, above=True), Range(0, 1), Range(0, 1, above=True))] == \
        ['at least -1', 'above 0', 'in [0, 1]', 'in (0, 1]']


def test_a_range_is_found_by_name_and_the_class_comes_first():
    assert str(range_fault(-3, 'num_classes')) == 'is -3; it should be at least 1.'
    assert range_fault(-0.5, 'offset', 'SinePositionalEncoding') is None
    assert str(range_fault(-0.5, 'offset', 'MlvlPointGenerator')) == 'is -0.5; it should be in [0, 1].'
    assert range_fault([4, [8, 0]], 'strides').keys == ('[1]', '[1]')
    assert range_fault(dict(img=(114, 256)), 'pad_val').keys == ('img', '[1]')
    assert range_fault('auto', 'num_classes') is None and range_fault(True, 'num_classes') is None


def test_a_nan_is_no_number_whatever_the_name():
    assert str(range_fault(math.nan, 'of_no_line')) == 'is nan; it should be a number.'


def test_the_type_is_told_before_the_range():
    assert str(value_fault('-3', int, 'num_classes')) == "is '-3'; it should be a whole number."


def test_annotations_that_cannot_be_resolved_are_left_out():
    def function(a: int, b: NoSuchName) -> None:        # noqa: F821
        """A function of which one annotation exists for type checkers alone."""
    assert annotations_of(function) == {}
