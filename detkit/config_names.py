"""Find the names that a config file sets, reads and takes from its bases, by parsing: nothing is executed.

A top-level name matters only if a file reads it afterwards.
"""
from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

# Config keys that are read. Any other top-level key is a variable of the file, used only by the config files themselves.
READ = frozenset("""
    model data_preprocessor train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg optim_wrapper param_scheduler
    auto_scale_lr val_evaluator test_evaluator default_hooks custom_hooks load_from resume work_dir launcher env_cfg log_processor
    log_level visualizer default_scope randomness experiment_name custom_imports model_wrapper_cfg find_unused_parameters sync_bn
    compile activation_checkpointing efficient_conv_bn_eval tta_model tta_pipeline amp channels_last trusted_checkpoints
    """.split())

BASE = '_base_'
BASE_SUFFIXES = ('.py', '.json', '.yaml', '.yml')
INSIDE_TEXT = 'stands inside a longer text'
TEMPLATE = re.compile(r'\{\{\s*_base_\.(\w+)[\w.]*\s*\}\}')          # {{ _base_.name.key }}
FILE_TEMPLATES = ('fileDirname', 'fileBasename', 'fileBasenameNoExtension', 'fileExtname')
OTHER_TEMPLATE = re.compile(r'\{\{\s*(file\w*|\$\w+)\s*\}\}')          # {{ fileDirname }}; {{ $NAME }} without a default
READS_ALL = frozenset({'locals', 'globals', 'vars', 'eval', 'exec'})     # functions that may read any name of the file
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
IMPORTS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try)


@dataclass
class ConfigNames:
    """The names of one config file. Line numbers start at 1. Cached and shared: do not change."""
    bound: dict[str, int] = field(default_factory=dict)         # name set at the top level -> line of its last assignment
    values: dict[str, object] = field(default_factory=dict)     # names set to a literal -> its value
    used: set[str] = field(default_factory=set)                 # set in this file and read here afterwards
    imported: set[str] = field(default_factory=set)             # modules, classes and functions
    from_bases: set[str] = field(default_factory=set)           # names of its bases that it reads
    templates: set[str] = field(default_factory=set)            # the subset used in {{_base_.name}}
    readers: dict[str, list[str]] = field(default_factory=dict)  # name -> top-level names computed from it
    bases: list[str] = field(default_factory=list)              # as written: paths, or modules of read_base()
    is_lazy: bool = False                                       # its bases are modules of read_base()
    reads_nothing: bool = True                                  # no name is read anywhere, as in a dumped config


def config_names(path: Path) -> ConfigNames:
    """Return the names of the config file ``path``.

    Raises:
        SyntaxError: the file is not valid Python (``.py``).
        ValueError: the file is not valid JSON (``.json``) or YAML (``.yaml``, ``.yml``).
    """
    status = path.stat()
    return parse_names(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=512)
def parse_names(path: Path, changed: int, size: int) -> ConfigNames:
    """Return ``config_names`` of the file; ``changed`` and ``size`` are cache keys."""
    text = path.read_text(encoding='utf-8-sig')
    check_file_templates(text)
    return names_of_module(ast.parse(text, str(path)), text) if path.suffix == '.py' else names_of_data(load_data(path, text), text)


def check_file_templates(text: str) -> None:
    """Raise SyntaxError for ``{{ fileName }}`` or ``{{ $NAME }}``, which mmengine would not replace."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in OTHER_TEMPLATE.finditer(line.split('#')[0]):
            if found[1] not in FILE_TEMPLATES:
                raise SyntaxError(f"{found[0]} stands for nothing. There are {', '.join(FILE_TEMPLATES)}, and {{{{$NAME:default}}}} for a "
                                  f'variable of the environment', ('', number, 0, line.strip()))


def load_data(path: Path, text: str) -> dict:
    """Return the dict in a JSON or YAML file; unquoted templates are read as strings.

    Raises:
        ValueError: the content is not a dict, or has a duplicate key.
    """
    text = re.sub(r'(?<=[:,\[\s])(\{\{[^{}]*\}\})(?=\s*([,\]}\n]|$))', r'"\1"', text)
    if path.suffix == '.json':
        content = json.loads(text, object_pairs_hook=dict_of_pairs)
    else:
        import yaml
        check_yaml_keys(yaml.compose(text, Loader=yaml.Loader))
        content = yaml.load(text, Loader=yaml.Loader)       # as mmengine reads it: dumped configs have tuples
    if not isinstance(content, dict):
        raise ValueError(f'holds a {type(content).__name__}, not keys with values')
    return content


def dict_of_pairs(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Return the dict of ``pairs``.

    Raises:
        ValueError: a duplicate key.
    """
    doubled = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
    if doubled is not None:
        raise ValueError(f"the key '{doubled}' stands there twice, and only the last would be read. Put both into one")
    return dict(pairs)


def check_yaml_keys(node: yaml.Node | None) -> None:
    """Raise ValueError for a duplicate key in a mapping anywhere in ``node``."""
    children = list(node.value) if isinstance(getattr(node, 'value', None), list) else []
    if children and isinstance(children[0], tuple):
        dict_of_pairs([(key.value, None) for key, _ in children if isinstance(key.value, str)])
        children = [value for _, value in children]
    for child in children:
        check_yaml_keys(child)


