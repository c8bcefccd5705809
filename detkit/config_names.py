"""Which names a config file sets, reads and takes from its bases: found in its text, nothing is run.

A top-level name means only what the files do with it. One that no file reads afterwards changes nothing.
"""
from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BASE = '_base_'
TEMPLATE = re.compile(r'\{\{\s*_base_\.(\w+)')          # {{ _base_.name.key }}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try)


@dataclass
class ConfigNames:
    """The names of one config file. Lines count from 1."""
    bound: dict[str, int] = field(default_factory=dict)         # name set at the top -> line of the last place
    values: dict[str, object] = field(default_factory=dict)     # those set to a literal -> that value
    used: set[str] = field(default_factory=set)                 # set here and read here afterwards
    from_bases: set[str] = field(default_factory=set)           # names of its bases that it reads
    readers: dict[str, list[str]] = field(default_factory=dict)  # name -> top-level names made from it
    bases: list[str] = field(default_factory=list)              # as they are written: paths, or modules of read_base()
    is_lazy: bool = False                                       # its bases are modules of read_base()
    reads_nothing: bool = True                                  # no name is read anywhere, as in a dumped config


def config_names(path: Path) -> ConfigNames:
    """Return the names of the config file ``path``.

    Raises:
        SyntaxError: the file is no Python (``.py``).
        ValueError: the file is no JSON (``.json``) or YAML (``.yaml``, ``.yml``).
    """
    text = path.read_text(encoding='utf-8-sig')
    return names_of_module(ast.parse(text, str(path)), text) if path.suffix == '.py' else names_of_data(load_data(path, text), text)


def load_data(path: Path, text: str) -> dict:
    """The dict in a JSON or YAML file; templates without quotes are read as strings."""
    text = re.sub(r'(?<!["\'{])(\{\{[^{}]*\}\})(?!["\'}])', r'"\1"', text)
    if path.suffix == '.json':
        content = json.loads(text)
    else:
        import yaml
        content = yaml.load(text, Loader=yaml.Loader)       # as mmengine reads it: dumped configs have tuples
    if not isinstance(content, dict):
        raise ValueError(f'holds a {type(content).__name__}, not keys with values')
    return content


def names_of_data(content: dict, text: str) -> ConfigNames:
    bases = content.get(BASE, [])
    return ConfigNames(
        bound={str(key): line_of_key(str(key), text) for key in content if key != BASE},
        values={str(key): value for key, value in content.items() if key != BASE and '{{' not in str(value)},
        from_bases=set(TEMPLATE.findall(text)), bases=[bases] if isinstance(bases, str) else list(bases),
        reads_nothing='{{' not in text)


def line_of_key(key: str, text: str) -> int:
    found = re.search(rf'^\W*{re.escape(key)}["\']?\s*:', text, re.MULTILINE)
    return text.count('\n', 0, found.start()) + 1 if found else 1


def names_of_module(module: ast.Module, text: str) -> ConfigNames:
    found = ConfigNames(from_bases=set(TEMPLATE.findall(text)))
    found.bases, found.is_lazy = bases_of(module)
    imported, last = set(), {}                            # name -> number of the statement that set it last
    for number, statement in enumerate(module.body):
        in_functions = {name for scope in walk_scopes(statement) for name in loaded(scope)}
        read = loaded(statement)
        found.reads_nothing &= not read
        names = {name: node.lineno for name, node in bound_names(statement)}
        inside = set(names) if isinstance(statement, COMPOUND) else set()      # `for k in ...: use(k)`
        found.used |= (read - set(names)) & set(last) | read & inside | in_functions
        for name in read:
            found.readers.setdefault(name, []).extend(n for n in names if n != name)
        for name, line in names.items():
            found.used -= {name} - inside
            found.values.pop(name, None)
            last[name], found.bound[name] = number, line
        if isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
            imported |= set(names)
        value = literal_of(statement, text)
        if value is not None:
            found.values[statement.targets[0].id] = value[0]
        found.from_bases |= read
    found.from_bases |= base_attributes(module)
    found.used &= set(found.bound)
    for name in imported | {BASE}:
        found.bound.pop(name, None)
    return found


def literal_of(statement: ast.stmt, text: str) -> tuple[object] | None:
    """``(value,)`` of a plain ``name = literal``; templates (``{{ }}``) are no literals."""
    if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)):
        return None
    if '{{' in (ast.get_source_segment(text, statement.value) or ''):
        return None
    try:
        return (ast.literal_eval(statement.value),)
    except ValueError:
        return None


def bound_names(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """The names that a top-level statement sets, also inside if, for and with, and the nodes that do; not those inside functions."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name, statement
        return
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name.split('.')[0], statement) for alias in statement.names)
        return
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)) and node is not statement:
            yield from bound_names(node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node
        elif not isinstance(node, (*SCOPES, *COMPREHENSIONS)):
            queue.extend(ast.iter_child_nodes(node))


def loaded(node: ast.AST) -> set[str]:
    """Names that are read anywhere in ``node``, those that are changed in place (``x += 1``, ``x.append(...)``) among them."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    own = {n.id for c in ast.walk(node) if isinstance(c, ast.comprehension) for n in ast.walk(c.target) if isinstance(n, ast.Name)}
    return names - own - {'dict', BASE}


def walk_scopes(node: ast.AST) -> Iterator[ast.AST]:
    return (n for n in ast.walk(node) if isinstance(n, SCOPES))


def base_attributes(module: ast.Module) -> set[str]:
    """``name`` of every ``_base_.name``, ``_base_['name']`` and ``_base_.get('name')``."""
    found = set()
    for node in ast.walk(module):
        match node:
            case ast.Attribute(value=ast.Name(id='_base_'), attr=name):
                found.add(name)
            case ast.Subscript(value=ast.Name(id='_base_'), slice=ast.Constant(value=str() as name)):
                found.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id='_base_')), args=[ast.Constant(value=str() as name), *_]):
                found.add(name)
    return found


def bases_of(module: ast.Module) -> tuple[list[str], bool]:
    """The entries of ``_base_``, and False; or the modules inside ``with read_base():``, with their dots, and True."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == BASE:
            bases = eval(compile(ast.Expression(node.value), '_base_', 'eval'))    # as mmengine does: the file runs anyway
            return [bases] if isinstance(bases, str) else list(bases), False
    withs = [node for node in module.body if isinstance(node, ast.With)]
    return ['.' * n.level + (n.module or '') for node in withs for n in node.body if isinstance(n, ast.ImportFrom)], bool(withs)
