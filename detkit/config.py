"""Config files: found by path or name, read with MMDetection's scope turned into ours, overridden from the command line.

Floor 0: mmengine's Config is imported, torch is not. Whatever is wrong with a config is a ConfigError that names file, line, key.

A config file is Python and runs when it is read: read only files that you would run.
"""
from __future__ import annotations

import ast
import copy
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import mmengine.config.config as mmconfig
import mmengine.config.utils as mmutils
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.config.utils import ImportTransformer, RemoveAssignFromAST

from detkit.config_names import ConfigNames, bound_names, config_names
from detkit.files import atomic_path
from detkit.options import parse_options
from detkit.recipe_variables import VARIABLES, with_derived
from detkit.registry import LIKE_MMPRETRAIN, OUR_SCOPES, PRETRAINING, ConfigError, did_you_mean

SUFFIXES = ('.py', '.json', '.yaml', '.yml')
PACKAGE = Path(__file__).resolve().parent

# What is read of a config. Any other key at the top is a variable of the file: it means only what the file does with it.
READ = frozenset("""
    model data_preprocessor train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg optim_wrapper param_scheduler
    auto_scale_lr val_evaluator test_evaluator default_hooks custom_hooks load_from resume work_dir launcher env_cfg log_processor
    log_level visualizer default_scope randomness experiment_name custom_imports model_wrapper_cfg find_unused_parameters sync_bn
    compile activation_checkpointing efficient_conv_bn_eval tta_model tta_pipeline amp channels_last trusted_checkpoints
    """.split())

_reading = threading.RLock()


def load_config(source: str | Path | dict | Config, options: dict | Sequence[str] | None = None) -> Config:
    """A config, ready for ``build_runner``: scopes translated, custom modules imported, overrides merged.

    ``source``: a ``.py``, ``.json`` or ``.yaml`` file; the name of a shipped config (``rtmdet_tiny_8xb32-300e_coco``, with or
    without folder and ending); ``detkit::rtmdet/x.py``; a dict; or a Config, which is copied.
    ``options``: ``{'optim_wrapper.optimizer.lr': 0.01}``, or the words of ``--cfg-options`` (see ``parse_options``). A key
    without a dot may also name a variable of the file (``data_root``, ``max_epochs``): everything made from it follows.

    Raises:
        ConfigError: no such file, broken syntax, an unknown scope, a module that cannot be imported, an override that would
            change nothing.
    """
    options = parse_options(options) if options is not None and not isinstance(options, dict) else dict(options or {})
    if isinstance(source, (str, os.PathLike)):
        path = find_config(source)
        overrides = {k: v for k, v in options.items() if '.' not in k and not (k in READ and isinstance(v, dict))}
        cfg, variables = read_file(path, overrides)
    else:
        cfg, variables = copy.deepcopy(source) if isinstance(source, Config) else Config(copy.deepcopy(source)), set()
    without_yapf(cfg)
    import_custom(cfg)
    translate_scope(cfg)
    merge_options(cfg, options, variables)
    return cfg


def without_yapf(cfg: Config) -> None:
    """Let ``cfg.pretty_text`` be as mmengine writes it, indented already: yapf takes a second on a large config each time the text is
    asked for, which is at every checkpoint."""
    object.__setattr__(cfg, '_format_python_code', False)


# ---------------------------------------------------------------------------------------------------------- finding
def config_folder() -> Path:
    """The shipped recipes: ``configs/`` of this checkout, or the copy inside an installed package."""
    folders = [PACKAGE.parent / 'configs', PACKAGE / 'configs']
    return next((f for f in folders if (f / '_base_').is_dir()), folders[0])


def find_config(name: str | Path) -> Path:
    """The file that ``name`` means: a path, ``package::path``, or the name of a shipped config.

    Raises:
        ConfigError: there is none, or several; with the nearest names.
    """
    text = os.path.expanduser(str(name))
    if '::' in text:
        return packaged(text)
    path = Path(text)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"'{text}' is no config: it should end in {', '.join(SUFFIXES)}.")
        return path.resolve()
    if path.is_dir():
        raise ConfigError(f"'{text}' is a folder. Name a config in it{listed(p.name for p in sorted(path.glob('*.py')))}.")
    found = shipped(path)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"'{text}' may be any of {', '.join(str(f) for f in found)}. Name one.")
    names = [f.stem for f in config_folder().glob('*/*.py')]
    beside = [str(p) for p in path.parent.glob('*.py')] if path.parent != Path('.') else []
    raise ConfigError(f"there is no config '{text}', neither as a file nor among the shipped ones."
                      f'{did_you_mean(path.stem, names) or did_you_mean(text, beside) or kin(path.stem, names)} '
                      f'They lie in {config_folder()}')


