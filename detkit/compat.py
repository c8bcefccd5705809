"""Check which configs detkit can build, and whether their state-dict keys match MMDetection's, so that its checkpoints load.

A model is built on the meta device: shapes without memory. Weights are neither initialised nor loaded nor downloaded; only
``init_weights`` would do that, and it is not called here. ``compat_keys.json`` describes the models that MMDetection 3.3.0 builds from
its own configs. A config is Python and is executed when it is read: use only folders whose configs you would run.
"""
from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detkit.config import config_roots, find_config, load_config
from detkit.files import write_json
from detkit.registry import MODELS, ConfigError, join_keys

EQUAL, DIFFERS, UNKNOWN, NO_MODEL, FAILS = 'keys equal', 'other keys', 'not known', 'no model', 'fails'
STATUSES = (EQUAL, DIFFERS, UNKNOWN, NO_MODEL, FAILS)
BUILT = (EQUAL, DIFFERS, UNKNOWN)
NAMED = 3                      # configs listed per reason in a report, unless all are requested


@dataclass(frozen=True)
class Outcome:
    """The result for one config."""

    config: str                # path relative to the given folder
    family: str                # its folder
    status: str                # one of STATUSES
    reason: str = ''           # one line, if it fails or differs
    n: int | None = None       # number of state-dict entries; these three are set if a model was built
    params: int | None = None
    sha: str | None = None
    trace: str = ''            # traceback of a failure

    @property
    def bad(self) -> bool:
        return self.status in (FAILS, DIFFERS)


def compare(sources: Iterable[str | Path], families: Iterable[str] = (), say: Callable[[str], None] | None = None,
            verbose: bool = False) -> list[Outcome]:
    """Build the model of every config in ``sources`` (folders, files, ``package::folder``, names of shipped configs).

    ``families``: check only these folders. ``say`` is called with each family's table row as soon as it is known, and with the reasons at
    the end; ``verbose``: also one line per config, and the traceback of each failure.

    Raises:
        ConfigError: a source does not exist, contains no config, or has none of ``families``.
    """
    found = [entry for source in sources for entry in list_configs(source)]
    wanted = set(families)
    missing = sorted(wanted - {family for _, _, family in found})
    if missing:
        raise ConfigError(f"there is no family '{missing[0]}' in {', '.join(map(str, sources))}. There: "
                          f"{', '.join(sorted({family for _, _, family in found}))}.")
    found = [entry for entry in found if not wanted or entry[2] in wanted]
    say = say or (lambda line: None)
    width = max(len(family) for _, _, family in found)
    say(row('family', ('configs', 'builds', *STATUSES), width))
    outcomes, built = [], {}
    for family in dict.fromkeys(family for _, _, family in found):
        these = []
        for path, name, _ in (entry for entry in found if entry[2] == family):
            these.append(examine(path, name, family, built))
            if verbose:
                say(f'  {these[-1].status:10}  {name}')
        say(row(family, counts(these), width))
        outcomes += these
    say(row('total', counts(outcomes), width))
    for line in reasons(outcomes, verbose):
        say(line)
    return outcomes


# ---------------------------------------------------------------------------------------------------------- one config
def examine(path: Path, name: str, family: str, built: dict[str, Any]) -> Outcome:
    """Read the config at ``path``, build its model, and compare its keys. ``built``: cache of results by ``model`` section."""
    try:
        cfg = load_config(path)
        model = cfg.get('model')
        if not model:
            return Outcome(name, family, NO_MODEL, "has no 'model'")
        key = repr(model)
        if key not in built:
            built[key] = attempt(model)
        found = built[key]
    except (Exception, SystemExit) as error:    # a config is a program: it may raise any error, or exit
        return Outcome(name, family, FAILS, one_line(error, {}), trace=traceback.format_exc())
    if isinstance(found, tuple):
        return Outcome(name, family, FAILS, found[0], trace=found[1])
    want = recorded(path)
    reason = difference(found, want)
    return Outcome(name, family, UNKNOWN if want is None else DIFFERS if reason else EQUAL, reason, **found)


def attempt(model: dict) -> dict[str, int | str] | tuple[str, str]:
    """Return the digest of the model built from ``model``, or the error: one line, and the traceback."""
    try:
        with torch.device('meta'):
            return digest(MODELS.build(model))
    except Exception as error:                  # a user's class may raise any error
        return one_line(error, model), traceback.format_exc()


def digest(model: nn.Module) -> dict[str, int | str]:
    """Return the number of state-dict entries ``n``, of parameters ``params``, and 16 hex digits over sorted names and shapes, ``sha``."""
    entries = sorted((key, tuple(value.shape)) for key, value in model.state_dict().items())
    return dict(n=len(entries), params=sum(p.numel() for p in model.parameters()),
                sha=hashlib.sha256(repr(entries).encode()).hexdigest()[:16])


