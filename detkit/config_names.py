"""Which names a config file sets, reads and takes from its bases: found in its text, nothing is run.

A top-level name means only what the files do with it. One that no file reads afterwards changes nothing.
"""
from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

# What is read of a config. Any other key at the top is a variable of the file: it means only what the file does with it.
READ = frozenset("""
    model data_preprocessor train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg optim_wrapper param_scheduler
    auto_scale_lr val_evaluator test_evaluator default_hooks custom_hooks load_from resume work_dir launcher env_cfg log_processor
    log_level visualizer default_scope randomness experiment_name custom_imports model_wrapper_cfg find_unused_parameters sync_bn
    compile activation_checkpointing efficient_conv_bn_eval tta_model tta_pipeline amp channels_last trusted_checkpoints
    """.split())

BASE = '_base_'
INSIDE_TEXT = 'stands inside a longer text or an expression'
TEMPLATE = re.compile(r'\{\{\s*_base_\.(\w+)[\w.]*\s*\}\}')          # {{ _base_.name.key }}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try)


@dataclass
class ConfigNames:
    """The names of one config file. Lines count from 1. Shared by all who ask for them: not to be changed."""
    bound: dict[str, int] = field(default_factory=dict)         # name set at the top -> line of the last place
    values: dict[str, object] = field(default_factory=dict)     # those set to a literal -> that value
    used: set[str] = field(default_factory=set)                 # set here and read here afterwards
    imported: set[str] = field(default_factory=set)             # modules, classes and functions
    from_bases: set[str] = field(default_factory=set)           # names of its bases that it reads
    templates: set[str] = field(default_factory=set)            # those of them in {{_base_.name}}
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
    status = path.stat()
    return parse_names(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=512)
def parse_names(path: Path, changed: int, size: int) -> ConfigNames:
    """``config_names`` of the file as it was when it was changed last."""
    text = path.read_text(encoding='utf-8-sig')
    return names_of_module(ast.parse(text, str(path)), text) if path.suffix == '.py' else names_of_data(load_data(path, text), text)


def load_data(path: Path, text: str) -> dict:
    """The dict in a JSON or YAML file; templates without quotes are read as strings."""
    text = re.sub(r'(?<=[:,\[\s])(\{\{[^{}]*\}\})(?=\s*([,\]}\n]|$))', r'"\1"', text)
    if path.suffix == '.json':
        content = json.loads(text)
    else:
        import yaml
        content = yaml.load(text, Loader=yaml.Loader)       # as mmengine reads it: dumped configs have tuples
    if not isinstance(content, dict):
        raise ValueError(f'holds a {type(content).__name__}, not keys with values')
    return content


def names_of_data(content: dict, text: str) -> ConfigNames:
    for value in strings_of(content):
        if TEMPLATE.search(value) and not TEMPLATE.fullmatch(value):
            raise ValueError(f"'{value}': {{{{_base_...}}}} {INSIDE_TEXT} and has no effect there. Write the whole value.")
    templates = set(TEMPLATE.findall(text))
    return ConfigNames(
        bound={str(key): line_of_key(str(key), text) for key in content if key != BASE},
        values={str(key): value for key, value in content.items() if key != BASE and '{{' not in str(value)},
        from_bases=templates, templates=templates, bases=listed_bases(content.get(BASE, [])), reads_nothing='{{' not in text)


def listed_bases(bases: object) -> list[str]:
    """``_base_`` as a list.

    Raises:
        ValueError: it is neither a path nor a list of paths.
    """
    paths = [bases] if isinstance(bases, str) else bases
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f'_base_ is {bases!r}. It should be a path, or a list of paths')
    return list(paths)


def strings_of(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list, tuple)):
        for item in (node.values() if isinstance(node, dict) else node):
            yield from strings_of(item)


def line_of_key(key: str, text: str) -> int:
    found = re.search(rf'^\W*{re.escape(key)}["\']?\s*:', text, re.MULTILINE)
    return text.count('\n', 0, found.start()) + 1 if found else 1


