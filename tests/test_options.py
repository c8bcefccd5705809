"""Words of the command line become settings, and nothing else."""
from __future__ import annotations

from typing import Any

import pytest

from detkit.options import parse_options
from detkit.registry import ConfigError


@pytest.mark.parametrize('word, value', [
    ('a=1', 1), ('a=-1.5e-3', -1.5e-3), ('a=true', True), ('a=False', False), ('a=None', None), ('a=text', 'text'), ('a=', ''),
    ('a=data/coco/x-1.json', 'data/coco/x-1.json'), ('a=https://x.y/z?b=1', 'https://x.y/z?b=1'), ('a="1"', '1'), ("a='x y'", 'x y'),
    ('a=1,2', [1, 2]), ('a=x,y', ['x', 'y']), ('a=[1,2]', [1, 2]), ('a=(1,(2,3))', (1, (2, 3))), ('a=[(1, 2), [x, 3]]', [(1, 2), ['x', 3]]),
    ("a=[dict(type='A', b=dict(c=[1]))]", [dict(type='A', b=dict(c=[1]))]), ('a=[dict(type=A)]', [dict(type='A')]),
    ("a={'x': -1, 2: None}", {'x': -1, 2: None}), ('a=dict()', {}), ('a=[mmdet.X, data/y]', ['mmdet.X', 'data/y']), ('a=[]', []),
    ('a=(1,)', (1,)), ('a=[true]', [True])])
def test_values_are_literals(word: str, value: Any) -> None:
    assert parse_options([word]) == {'a': value}
    assert type(parse_options([word])['a']) is type(value)


@pytest.mark.parametrize('word', ['a', '=1', 'a=[1', 'a=dict(1)', "a=[__import__('os')]", "a=dict(x=open('y'))", 'a=[f"{1}"]',
                                  'a=[x for x in y]', 'a=dict(**b)', 'a=[lambda: 1]', "a=['x'.upper()]"])
def test_what_is_no_literal_is_refused_and_not_run(word: str) -> None:
    with pytest.raises(ConfigError, match='--cfg-options'):
        parse_options([word])
