"""Read config files by path or name, translate MMDetection's scope to detkit's, and apply command-line overrides.

Layer 0: imports mmengine's Config, but not torch. Every error in a config is a ConfigError that names file, line and key. A config
file is Python and is executed when it is read: read only files that you would run.
"""
from __future__ import annotations

import ast
import copy
import importlib
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.config.utils import ImportTransformer, RemoveAssignFromAST

from detkit import mmengine_patches
from detkit.config_checks import (
    check_file_settings,
    check_keys,
    check_kinds,
    check_old_settings,
    check_variable_options,
    contradicted_names,
    note_values,
)
from detkit.config_files import (
    SUFFIXES,
    FileTree,
    base_path,
    check_syntax,
    config_folder,
    config_roots,
    find_config,
    installed_path,
    located,
)
from detkit.config_names import READ, bound_names
from detkit.files import atomic_path
from detkit.options import parse_options
from detkit.recipe_variables import VARIABLES, with_derived
from detkit.registry import LIKE_MMPRETRAIN, OUR_SCOPES, PRETRAINING, ConfigError, did_you_mean
from detkit.renamed_settings import PLACES, SECTIONS, option_of_today

__all__ = ['READ', 'config_folder', 'config_roots', 'dump_config', 'find_config', 'load_config', 'without_yapf']

_reading = threading.RLock()


def load_config(source: str | Path | dict | Config, options: dict | Sequence[str] | None = None) -> Config:
    """Return a config ready for ``build_runner``: scopes translated, custom modules imported, overrides merged.

    ``source``: a ``.py``, ``.json`` or ``.yaml`` file; the name of a shipped config (``rtmdet_tiny_8xb32-300e_coco``, with or without
    folder and suffix); ``detkit::rtmdet/x.py``; a dict; or a Config, which is copied.
    ``options``: ``{'optim_wrapper.optimizer.lr': 0.01}``, or the words of ``--cfg-options`` (see ``parse_options``). A key without a dot
    may also name a variable of the file (``data_root``, ``max_epochs``); everything computed from the variable changes too.

    Raises:
        ConfigError: the file does not exist, invalid syntax, an unknown scope, a module that cannot be imported, or an override
            without effect.
    """
    options = parse_options(options) if options is not None and not isinstance(options, dict) else dict(options or {})
    if isinstance(source, (str, os.PathLike)):
        path = find_config(source)
        overrides = {k: v for k, v in options.items() if '.' not in k and not (k in READ and isinstance(v, (dict, type(None))))}
        tree = FileTree(path)
        cfg, variables = read_file(tree, overrides)
    else:
        tree = None
        cfg, variables = copy.deepcopy(source) if isinstance(source, Config) else Config(copy.deepcopy(source)), set()
        check_reader(cfg)
    without_yapf(cfg)
    check_kinds(cfg._cfg_dict)
    import_custom(cfg)
    translate_scope(cfg)
    with lazily():
        check_settings(cfg, tree, variables)
        if tree:
            object.__setattr__(cfg, '_notes', list(contradicted_names(tree, cfg._cfg_dict)))
    merge_options(cfg, options, variables)
    object.__setattr__(cfg, '__class__', LoadedConfig)
    with lazily():
        note_values(cfg)
    return cfg


def check_reader(cfg: Config) -> None:
    """Raise ConfigError for an unused name, or if mmengine's ``Config.fromfile`` read a file that sets variables of its bases.

    mmengine's reader does not pass such variables on to the bases.
    """
    path = Path(cfg.filename or '')
    if hasattr(cfg, '_variables') or path.suffix not in SUFFIXES or not path.is_file():
        return
    tree = FileTree(path.resolve())
    lost = sorted({name for file in tree.names for name in tree.settings(file)})
    if lost:
        raise ConfigError(f"{path}: mmengine's Config.fromfile does not pass {', '.join(lost)} on to the bases. Read the file with "
                          f'detkit.config.load_config, which does.')
    with lazily():
        check_file_settings(tree, cfg._cfg_dict)


