"""Find config files and their bases, and report errors with file and line."""
from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from detkit.config_names import ConfigNames, config_names
from detkit.recipe_variables import VARIABLES
from detkit.registry import ConfigError, did_you_mean

SUFFIXES = ('.py', '.json', '.yaml', '.yml')
PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of shipped recipes: ``configs/`` of this checkout, or the copy in an installed package."""
    folders = [PACKAGE.parent / 'configs', PACKAGE / 'configs']
    return next((f for f in folders if (f / '_base_').is_dir()), folders[0])


def find_config(name: str | Path) -> Path:
    """Return the file for ``name``: a path, ``package::path``, or the name of a shipped config.

    Raises:
        ConfigError: there is none, or there are several; the message has similar names.
    """
    text = os.path.expanduser(str(name))
    if '::' in text:
        return packaged(text)
    path = Path(text if Path(text).exists() else forward_slashes(text))
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
                      f'{did_you_mean(path.stem, names) or did_you_mean(text, beside) or list_same_method(path.stem, names)} '
                      f'They lie in {config_folder()}')


def list_same_method(stem: str, names: list[str]) -> str:
    """Return a text that lists the shipped configs of the same method as ``stem``."""
    method = stem.replace('-', '_').split('_')[0]
    return listed(n for n in sorted(names) if n.startswith(method)).replace(': ', ' Of that method: ', 1)


def shipped(path: Path) -> list[Path]:
    """Return the shipped configs whose path ends with ``path``; the suffix is optional."""
    wanted = path if path.suffix in SUFFIXES else path.parent / f'{path.name}.py'
    if path.is_absolute():
        return []
    return [f for f in sorted(config_folder().rglob(wanted.name)) if f.parts[-len(wanted.parts):] == wanted.parts]


def packaged(name: str) -> Path:
    """Return the file for ``detkit::rtmdet/x.py`` or, for another package, the file in its ``.mim/configs``. Nothing is imported."""
    package, _, inner = name.partition('::')
    if package in ('detkit', ''):
        found = shipped(Path(inner))
    else:
        found = [root / inner for root in config_roots(package) if (root / inner).is_file()]
    if not found:
        raise ConfigError(f"'{name}': no such config in {package}.{did_you_mean(inner, relative_names())}")
    return found[0]


def config_roots(package: str) -> list[Path]:
    """Return the config folders of ``package``. Nothing is imported."""
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


def base_file(entry: str, path: Path, names: ConfigNames) -> Path:
    """Return the file that the entry ``entry`` in ``_base_`` of ``path`` refers to."""
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
    """Return the path of the entry ``base`` in ``_base_`` of ``filename``, and None as scope (detkit has only one)."""
    if '::' in base:
        return str(packaged(base)), None
    path = Path(filename).parent.joinpath(os.path.expanduser(base)).resolve()
    if not path.is_file():                                 # '..\_base_\x.py', even if Python has read '\r' as one character
        path = Path(filename).parent.joinpath(os.path.expanduser(forward_slashes(base))).resolve()
    if not path.is_file():
        near = [p.name for p in path.parent.glob('*')] if path.parent.is_dir() else []
        raise ConfigError(f"{filename}:{base_line(Path(filename))}: _base_ '{base}' does not exist (looked at {path})."
                          f'{did_you_mean(path.name, near)}')
    return str(path), None


def forward_slashes(path: str) -> str:
    """Return ``path`` with slashes for backslashes, including those that Python read as part of an escape sequence such as ``'\\r'``."""
    for escaped, letter in zip('\a\b\f\n\r\t\v', 'abfnrtv'):
        path = path.replace(escaped, f'/{letter}')
    return path.replace('\\', '/')


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
    """Convert any error while reading ``path`` to one ConfigError that names file and line."""
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f'{path}:{error.lineno}: {error.msg}: {(error.text or "").strip()}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: is not UTF-8 text ({error.reason} at byte {error.start}).') from error
    except Exception as error:   # a config is a program: it may raise any error
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if isinstance(error, RuntimeError) and not text or 'LazyAttr' in text or 'LazyObject' in text:     # LazyAttr.__call__ is silent
            text = 'what a config without _base_ imports from other packages is a name in it; it cannot be called or computed with. ' \
                   'Write the value itself'
        if isinstance(error, KeyError) and '__name__' in text:
            text = 'a relative import stands outside of `with read_base():`. Name the file in _base_, and write _base_.name for what it has'
        raise ConfigError(f"{path}{line_of(error, path)}: {type(error).__name__}: {' '.join(text.split())}") from error


def line_of(error: Exception, path: Path) -> str:
    """Return ``:12`` if the error has a line number in ``path``, else ''."""
    mark = getattr(error, 'problem_mark', None)               # yaml
    line = mark.line + 1 if mark else error.lineno if isinstance(error, json.JSONDecodeError) else None
    trace = error.__traceback__
    while trace:
        if os.path.abspath(trace.tb_frame.f_code.co_filename) == os.path.abspath(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f':{line}' if line else ''

def is_recipe(path: Path) -> bool:
    """Return whether other files may set the variables of ``path``: it is one of detkit's recipes, or in a folder with the same structure,
    whose ``_base_/default_runtime.py`` has ``default_scope = 'detkit'``.
    """
    return any(map(has_our_scope, path.parents))


@lru_cache(maxsize=256)
def has_our_scope(folder: Path) -> bool:
    runtime = folder / '_base_/default_runtime.py'
    return runtime.is_file() and "default_scope = 'detkit'" in runtime.read_text(encoding='utf-8')


class FileTree:
    """A config file and all its bases, with their names.

    Raises:
        ConfigError: a base does not exist, a file cannot be parsed, or a file is a base of itself.
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
        known = {name for base in self.below(path) for name in self.names[base].bound}
        for name in names.templates - known:
            raise ConfigError(f"{path}:{self.line_of(path, f'_base_.{name}') or 1}: {{{{_base_.{name}}}}}: no base has a '{name}'."
                              f'{did_you_mean(name, known)}')

    def below(self, path: Path) -> list[Path]:
        """Return all bases of ``path``, direct and indirect."""
        return [file for base in self.bases[path] for file in (base, *self.below(base))]

    def variables(self, paths: list[Path]) -> set[str]:
        """Return the variables (see VARIABLES) that the recipes among ``paths`` define."""
        return {name for path in paths if is_recipe(path) for name in self.names[path].bound} & set(VARIABLES)

    def settings(self, path: Path) -> set[str]:
        """Return the names that ``path`` sets and that are variables of its bases."""
        return self.variables(self.below(path)) & set(self.names[path].bound)

    def line_of(self, path: Path, word: str) -> int | None:
        """Return the line of ``path`` that sets ``word``, or else its first occurrence; None if there is none."""
        if word in self.names[path].bound:
            return self.names[path].bound[word]
        lines = path.read_text(encoding='utf-8-sig').splitlines()
        return next((n for n, line in enumerate(lines, 1) if re.search(rf'\b{re.escape(word)}\b', line.split('#')[0])), None)