def kin(stem: str, names: list[str]) -> str:
    """Shipped configs of the same method as ``stem``, whatever follows."""
    method = stem.replace('-', '_').split('_')[0]
    return listed(n for n in sorted(names) if n.startswith(method)).replace(': ', ' Of that method: ', 1)


def shipped(path: Path) -> list[Path]:
    """Shipped configs whose path ends as ``path`` does; its ending may be left out."""
    wanted = path if path.suffix in SUFFIXES else path.parent / f'{path.name}.py'
    if path.is_absolute():
        return []
    return [f for f in sorted(config_folder().rglob(wanted.name)) if f.parts[-len(wanted.parts):] == wanted.parts]


def packaged(name: str) -> Path:
    """``detkit::rtmdet/x.py`` -> our file; of another package, the file below its ``.mim/configs``. Nothing is imported."""
    package, _, inner = name.partition('::')
    if package in ('detkit', ''):
        found = shipped(Path(inner))
    else:
        found = [root / inner for root in config_roots(package) if (root / inner).is_file()]
    if not found:
        raise ConfigError(f"'{name}': no such config in {package}.{did_you_mean(inner, relative_names())}")
    return found[0]


def config_roots(package: str) -> list[Path]:
    """The folders of configs that ``package`` brings. Nothing is imported."""
    if package in ('detkit', ''):
        return [config_folder()]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"'{package}::': the package '{package}' is not installed. detkit's own configs are 'detkit::...'.")
    return [Path(root) / '.mim/configs' for root in spec.submodule_search_locations]


def relative_names() -> list[str]:
    folder = config_folder()
    return [f.relative_to(folder).as_posix() for f in folder.rglob('*.py')]


def listed(names: Iterator[str]) -> str:
    names = list(names)[:5]
    return f": {', '.join(names)}" if names else ''


# ---------------------------------------------------------------------------------------------------------- reading
def read_file(path: Path, overrides: dict[str, Any]) -> tuple[Config, set[str]]:
    """Read a config and its bases; top-level assignments named in ``overrides`` get that value instead of their own.

    Returns the config and the names that were replaced.
    """
    replaced: set[str] = set()
    tree = FileTree(path)
    recipe_variables = tree.variables([path, *tree.below(path)])
    recipe_options = {name: (value,) if VARIABLES[name] == 'names' and isinstance(value, str) else value       # classes=cat
                      for name, value in overrides.items() if name in recipe_variables}
    overrides = {**overrides, **with_derived(recipe_options, '--cfg-options')}
    with _reading, our_reading(tree, overrides, replaced), located(path):
        cfg = Config.fromfile(str(path), import_custom_modules=False)
    return cfg, replaced


class FileTree:
    """A config file and all files that it has as bases, with their names.

    Raises:
        ConfigError: a base that does not exist, a file that cannot be parsed, a file that has itself as a base.
    """

    def __init__(self, path: Path) -> None:
        self.root = path
        self.names: dict[Path, ConfigNames] = {}
        self.bases: dict[Path, list[Path]] = {}
        self._add(path, ())

    def _add(self, path: Path, children: tuple[Path, ...]) -> None:
        if path in children:
            loop = ' -> '.join(p.name for p in (*children[children.index(path):], path))
            raise ConfigError(f'{children[-1]}:{base_line(children[-1])}: _base_ leads back to the same file ({loop}). '
                              f'Take it out of _base_ there.')
        if path in self.names:
            return
        with located(path):
            names = config_names(path)
        self.bases[path] = [base_file(entry, path, names) for entry in names.bases]
        for base in self.bases[path]:
            self._add(base, (*children, path))
        self.names[path] = names                           # bases come first

    def below(self, path: Path) -> list[Path]:
        """The bases of ``path`` and theirs."""
        return [file for base in self.bases[path] for file in (base, *self.below(base))]

    def variables(self, paths: list[Path]) -> set[str]:
        """The variables (see VARIABLES) that those of ``paths`` which are shipped recipes declare."""
        return {name for path in paths if is_shipped(path) for name in self.names[path].bound} & set(VARIABLES)

    def settings(self, path: Path) -> set[str]:
        """The names that ``path`` sets and that are variables of its bases."""
        return self.variables(self.below(path)) & set(self.names[path].bound)


def is_shipped(path: Path) -> bool:
    return config_folder() in path.parents