class LoadedConfig(Config):
    """mmengine's Config; access to a section of MMDetection 2 raises an error with the current name."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise AttributeError(old_section_message(name) or str(error)) from None

    def __getitem__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise KeyError(old_section_message(name) or name) from None


def old_section_message(name: str) -> str | None:
    found = SECTIONS.get(name)
    return found and (f"the config has no '{name}', which is MMDetection 2's form. Now: {found[1]}. docs/configs.md has a table of both "
                      f'forms.')


def check_settings(cfg: Config, tree: FileTree | None, replaced: set[str]) -> None:
    """Raise ConfigError for a setting without effect. ``tree``: the files from which ``cfg`` was read, if any."""
    if tree:
        check_variable_options(tree, replaced)
        check_file_settings(tree, cfg._cfg_dict)
    else:
        check_old_settings(cfg._cfg_dict)
        check_keys(cfg)


@contextmanager
def lazily() -> Iterator[None]:
    """Access lazy objects in this context without importing them."""
    before, ConfigDict.lazy = ConfigDict.lazy, True
    try:
        yield
    finally:
        ConfigDict.lazy = before


def without_yapf(cfg: Config) -> None:
    """Make ``cfg.pretty_text`` skip yapf: mmengine's text is indented already, and yapf takes a second per call (at every checkpoint)."""
    object.__setattr__(cfg, '_format_python_code', False)


# ---------------------------------------------------------------------------------------------------------- reading
def read_file(tree: FileTree, overrides: dict[str, Any]) -> tuple[Config, set[str]]:
    """Read a config and its bases; top-level assignments named in ``overrides`` get the value given there.

    Returns the config and the names that were replaced.
    """
    replaced: set[str] = set()
    path = tree.root
    recipe_variables = tree.variables(list(tree.names))
    recipe_options = {name: (value,) if VARIABLES[name] == 'names' and isinstance(value, str) else value       # classes=cat
                      for name, value in overrides.items() if name in recipe_variables}
    overrides = {**overrides, **with_derived(recipe_options, '--cfg-options')}
    with _reading, our_reading(tree, overrides, replaced), located(path):
        cfg = Config.fromfile(str(path), import_custom_modules=False)
    imported = set().union(*(names.imported for names in tree.names.values()))
    object.__setattr__(cfg, '_imported_names', imported | getattr(cfg, '_imported_names', set()))
    with lazily():
        name_classes(cfg._cfg_dict, imported)
    return cfg, replaced


def name_classes(node: Any, skipped: Iterable[str] = ()) -> Any:
    """Replace classes and functions that a file imports beside ``_base_`` by their dotted names, which can be written to a file."""
    if isinstance(node, (type, FunctionType)) and getattr(sys.modules.get(node.__module__), node.__qualname__, None) is node:
        return f'{node.__module__}.{node.__qualname__}'
    if isinstance(node, dict):
        for key, value in dict.items(node):
            if key not in skipped:
                dict.__setitem__(node, key, name_classes(value))
    elif type(node) in (list, tuple):
        return type(node)(map(name_classes, node))
    return node


BASE_TEMPLATE = re.compile(r"""(["']?)\{\{\s*_base_\.([\w.]+)\s*\}\}\1""")


def substitute_templates(filename: str, copy_of_it: str) -> dict[str, str]:
    """Write ``filename`` to ``copy_of_it`` with a quoted placeholder for each ``{{_base_.x}}``, whether quoted or not.

    Returns placeholder -> ``x``.
    """
    placeholders: dict[str, str] = {}

    def placeholder(found: re.Match) -> str:
        name = f'_{found[2]}_{uuid.uuid4().hex[:6]}'
        placeholders[name] = found[2]
        return f'"{name}"'

    text = BASE_TEMPLATE.sub(placeholder, Path(filename).read_text(encoding='utf-8'))
    Path(copy_of_it).write_text(text, encoding='utf-8')
    return placeholders


class BaseValues(ast.NodeTransformer):
    """Replace each placeholder of ``substitute_templates`` by a copy of ``_base_.x``, so that the file uses the value."""

    def __init__(self, placeholders: dict[str, str]) -> None:
        self.placeholders = placeholders

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str) or node.value not in self.placeholders:
            return node
        value = ast.parse(f"__import__('copy').deepcopy(_base_.{self.placeholders[node.value]})", mode='eval').body
        for part in ast.walk(value):
            ast.copy_location(part, node)
        return value