def names_of_data(content: dict, text: str) -> ConfigNames:
    for value in strings_of(content):
        if TEMPLATE.search(value) and not TEMPLATE.fullmatch(value):
            raise ValueError(f"'{value}': {{{{_base_...}}}} {INSIDE_TEXT} and has no effect there. Write the whole value.")
    templates = set(TEMPLATE.findall(text))
    check_base_name(content)
    return ConfigNames(
        bound={str(key): line_of_key(str(key), text) for key in content if key != BASE},
        values={str(key): value for key, value in content.items() if key != BASE and '{{' not in str(value)},
        from_bases=templates, templates=templates, bases=listed_bases(content.get(BASE, [])), reads_nothing='{{' not in text)


def listed_bases(bases: object) -> list[str]:
    """Return ``_base_`` as a list.

    Raises:
        ValueError: it is neither a path nor a list of paths.
    """
    paths = [bases] if isinstance(bases, str) else bases
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f'_base_ is {bases!r}. It should be a path, or a list of paths')
    return list(paths)


def check_base_name(values: dict[str, object]) -> None:
    """Raise ValueError for a name similar to ``_base_``, such as ``_base``, whose value contains config paths."""
    for name, value in values.items():
        paths = [value] if isinstance(value, str) else value
        if name != BASE and name.strip('_').lower() in ('base', 'bases') and isinstance(paths, (list, tuple)) and paths \
                and all(isinstance(path, str) and path.endswith(BASE_SUFFIXES) for path in paths):
            raise ValueError(f"'{name}' names configs, but nothing reads it. Write {BASE}")


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
    """Raise SyntaxError for ``{{_base_.x}}`` inside a longer text, where mmengine would leave a placeholder."""
    comments = {id(node.value) for node in module.body if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr) or isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            source = ast.get_source_segment(text, node) or ''
            found = TEMPLATE.search(source)
            if found and not TEMPLATE.fullmatch(source.strip('"\'')):
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
        inside = set(names) if isinstance(statement, COMPOUND) else assigned_inside(statement)     # `for k in ...: use(k)`
        found.used |= (read - set(names)) & set(found.bound) | read & inside | in_functions
        for name in read:
            found.readers.setdefault(name, []).extend(n for n in names if n != name)
        for name, line in names.items():
            found.used -= {name} - inside                  # earlier reads used the previous value
            found.values.pop(name, None)
            found.bound[name] = line
        found.values.update(literals_of(statement))
        found.imported |= {name for name, node in bound_names(statement) if isinstance(node, IMPORTS)}
        if isinstance(statement, ast.Delete):
            for target in statement.targets:
                found.bound.pop(getattr(target, 'id', ''), None)
        if found.is_lazy:
            found.from_bases |= read
    found.from_bases |= base_attributes(module)
    if READS_ALL & loaded(module):
        found.used |= set(found.bound)
    found.used &= set(found.bound)
    for name in found.imported | {BASE}:
        found.bound.pop(name, None)
    check_base_name({name: value for name, value in found.values.items() if name not in found.used})
    return found


def assigned_inside(statement: ast.stmt) -> set[str]:
    """Return the names that expressions in ``statement`` set: ``(name := value)``."""
    return {node.target.id for node in ast.walk(statement) if isinstance(node, ast.NamedExpr)}


def literals_of(statement: ast.stmt) -> dict[str, object]:
    """Return the values in ``name = literal`` or ``name, other = literal, literal``; templates (``{{ }}``) are not literals."""
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
    """Yield the names that a top-level statement sets, including inside if, for and with but not functions, and the AST nodes."""
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
    """Return the names read anywhere in ``node``, including names changed in place (``x += 1``, ``x.append(...)``)."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    own = {n.id for c in ast.walk(node) if isinstance(c, ast.comprehension) for n in ast.walk(c.target) if isinstance(n, ast.Name)}
    return names - own - {'dict', BASE}


def walk_scopes(node: ast.AST) -> Iterator[ast.AST]:
    return (n for n in ast.walk(node) if isinstance(n, SCOPES))


def base_attributes(module: ast.Module) -> set[str]:
    """Return ``name`` of every ``_base_.name``, ``_base_['name']`` and ``_base_.get('name')``."""
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
    """Return the entries of ``_base_`` and False; or the modules in ``with read_base():``, with leading dots, and True."""
    places = [(node, statement) for statement in module.body for name, node in bound_names(statement) if name == BASE]
    for number, (node, statement) in enumerate(places):
        if number or not (isinstance(statement, ast.Assign) and len(statement.targets) == 1 and statement.targets[0] is node):
            raise SyntaxError(f'{BASE} is read from one plain {BASE} = ... only', ('', node.lineno, 0, 'Put all bases into one list there'))
    for _, node in places:
        bases = eval(compile(ast.Expression(node.value), '_base_', 'eval'))    # as in mmengine: the file is executed anyway
        return listed_bases(bases), False
    withs = [node for node in module.body if isinstance(node, ast.With)]
    return ['.' * n.level + (n.module or '') for node in withs for n in node.body if isinstance(n, ast.ImportFrom)], bool(withs)