@cache
def known_keys() -> dict[str, dict[str, int | str]]:
    """Return config of MMDetection 3.3.0 (``family/name.py``) -> detector ``type``, ``n``, ``params``, ``sha``; see ``digest``."""
    return json.loads((Path(__file__).parent / 'compat_keys.json').read_text(encoding='utf-8'))


def recorded(path: Path) -> dict[str, int | str] | None:
    """Return the digest of MMDetection's model for its config with this folder and name, or None."""
    return known_keys().get('/'.join(path.parts[-2:]))


def difference(found: dict[str, int | str], want: dict[str, int | str] | None) -> str:
    """Return how the digest ``found`` differs from MMDetection's ``want``; '' if it does not, or if ``want`` is None."""
    if want is None or found['sha'] == want['sha'] and found['params'] == want['params']:
        return ''
    if (found['n'], found['params']) == (want['n'], want['params']):
        return f"as many entries and parameters as MMDetection's ({found['n']}, {found['params']}), other names or shapes"
    return f"{found['n']} entries and {found['params']} parameters, MMDetection's: {want['n']} and {want['params']}"


def one_line(error: BaseException, model: dict) -> str:
    """Return the message for a user. A constructor error caused by a ``num_classes`` that is not a number is explained."""
    if not isinstance(error, ConfigError) or error.__cause__ is not None:
        for keys, value in class_counts(model):
            if isinstance(value, bool) or not isinstance(value, int):
                return f'{join_keys(keys)}={value!r} is not a number of classes. Put one in its place.'
    if isinstance(error, ConfigError):
        return ' '.join(('model.' * bool(error.path and model) + str(error)).split())
    return ' '.join(f'{type(error).__name__}: {error}'.split())


def class_counts(node: Any, keys: tuple[str, ...] = ('model',)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (key path, value) of every ``num_classes`` in ``node``."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'num_classes':
                yield (*keys, key), value
            yield from class_counts(value, (*keys, str(key)))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from class_counts(value, (*keys, f'[{i}]'))


# ------------------------------------------------------------------------------------------------------------- finding
def list_configs(source: str | Path) -> list[tuple[Path, str, str]]:
    """Return (path, name, family) of every config in ``source``: a folder with its subfolders, or a name for ``find_config``.

    Folders whose names start with ``_`` or ``.`` contain parts of configs and are skipped. A family is a subfolder of ``source``, or
    ``source`` itself for configs directly in it.

    Raises:
        ConfigError: there is no config.
    """
    folder = find_folder(source)
    if folder is None:
        path = find_config(source)
        return [(path, f'{path.parent.name}/{path.name}', path.parent.name)]
    below = [path.relative_to(folder) for path in sorted(folder.rglob('*.py'))]
    shown = [path for path in below if not any(part.startswith(('_', '.')) for part in path.parts)]
    if not shown:
        raise ConfigError(f"'{source}' holds no config: no .py file but those in folders that begin with '_'.")
    return [(folder / path, path.as_posix(), path.parts[0] if len(path.parts) > 1 else folder.resolve().name) for path in shown]


def find_folder(source: str | Path) -> Path | None:
    """Return the folder given by ``source``, a path or ``package::folder``; None if it is not a folder."""
    package, separator, inner = str(source).partition('::')
    folders = [root / inner for root in config_roots(package)] if separator else [Path(source).expanduser()]
    return next((folder for folder in folders if folder.is_dir()), None)


# ------------------------------------------------------------------------------------------------------------- telling
def counts(outcomes: list[Outcome]) -> tuple[int, ...]:
    found = [outcome.status for outcome in outcomes]
    return len(found), sum(found.count(status) for status in BUILT), *(found.count(status) for status in STATUSES)


def row(family: str, cells: tuple, width: int) -> str:
    return '  '.join([f'{family:{max(width, 6)}}', *(f'{cell or "-":>10}' for cell in cells)])


def reasons(outcomes: list[Outcome], verbose: bool) -> Iterator[str]:
    """Yield one line per reason with its count and locations, most frequent first.

    Without ``verbose``, only the first sentence of the advice is kept.
    """
    for status in (DIFFERS, FAILS):
        groups: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.status == status:
                groups.setdefault(outcome.reason if verbose else outcome.reason.split('. ')[0], []).append(outcome)
        if groups:
            yield f'\n{status}:'
        for reason, those in sorted(groups.items(), key=lambda item: -len(item[1])):
            named = those if verbose else those[:NAMED]
            more = f' and {len(those) - len(named)} more' if len(those) > len(named) else ''
            yield f'{len(those):5} x  {reason}'
            yield f"         {', '.join(outcome.config for outcome in named)}{more}"
            if verbose and those[0].trace:
                yield those[0].trace.rstrip()


def report(sources: list[str], families: list[str], out: str | None, verbose: bool) -> int:
    """Run ``compare`` and print the table; write all outcomes as JSON to ``out``. Returns 1 if a config fails or differs."""
    outcomes = compare(sources, families, lambda line: print(line, flush=True), verbose)
    if out:
        write_json(out, [asdict(outcome) for outcome in outcomes], indent=1)
    return int(any(outcome.bad for outcome in outcomes))