@contextmanager
def our_reading(tree: FileTree, overrides: dict[str, Any], replaced: set[str]) -> Iterator[None]:
    """Replace some steps of mmengine's config reader in this context; ``detkit.mmengine_patches`` gives the reasons."""
    current = dict(overrides)                              # for the file that is being read
    placeholders: dict[str, str] = {}                      # for all files

    class Assigns(RemoveAssignFromAST):
        def visit_Module(self, node: ast.Module) -> ast.AST:
            return self.generic_visit(replace_assignments(BaseValues(placeholders).visit(node), current, replaced))

    class Imports(ImportTransformer):
        def visit_Module(self, node: ast.Module) -> ast.AST:
            return self.generic_visit(replace_assignments(node, current, replaced))

    file2dict, lazy, is_lazy, bases = Config._file2dict, Config._parse_lazy_import, Config._is_lazy_import, Config._get_base_files

    def substitute(filename: str, copy_of_it: str) -> dict[str, str]:
        found = substitute_templates(filename, copy_of_it)
        placeholders.update(found)
        return found

    def base_files(filename: str) -> list[str]:
        found = bases(filename)
        return list(found[0]) if len(found) == 1 and isinstance(found[0], tuple) else found

    def is_pure_python(filename: str) -> bool:
        path = Path(filename).resolve()
        names = tree.names[path]
        return names.is_lazy or path == tree.root and not names.bases and is_lazy(filename)

    def reader(read: Callable[..., Any], content: Callable[[Any], dict]) -> Callable[..., Any]:
        """Wrap ``read``, a function of mmengine: variables that the file sets are passed to its bases first."""
        def read_one(filename: str, *args: Any, **kwargs: Any) -> Any:
            nonlocal current
            path, outer = Path(filename).resolve(), current
            with located(path):
                check_syntax(path)
                names = tree.names[path]
                wanted = tree.settings(path) - set(outer)
                if wanted:
                    literals = {name: names.values[name] for name in wanted if name in names.values}
                    values = literals if len(literals) == len(wanted) else content(read(filename, *args, **kwargs))
                    current = {**with_derived({name: plain(values[name]) for name in wanted}, f'{path}'), **outer}
                try:
                    return read(filename, *args, **kwargs)
                finally:
                    current = outer
        return read_one

    reader_class, module = f'{mmengine_patches.CONFIG}.Config', mmengine_patches.CONFIG
    with mmengine_patches.replaced({
            f'{reader_class}._file2dict': staticmethod(reader(file2dict, lambda result: result[0])),
            f'{reader_class}._parse_lazy_import': staticmethod(reader(lazy, lambda result: result[0])),
            f'{reader_class}._get_base_files': staticmethod(base_files),
            f'{reader_class}._pre_substitute_base_vars': staticmethod(substitute),
            f'{reader_class}._is_lazy_import': staticmethod(is_pure_python),
            f'{reader_class}._get_cfg_path': staticmethod(base_path),
            f'{module}._is_builtin_module': is_standard_library, 'mmengine.config.utils._is_builtin_module': is_standard_library,
            f'{module}.get_installed_path': installed_path,
            f'{module}.RemoveAssignFromAST': Assigns, f'{module}.ImportTransformer': Imports}):
        yield


def is_standard_library(module: str) -> bool:
    """Return whether a config may import and use ``module``. mmengine takes ``os``, frozen since Python 3.11, for a third-party module."""
    return module.startswith('mmengine.config') or module.split('.')[0] in sys.stdlib_module_names


