"""Parse ``--cfg-options``: command-line words to settings. Only literals are read; nothing is executed.

mmengine's own parser recurses infinitely on ``[dict(type='X')]``.
"""
from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from detkit.registry import ConfigError


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Parse ``['a.b=1', 'c=[dict(type=X), {k: 2}]', 'd=1,2']`` to ``{'a.b': 1, 'c': [{'type': 'X'}, {'k': 2}], 'd': [1, 2]}``.

    Values are literals: numbers, true/false, None, strings with or without quotes, lists, tuples, dicts, ``dict(...)``. Unquoted words
    are strings, also inside brackets. Nothing is executed.

    Raises:
        ConfigError: no ``=``, no key, or brackets that are not a valid literal.
    """
    options = {}
    for word in words:
        key, equals, value = word.partition('=')
        if not equals or not key.strip():
            raise ConfigError(f"--cfg-options takes KEY=VALUE, not '{word}'. A value with spaces wants quotes: \"key=[1, 2]\".")
        options[key.strip()] = parse_value(value.strip(), key)
    return options


def parse_value(text: str, key: str) -> Any:
    if not text.startswith(('[', '(', '{', 'dict(', '"', "'")):
        return [parse_word(part.strip()) for part in text.split(',') if part.strip()] if ',' in text else parse_word(text)
    try:
        return literal(ast.parse(text, mode='eval').body, text)
    except SyntaxError as error:
        raise ConfigError(f'--cfg-options {key}={text}: not a literal ({error.msg}). Put strings in quotes; write dicts as '
                          f"dict(type='X') or {{'type': 'X'}}.") from error


def parse_word(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {'true': True, 'false': False, 'none': None}.get(text.lower(), text)


def literal(node: ast.expr, text: str) -> Any:
    """Return the value of a syntax tree that contains only literals.

    Raises:
        SyntaxError: it contains something else, such as a call.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [literal(item, text) for item in items]
        case ast.Tuple(elts=items):
            return tuple(literal(item, text) for item in items)
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {literal(k, text): literal(v, text) for k, v in zip(keys, values)}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=words) if all(w.arg for w in words):
            return {w.arg: literal(w.value, text) for w in words}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name() | ast.Attribute() | ast.BinOp():           # word, mmdet.X, data/coco
            return parse_word(ast.get_source_segment(text, node))
    raise SyntaxError(f"'{ast.get_source_segment(text, node)}' is none")