@contextmanager
def our_reading(tree: FileTree, overrides: dict[str, Any], replaced: set[str]) -> Iterator[None]:
    """mmengine 0.10.7's reader with some steps of it exchanged while the block runs.

    It finds ``package::`` bases of its own list of packages only, asks ``pkg_resources`` (gone since setuptools 82) where a
    package lies, says of a broken base the name of a temporary copy, takes ``import os`` or ``import torch`` for a sign of its pure
    Python form even beside ``_base_``, and has no way to set a variable before it is used.
    """
    current = dict(overrides)                              # in the file that is being read

    class Assigns(RemoveAssignFromAST):
        def visit_Module(self, node: ast.Module) -> ast.AST:
            return self.generic_visit(replace_assignments(node, current, replaced))

    class Imports(ImportTransformer):
        def visit_Module(self, node: ast.Module) -> ast.AST:
            return self.generic_visit(replace_assignments(node, current, replaced))

    file2dict, lazy, is_lazy = Config._file2dict, Config._parse_lazy_import, Config._is_lazy_import

    def is_pure_python(filename: str) -> bool:
        path = Path(filename).resolve()
        names = tree.names[path]
        return names.is_lazy or path == tree.root and not names.bases and is_lazy(filename)

    def reader(read: Callable[..., Any], content: Callable[[Any], dict]) -> Callable[..., Any]:
        """``read``, a function of mmengine's, with the variables that the file sets given to its bases beforehand."""
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

    exchanged = [(Config, '_file2dict', staticmethod(reader(file2dict, lambda result: result[0]))),
                 (Config, '_parse_lazy_import', staticmethod(reader(lazy, lambda result: result[0]))),
                 (Config, '_is_lazy_import', staticmethod(is_pure_python)), (mmconfig, '_is_builtin_module', is_standard_library),
                 (mmutils, '_is_builtin_module', is_standard_library),
                 (Config, '_get_cfg_path', staticmethod(base_path)), (mmconfig, 'get_installed_path', installed_path),
                 (mmconfig, 'RemoveAssignFromAST', Assigns), (mmconfig, 'ImportTransformer', Imports)]
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in exchanged]
    try:
        for owner, name, value in exchanged:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def is_standard_library(module: str) -> bool:
    """Whether a config may import ``module`` and use it at once. mmengine takes ``os``, frozen since Python 3.11, for a foreign one."""
    return module.startswith('mmengine.config') or module.split('.')[0] in sys.stdlib_module_names


def plain(value: Any) -> Any:
    """``value`` with plain dicts in place of mmengine's."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value


def base_file(entry: str, path: Path, names: ConfigNames) -> Path:
    """The file that ``entry``, a base of ``path`` as it is written there, means."""
    if not names.is_lazy:
        return Path(base_path(entry, str(path))[0])
    dots = len(entry) - len(entry.lstrip('.'))
    parts = entry.lstrip('.').split('.')
    folder = path.parents[dots - 1] if dots else Path(installed_path(parts[0]))
    found = folder.joinpath(*(parts if dots else parts[1:])).with_suffix('.py')
    if not found.is_file():
        raise ConfigError(f"{path}: read_base() imports '{entry}', which does not exist (looked at {found}).")
    return found


def base_path(base: str, filename: str) -> tuple[str, None]:
    """Where the entry ``base`` of ``filename``'s ``_base_`` lies; no scope, ours is the only one."""
    if '::' in base:
        return str(packaged(base)), None
    path = Path(filename).parent.joinpath(os.path.expanduser(base)).resolve()
    if not path.is_file():
        near = [p.name for p in path.parent.glob('*')] if path.parent.is_dir() else []
        raise ConfigError(f"{filename}:{base_line(Path(filename))}: _base_ '{base}' does not exist (looked at {path})."
                          f'{did_you_mean(path.name, near)}')
    return str(path), None


def base_line(path: Path) -> int:
    lines = path.read_text(encoding='utf-8').splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.lstrip(' "\'').startswith('_base_')), 1)


def installed_path(package: str) -> str:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package '{package}' is not installed.")
    return next(iter(spec.submodule_search_locations))