def plain(value: Any) -> Any:
    """Return ``value`` with plain dicts instead of mmengine's."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value


def replace_assignments(module: ast.Module, overrides: dict[str, Any], replaced: set[str]) -> ast.Module:
    """Set each top-level name in ``overrides`` to the value given there, wherever it is assigned; add the names to ``replaced``."""
    body = []
    for node in module.body:
        names = {name for name, _ in bound_names(node)} & set(overrides)
        replaced |= names
        is_plain = isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        body += [] if names and is_plain else [node]
        body += [ast.copy_location(assignment(name, overrides[name]), node) for name in sorted(names)]
    module.body = body
    return ast.fix_missing_locations(module)


def assignment(name: str, value: Any) -> ast.stmt:
    return ast.parse(f'{name} = {value!r}').body[0]


# ------------------------------------------------------------------------------------------------------ after reading
def import_custom(cfg: Config) -> None:
    """Import the modules in ``custom_imports``, so that they register their classes. The working folder is also searched."""
    wanted = cfg.get('custom_imports')
    if not wanted:
        return
    modules = wanted.get('imports') or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            theirs = module.split('.')[0] in PRETRAINING       # detkit has some of its classes; the missing ones raise their own errors
            if not theirs and not wanted.get('allow_failed_imports', False):
                raise ConfigError(f"custom_imports.imports: cannot import '{module}' ({error}). Is it installed, or is its folder "
                                  f'in PYTHONPATH? With allow_failed_imports=True a config is read without it.') from error


def translate_scope(cfg: Config) -> None:
    """Replace MMDetection's scope by detkit's everywhere in ``cfg``: an installed mmdet is never used."""
    scope = cfg.get('default_scope') or 'detkit'
    if scope not in OUR_SCOPES:
        raise ConfigError(f"default_scope: '{scope}' is unknown. Register your classes in detkit.registry, name their module in "
                          f"custom_imports, and leave default_scope out or set it to 'detkit'.")
    with lazily():
        for name in getattr(cfg, '_imported_names', ()):   # imports of a lazy config are not settings
            if isinstance(dict.get(cfg._cfg_dict, name), (LazyAttr, LazyObject, FunctionType, ModuleType, type)):
                dict.pop(cfg._cfg_dict, name)
        translated(cfg._cfg_dict)
    cfg.default_scope = 'detkit'


def translated(node: Any) -> Any:
    """Return ``node`` without detkit's ``_scope_`` keys, and with names instead of lazy classes of MMDetection, mmcv, or mmpretrain (if
    detkit's class is compatible).
    """
    if isinstance(node, (LazyAttr, LazyObject)):
        package, name = str(node.module).split('.')[0], str(node).rpartition('.')[2]
        theirs = package in ('mmdet', 'mmcv') or package in PRETRAINING and name in LIKE_MMPRETRAIN
        return name if theirs and str(node) != str(node.module) else node
    if isinstance(node, dict):
        if dict.get(node, '_scope_') in (*OUR_SCOPES, None):
            dict.pop(node, '_scope_', None)
        for key, value in list(dict.items(node)):
            dict.__setitem__(node, key, translated(value))
        return node
    if isinstance(node, (list, tuple)) and type(node) in (list, tuple):
        return type(node)(translated(item) for item in node)
    return node


def merge_options(cfg: Config, options: dict[str, Any], variables: set[str]) -> None:
    """Set ``options`` in ``cfg``; those in ``variables`` have already been replaced at their assignment in the file.

    Raises:
        ConfigError: a key does not exist.
    """
    for key in options:
        if key not in variables:
            check_option(cfg, key)
    try:
        cfg.merge_from_dict({k: over(cfg, k, v) for k, v in options.items() if k in cfg or '.' in k or k in READ})
    except (KeyError, TypeError) as error:
        raise ConfigError(f'--cfg-options: {error.args[0] if error.args else error}') from error


def over(cfg: Config, key: str, value: Any) -> Any:
    """Return a copy of ``value`` for merging; a dict that replaces None or a number is marked for mmengine."""
    value, node, there = copy.deepcopy(value), cfg._cfg_dict, True
    for part in key.split('.'):
        there = there and part in node if isinstance(node, dict) else there
        node = node.get(part) if isinstance(node, dict) else node[int(part)] if isinstance(node, (list, tuple)) else None
    return dict(value, _delete_=True) if isinstance(value, dict) and there and not isinstance(node, dict) else value


def check_option(cfg: Config, key: str) -> None:
    node, done, (first, *_) = cfg._cfg_dict, '', key.split('.')
    today = option_of_today(key)
    if today and (first not in node or first == 'model'):
        raise ConfigError(f"--cfg-options {key}: is MMDetection 2's form, which nothing reads. Write {today}=...")
    if first not in READ:
        if first in node:
            raise ConfigError(f"--cfg-options {key}: '{first}' is a variable of the config; nothing reads it afterwards, so the "
                              f'setting would change nothing. Name the key that it went into, or replace the variable whole.')
        place = PLACES.get(key) if key not in ('max_epochs', 'max_iters') else None      # for these two, a similar name is a better hint
        near = f' In a file it is {place}.' if place else did_you_mean(first, {*node, *READ})
        raise ConfigError(f"--cfg-options {key}: the config has no '{first}'.{near}")
    keys = key.split('.')
    for i, part in enumerate(keys):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"--cfg-options {key}: {done} is a list of {len(node)}; '{part}' should be a number below that.")
            node = node[int(part)]
        elif isinstance(node, dict):
            if part not in node:
                near = did_you_mean(part, node) if i < len(keys) - 1 else ''
                if near:
                    raise ConfigError(f"--cfg-options {key}: {done} has no '{part}'.{near}")
                return                                  # a new key: checked when the dict is built
            node = node[part]
        else:
            raise ConfigError(f"--cfg-options {key}: {done} is {node!r}, no dict that could hold '{part}'. "
                              f"Write {done}=\"dict({part}=...)\".")
        done = f'{done}.{part}' if done else part


# ------------------------------------------------------------------------------------------------------------ writing
def dump_config(cfg: Config, path: str | Path) -> None:
    """Write ``cfg`` to ``path`` (.py, .json or .yaml, by suffix), completely or not at all.

    Raises:
        ConfigError: another suffix, or a value without a text form, such as a function.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f"'{path}': a config ends in {', '.join(SUFFIXES)}.")
    with atomic_path(path) as temporary:
        cfg.dump(str(temporary))
        if temporary.suffix == '.py':
            with located(Path(path)):
                check_syntax(temporary)