def check_templates(module: ast.Module, text: str) -> None:
    """Raise SyntaxError for ``{{_base_.x}}`` where mmengine would leave a placeholder: in a longer text, or in an expression."""
    values: list[ast.AST] = []                              # where a template may stand
    for node in ast.walk(module):
        match node:
            case ast.Assign(value=value) | ast.AnnAssign(value=value) | ast.Expr(value=value):
                values.append(value)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Dict(values=items):
                values += items
            case ast.Call(func=ast.Name(id='dict'), keywords=words):
                values += [word.value for word in words]
    allowed = set(map(id, values))
    for node in ast.walk(module):
        source = ast.get_source_segment(text, node) or '' if isinstance(node, (ast.Constant, ast.JoinedStr, ast.Set)) else ''
        found = TEMPLATE.search(source)
        if not found or isinstance(node, ast.Constant) and not isinstance(node.value, str):
            continue
        is_whole = TEMPLATE.fullmatch(source.strip('"\'')) and id(node) in allowed
        inner = isinstance(node, ast.Set) and not source.startswith('{{')          # {x} of {{x}}
        is_text = isinstance(node, ast.Constant) and id(node) in map(id, (e.value for e in module.body if isinstance(e, ast.Expr)))
        if not (is_whole or inner or is_text):
            name = found[0].strip('{} ')
            raise SyntaxError(f'{found[0]} {INSIDE_TEXT} and has no effect there. Write {name}, as in {name} + ...',
                              ('', node.lineno, 0, source))


def names_of_module(module: ast.Module, text: str) -> ConfigNames:
    if TEMPLATE.search(text):
        check_templates(module, text)
    templates = {name for line in text.splitlines() for name in TEMPLATE.findall(line.split('#')[0])}
    found = ConfigNames(from_bases=set(templates), templates=templates)
    found.bases, found.is_lazy = bases_of(module)
    for statement in module.body:
        in_functions = {name for scope in walk_scopes(statement) for name in loaded(scope)}
        read = loaded(statement)
        found.reads_nothing &= not read
        names = {name: node.lineno for name, node in bound_names(statement)}
        inside = set(names) if isinstance(statement, COMPOUND) else set()      # `for k in ...: use(k)`
        found.used |= (read - set(names)) & set(found.bound) | read & inside | in_functions
        for name in read:
            found.readers.setdefault(name, []).extend(n for n in names if n != name)
        for name, line in names.items():
            found.used -= {name} - inside                  # what was read before is the value of before
            found.values.pop(name, None)
            found.bound[name] = line
        found.values.update(literals_of(statement))
        if isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
            found.imported |= set(names)
        if isinstance(statement, ast.Delete):
            for target in statement.targets:
                found.bound.pop(getattr(target, 'id', ''), None)
        if found.is_lazy:
            found.from_bases |= read
    found.from_bases |= base_attributes(module)
    found.used &= set(found.bound)
    for name in found.imported | {BASE}:
        found.bound.pop(name, None)
    return found


def literals_of(statement: ast.stmt) -> dict[str, object]:
    """The values of a plain ``name = literal`` or ``name, other = literal, literal``; templates (``{{ }}``) are no literals."""
    match statement:
        case ast.Assign(targets=[ast.Name() as name]):
            pairs = [(name, statement.value)]
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)) if (
                len(names) == len(values) and all(isinstance(name, ast.Name) for name in names)):
            pairs = list(zip(names, values))
        case _:
            return {}
    found = {}
    for name, node in pairs:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):                    # TypeError: {{x}}
            continue
        if '{{' not in repr(value):
            found[name.id] = value
    return found


def bound_names(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """The names that a top-level statement sets, also inside if, for and with, and the nodes that do; not those inside functions."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name, statement
        return
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name.split('.')[0], statement) for alias in statement.names if alias.name != '*')
        return
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop(0)
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
            return listed_bases(bases), False
    withs = [node for node in module.body if isinstance(node, ast.With)]
    return ['.' * n.level + (n.module or '') for node in withs for n in node.body if isinstance(n, ast.ImportFrom)], bool(withs)