def check_syntax(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"there is no config '{path}'.")
    if path.suffix == '.py':
        ast.parse(path.read_text(encoding='utf-8'), str(path))


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Turn any failure of reading ``path`` into one ConfigError that names file and line."""
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f'{path}:{error.lineno}: {error.msg}: {(error.text or "").strip()}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: is not UTF-8 text ({error.reason} at byte {error.start}).') from error
    except Exception as error:   # a config is a program: it may raise anything
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise ConfigError(f"{path}{line_of(error, path)}: {type(error).__name__}: {' '.join(text.split())}") from error


def line_of(error: Exception, path: Path) -> str:
    """``:12`` when the failure has a line in ``path``."""
    mark = getattr(error, 'problem_mark', None)               # yaml
    line = mark.line + 1 if mark else error.lineno if isinstance(error, json.JSONDecodeError) else None
    trace = error.__traceback__
    while trace:
        if os.path.abspath(trace.tb_frame.f_code.co_filename) == os.path.abspath(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f':{line}' if line else ''


def replace_assignments(module: ast.Module, overrides: dict[str, Any], replaced: set[str]) -> ast.Module:
    """Give each top-level name that ``overrides`` has the value from there, wherever it is set; note the names in ``replaced``."""
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
    """Import the modules in ``custom_imports``, so that they register their classes. The working folder is searched too."""
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
            theirs = module.split('.')[0] in PRETRAINING       # we have some of its classes; what is missing is said by its name
            if not theirs and not wanted.get('allow_failed_imports', False):
                raise ConfigError(f"custom_imports.imports: cannot import '{module}' ({error}). Is it installed, or is its folder "
                                  f'in PYTHONPATH? With allow_failed_imports=True a config is read without it.') from error


def translate_scope(cfg: Config) -> None:
    """MMDetection's scope means ours, everywhere in ``cfg``: an installed mmdet is never used."""
    scope = cfg.get('default_scope') or 'detkit'
    if scope not in OUR_SCOPES:
        raise ConfigError(f"default_scope: '{scope}' is unknown. Register your classes in detkit.registry, name their module in "
                          f"custom_imports, and leave default_scope out or set it to 'detkit'.")
    lazy, ConfigDict.lazy = ConfigDict.lazy, True      # look at lazy objects without importing what they stand for
    try:
        for name in getattr(cfg, '_imported_names', ()):   # what a lazy config imports is no setting of it
            if isinstance(dict.get(cfg._cfg_dict, name), (LazyAttr, LazyObject, FunctionType, ModuleType)):
                dict.pop(cfg._cfg_dict, name)
        translated(cfg._cfg_dict)
    finally:
        ConfigDict.lazy = lazy
    cfg.default_scope = 'detkit'


def translated(node: Any) -> Any:
    """``node`` without ``_scope_`` keys of ours and without lazy classes of MMDetection, of mmcv, or of mmpretrain where ours are like
    them: their names stand instead."""
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
    """Set ``options`` in ``cfg``; those in ``variables`` have already been replaced where the file assigns them.

    Raises:
        ConfigError: a key that leads nowhere.
    """
    for key in options:
        if key not in variables:
            check_option(cfg, key)
    try:
        cfg.merge_from_dict({k: over(cfg, k, v) for k, v in options.items() if k in cfg or '.' in k or k in READ})
    except (KeyError, TypeError) as error:
        raise ConfigError(f'--cfg-options: {error.args[0] if error.args else error}') from error


def over(cfg: Config, key: str, value: Any) -> Any:
    """A copy of ``value`` for merging; a dict that takes the place of None or of a number says so, as mmengine wants it."""
    value, node, there = copy.deepcopy(value), cfg._cfg_dict, True
    for part in key.split('.'):
        there = there and part in node if isinstance(node, dict) else there
        node = node.get(part) if isinstance(node, dict) else node[int(part)] if isinstance(node, (list, tuple)) else None
    return dict(value, _delete_=True) if isinstance(value, dict) and there and not isinstance(node, dict) else value


def check_option(cfg: Config, key: str) -> None:
    node, done, (first, *_) = cfg._cfg_dict, '', key.split('.')
    if first not in READ:
        if first in node:
            raise ConfigError(f"--cfg-options {key}: '{first}' is a variable of the config; nothing reads it afterwards, so the "
                              f'setting would change nothing. Name the key that it went into, or replace the variable whole.')
        raise ConfigError(f"--cfg-options {key}: the config has no '{first}'.{did_you_mean(first, {*node, *READ})}")
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
                return                                  # a new key: whoever is built from the dict judges it
            node = node[part]
        else:
            raise ConfigError(f"--cfg-options {key}: {done} is {node!r}, no dict that could hold '{part}'. "
                              f"Write {done}=\"dict({part}=...)\".")
        done = f'{done}.{part}' if done else part


# ------------------------------------------------------------------------------------------------------------ writing
def dump_config(cfg: Config, path: str | Path) -> None:
    """Write ``cfg`` at ``path`` (.py, .json, .yaml by its ending), whole or not at all.

    Raises:
        ConfigError: another ending, or a value that has no text, such as a function.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f"'{path}': a config ends in {', '.join(SUFFIXES)}.")
    with atomic_path(path) as temporary:
        cfg.dump(str(temporary))
        if temporary.suffix == '.py':
            with located(Path(path)):
                check_syntax(temporary)
