"""Registries that map names to classes and build objects from ``dict(type='FPN', ...)``.

They are children of mmengine's root registries with the scope ``detkit``. A name is looked up in ``catalogue.py`` and its module is
imported on first use, so importing detkit is fast. The prefixes ``mmdet.``, ``mmcv.`` and ``mmengine.`` mean detkit's class, or
mmengine's if detkit has none; ``mmpretrain.`` means detkit's class for the names in LIKE_MMPRETRAIN.

Lookups are not logged; every failure is a ConfigError that names the config key. No argument is ignored silently: ``build`` checks
names, types and ranges, and the config cannot set a key that the caller sets.
"""
from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

import mmengine.registry as root
from mmengine.registry import Registry as MMEngineRegistry

from detkit.argument_values import PLAIN, UNANNOTATED, annotations_of, value_fault
from detkit.catalogue import CATALOGUE
from detkit.ignored_arguments import warn_if_ignored
from detkit.mmdet_names import missing_attribute

OUR_SCOPES = ('detkit', 'mmdet', 'mmcv', 'mmengine')   # prefixes that mean detkit's class of that name
PRETRAINING = ('mmpretrain', 'mmcls')                  # current and old name of a package whose classes take other arguments
LIKE_MMPRETRAIN = frozenset({'TIMMBackbone'})          # detkit classes with mmpretrain's arguments and defaults


class ConfigError(ValueError):
    """A config cannot be built. The message says where, what is wrong, and what would work.

    ``cfg`` is the dict with the error and ``path`` the keys from it to the error; each enclosing ``build`` prepends its keys. ``place``
    is the location of ``cfg``, used until an enclosing config gives the path to it.
    """

    def __init__(self, message: str, cfg: Any = None, path: tuple[str, ...] = (), place: str = '') -> None:
        super().__init__(message)
        self.message, self.cfg, self.path, self.place = message, cfg, path, place

    def __str__(self) -> str:
        keys = join_keys(filter(None, (self.place, *self.path)))
        return f'{keys}: {self.message}' if keys else self.message

    def seen_from(self, outer: Any) -> 'ConfigError':
        """Prepend to ``path`` the keys from ``outer`` to the dict with the error, if ``outer`` contains it."""
        keys = None if self.cfg is None else find_keys(outer, self.cfg)
        if keys is not None:
            self.path, self.cfg = keys + self.path, outer
            self.place = '' if keys else self.place
        return self


def join_keys(keys: Iterable[str]) -> str:
    """Join keys to a path: ``('pipeline', '[2]', 'type')`` -> ``'pipeline[2].type'``."""
    return '.'.join(keys).replace('.[', '[')


def find_keys(outer: Any, inner: Any) -> tuple[str, ...] | None:
    """Return the keys from ``outer`` to ``inner`` (identical, or else equal); () if they are the same, None if not found."""
    keys = search_keys(outer, lambda part: part is inner)
    return search_keys(outer, lambda part: isinstance(part, dict) and part == inner) if keys is None else keys


def search_keys(outer: Any, is_wanted: Callable[[Any], bool]) -> tuple[str, ...] | None:
    if is_wanted(outer):
        return ()
    if isinstance(outer, dict):
        items = [(str(key), value) for key, value in outer.items()]
    elif isinstance(outer, (list, tuple)):
        items = [(f'[{i}]', value) for i, value in enumerate(outer)]
    else:
        return None
    for key, value in items:
        rest = search_keys(value, is_wanted)
        if rest is not None:
            return (key, *rest)
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x' or 'y'?``, or '' if no known name is similar."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ''


class Registry(MMEngineRegistry):
    """A child of one of mmengine's root registries, filled lazily from the catalogue."""

    def __init__(self, name: str, parent: MMEngineRegistry) -> None:
        super().__init__(name, build_func=build_from_cfg, parent=parent, scope='detkit')
        self._modules = {key: module for module, names in CATALOGUE.get(name, {}).items() for key in names.split()}

    def names(self) -> list[str]:
        """Return all names of detkit and mmengine's names registered so far; imports nothing."""
        return sorted({*self._modules, *self._module_dict, *(self.parent.module_dict if self.parent else ())})

    def __contains__(self, key: str) -> bool:
        return plain_name(key) in self.names()

    def get(self, key: str) -> Any:
        """Return the class registered as ``key``.

        Raises:
            ConfigError: neither detkit nor mmengine has this name.
        """
        name = plain_name(key)
        if name not in self._module_dict and name in self._modules:
            import_module(self._modules[name])
        if name in self._module_dict:
            return self._module_dict[name]
        found = self.inherited(name)
        if found is None and name.split('.')[0] in PRETRAINING and '.' in name:
            raise ConfigError(f"no '{key}': of mmpretrain's classes detkit has {', '.join(sorted(LIKE_MMPRETRAIN))}, and mmpretrain "
                              f'itself is not installed, or not named in custom_imports.')
        if found is None:
            raise ConfigError(f"no '{key}' in the registry '{self.name}'.{did_you_mean(name, self.names())} "
                              f'Registered by your own code? Name its module in custom_imports.')
        return found

    def inherited(self, name: str) -> Any:
        """Return the object that mmengine, another package's registry or a full dotted path has under ``name``, or None."""
        if '.' in name and name.split('.')[0] not in self.children:
            return dotted(name)
        found = super().get(name)
        if found is None and 'mmengine.runner' not in sys.modules:
            import_module('mmengine.runner')   # imports, and thereby registers, all classes of mmengine
            found = super().get(name)
        return found


def plain_name(key: str) -> str:
    scope, _, rest = key.partition('.')
    ours = scope in OUR_SCOPES and '.' not in rest or scope in PRETRAINING and rest in LIKE_MMPRETRAIN
    return rest if rest and ours else key


def dotted(path: str) -> Any:
    """Return the object at a full dotted path (lazy configs name classes in this way), or None."""
    module, _, attribute = path.rpartition('.')
    try:
        return getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if module == error.name or module.startswith(f'{error.name}.'):
            return None
        raise


# Errors that a constructor raises for an invalid value, and the packages whose tracebacks would not help the user.
VALUE_ERRORS = (TypeError, ValueError, AssertionError, KeyError, IndexError, AttributeError, ZeroDivisionError, RuntimeError)
CHECKED_PACKAGES = ('detkit', 'mmengine', 'torch', 'torchvision', 'timm')
MAX_ARGUMENTS_TEXT = 200
MODULES_THAT_INHERIT = ('mmengine.model.weight_init',)      # their constructors pass ``**kwargs`` on to their base classes


def build_from_cfg(cfg: Any, registry: MMEngineRegistry, default_args: dict | None = None, **context: Any) -> Any:
    """Build ``cfg``; return it unchanged if it is an object already or None.

    ``default_args`` are defaults for ``cfg``. ``context`` is set by the containing part, and ``cfg`` cannot override it. A ``type`` in
    ``context`` is the class to build, and ``cfg`` holds its arguments.

    Raises:
        ConfigError: a missing or unknown ``type``; an argument that the class does not take, that ``context`` sets, that is missing, of
            a wrong type or out of range; or any ConfigError from an inner build, with its path extended.
    """
    if isinstance(cfg, (str, int, float)):
        raise ConfigError(f"{cfg!r} stands where a dict with a type should describe what to build (registry '{registry.name}').")
    if not isinstance(cfg, dict):
        return cfg
    fixed = context.pop('type', None)
    if fixed is not None:
        check_fixed_type(fixed, cfg)
        return construct(fixed, cfg, **context)
    kind = cfg.get('type', (default_args or {}).get('type'))
    if kind is None:
        raise ConfigError(f"has no 'type' (keys: {', '.join(map(str, cfg)) or 'none'}); the registry '{registry.name}' "
                          f'needs one to know what to build.', cfg)
    try:
        cls = registry.get(kind) if isinstance(kind, str) else kind
    except ConfigError as error:
        error.cfg, error.path = cfg, ('type', *error.path)
        raise
    if not callable(cls):
        raise ConfigError(f"is {kind!r}; it should be a name of the registry '{registry.name}', or a class.", cfg, ('type',))
    return construct(cls, cfg, {**(default_args or {}), **cfg}, **context)


def check_fixed_type(cls: Any, cfg: dict) -> None:
    """Raise ConfigError if ``cfg`` has a ``type`` other than ``cls``, the only allowed class."""
    kind, name = cfg.get('type', cls), getattr(cls, '__name__', str(cls))
    if kind is not cls and not (isinstance(kind, str) and plain_name(kind) == name):
        raise ConfigError(f"is {kind!r}; here it is always '{name}'. Leave it out.", cfg, ('type',))


def construct(cls: Callable, cfg: dict, args: dict | None = None, /, **context: Any) -> Any:
    """Return ``cls(**cfg, **context)`` without a name lookup, checked as in ``build``; ``type`` is ignored.

    ``args``: the arguments computed from ``cfg``, if they are not its own keys; errors still refer to ``cfg``.

    Raises:
        ConfigError: see ``build_from_cfg``.
    """
    args = {k: v for k, v in (cfg if args is None else args).items() if k not in ('type', '_scope_')}
    try:
        check_context(cfg, context)
        args = {**args, **context}
        check_arguments(cls, args, context)
        with root.DefaultScope.overwrite_default_scope('detkit'):     # for objects that mmengine's classes build
            if inspect.isclass(cls) and issubclass(cls, root_manager()):
                return cls.get_instance(**args)
            return cls(**args)
    except ConfigError as error:
        raise located(error, cfg, context)
    except Exception as error:
        if type(error) not in VALUE_ERRORS or package(cls) not in CHECKED_PACKAGES:
            raise                                          # a user's class keeps its traceback
        raise ConfigError(f"{getattr(cls, '__name__', cls)} cannot be built from {plain_arguments(args)}: {type(error).__name__}: "
                          f"{' '.join(str(error).split())}", cfg) from error


def check_context(cfg: dict, context: dict) -> None:
    """Raise ConfigError if ``cfg`` sets a key of ``context`` to another value."""
    for key, value in context.items():
        if key in cfg and cfg[key] is not value and not (isinstance(value, PLAIN) and cfg[key] == value):
            shown = f' to {value!r}' if isinstance(value, (str, int, float)) else ''
            raise ConfigError(f'is set by the part that contains this one{shown}, and it is {cfg[key]!r} here. Leave it out.', cfg, (key,))


def located(error: ConfigError, cfg: dict, context: dict) -> ConfigError:
    """Return ``error`` with its path from ``cfg``.

    An error in a dict of ``context`` is located by the containing part. A dict created by the class itself is not in the config: the error
    is then assigned to the dict of the same ``type``, or else to ``cfg``.
    """
    if error.cfg is None:
        error.cfg = cfg
    elif find_keys(cfg, error.cfg) is not None:
        error.seen_from(cfg)
    elif find_keys(context, error.cfg) is None:
        kind, path = error.cfg.get('type') if isinstance(error.cfg, dict) else None, error.path
        keys = search_keys(cfg, lambda part: kind is not None and isinstance(part, dict) and part.get('type') == kind)
        if keys is None and not (path and path[0] in cfg):
            path = ()
        error.cfg, error.path = cfg, (*(keys or ()), *path)
    return error


def plain_arguments(args: dict) -> str:
    """Return the arguments with plain values, as config text."""
    plain = [f'{key}={value!r}' for key, value in args.items() if value is None or isinstance(value, (str, int, float, list, tuple))]
    text = ', '.join(plain) or 'its arguments'
    return text if len(text) <= MAX_ARGUMENTS_TEXT else f'{text[:MAX_ARGUMENTS_TEXT]}...'


def root_manager() -> type:
    from mmengine.utils import ManagerMixin
    return ManagerMixin


def package(cls: Any) -> str:
    return str(getattr(cls, '__module__', '')).split('.')[0]


@dataclass(frozen=True)
class Signature:
    """The arguments of a class or function, including constructors of base classes that receive ``**kwargs``."""

    defaults: dict[str, Any]         # by argument; ``inspect.Parameter.empty`` if there is no default
    kinds: dict[str, Any]            # annotations by argument
    required: list[str]
    is_open_ended: bool              # accepts any other argument


@cache
def signature_of(cls: Any) -> Signature:
    """Return the signature of a class or function.

    A constructor with ``*args, **kwargs``, or of a class with ``inherits_arguments``, passes unnamed arguments on to the next constructor
    among its base classes.
    """
    bases = [base for base in cls.__mro__ if '__init__' in vars(base)] if inspect.isclass(cls) else [cls]
    defaults: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    required = None
    for base in bases:
        parameters = inspect.signature(base).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        defaults = {**{p.name: p.default for p in named}, **defaults}
        kinds = {**annotations_of(base), **kinds}
        required = [p.name for p in named if p.default is p.empty] if required is None else required
        rest = {p.kind for p in parameters} & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        if inspect.Parameter.VAR_KEYWORD not in rest:
            return Signature(defaults, kinds, required, False)
        hands_on = len(rest) == 2 or vars(base).get('inherits_arguments') or base.__module__ in MODULES_THAT_INHERIT
        if package(base) not in CHECKED_PACKAGES or not hands_on:
            break
    return Signature(defaults, kinds, required or [], True)


def check_arguments(cls: Any, args: dict, given: Collection[str] = ()) -> None:
    """Raise ConfigError for invalid arguments of ``cls``.

    Checked are unknown and missing arguments and, for classes of known packages, values whose type differs from the annotation or that
    are out of range (detkit.argument_values). ``given``: names of arguments that the caller sets; their values are not checked.
    """
    name = getattr(cls, '__name__', str(cls))
    try:
        signature = signature_of(cls)
    except (TypeError, ValueError):   # some builtins have no signature; the call itself raises the error
        return
    unknown = [] if signature.is_open_ended else [a for a in (*args, *given) if a not in signature.defaults]
    if unknown:
        raise ConfigError(f"{name} takes no argument '{unknown[0]}'.{did_you_mean(unknown[0], signature.defaults)} "
                          f'It takes: {", ".join(signature.defaults)}.')
    missing = [n for n in signature.required if n not in args and n not in given]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(repr(m) for m in missing)}.")
    for key, value in args.items() if package(cls) in CHECKED_PACKAGES else ():
        if key in given or value is signature.defaults.get(key, inspect.Parameter.empty):
            continue
        fault = value_fault(value, signature.kinds.get(key, UNANNOTATED.get(key, Any)), key, name)
        if fault:
            raise ConfigError(str(fault), path=(key, *fault.keys))
        warn_if_ignored(name, key, value)
        if key == 'init_cfg':
            check_initializers(value)


def check_keys(cfg: dict, kinds: dict[str, Any], what: str) -> None:
    """Raise ConfigError for a key of ``cfg`` that is not in ``kinds``, or a value of another type or out of range.

    ``what``: the name of the setting ``cfg``, for the message.
    """
    for key, value in cfg.items():
        if key not in kinds:
            raise ConfigError(f"{what} has no '{key}'.{did_you_mean(key, kinds)} It has: {', '.join(kinds)}.", cfg)
        fault = value_fault(value, kinds[key], key)
        if fault:
            raise ConfigError(str(fault), cfg, (key, *fault.keys))


def check_initializers(value: Any) -> None:
    """Raise ConfigError for an ``init_cfg``, a dict or a list of them, that ``init_weights`` could not apply."""
    for cfg in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(cfg, dict):
            continue
        kind, args = cfg.get('type'), {k: v for k, v in cfg.items() if k not in ('type', '_scope_', 'override')}
        if kind is None:
            raise ConfigError("has no 'type'.", cfg)
        try:
            check_arguments(WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind, args)
        except ConfigError as error:
            error.cfg, error.path = cfg, error.path or (('type',) if str(error.message).startswith("no '") else ())
            raise
        check_overrides(cfg)


def check_overrides(cfg: dict) -> None:
    """Raise ConfigError for an invalid ``override`` of an ``init_cfg``: settings of submodule ``name``; ``type`` defaults to ``cfg``'s."""
    override = cfg.get('override')
    for one in override if isinstance(override, (list, tuple)) else [] if override is None else [override]:
        if not isinstance(one, dict) or not isinstance(one.get('name'), str):
            raise ConfigError(f"is {one!r}; it should be a dict with the 'name' of a submodule.", cfg, ('override',))
        if 'type' in one:
            check_initializers({k: v for k, v in one.items() if k != 'name'})


RUNNERS = Registry('runner', root.RUNNERS)
LOOPS = Registry('loop', root.LOOPS)
HOOKS = Registry('hook', root.HOOKS)
LOG_PROCESSORS = Registry('log_processor', root.LOG_PROCESSORS)
OPTIMIZERS = Registry('optimizer', root.OPTIMIZERS)
OPTIM_WRAPPERS = Registry('optim_wrapper', root.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = Registry('optimizer constructor', root.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = Registry('parameter scheduler', root.PARAM_SCHEDULERS)
DATASETS = Registry('dataset', root.DATASETS)
DATA_SAMPLERS = Registry('data sampler', root.DATA_SAMPLERS)
FUNCTIONS = Registry('function', root.FUNCTIONS)
TRANSFORMS = Registry('transform', root.TRANSFORMS)
MODELS = Registry('model', root.MODELS)
MODEL_WRAPPERS = Registry('model_wrapper', root.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = Registry('weight initializer', root.WEIGHT_INITIALIZERS)
TASK_UTILS = Registry('task util', root.TASK_UTILS)
METRICS = Registry('metric', root.METRICS)
EVALUATOR = Registry('evaluator', root.EVALUATOR)
VISUALIZERS = Registry('visualizer', root.VISUALIZERS)
VISBACKENDS = Registry('visualizer backend', root.VISBACKENDS)
INFERENCERS = Registry('inferencer', root.INFERENCERS)

REGISTRIES = {r.name: r for r in (RUNNERS, LOOPS, HOOKS, LOG_PROCESSORS, OPTIMIZERS, OPTIM_WRAPPERS,
                                  OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS, DATASETS, DATA_SAMPLERS, FUNCTIONS,
                                  TRANSFORMS, MODELS, MODEL_WRAPPERS, WEIGHT_INITIALIZERS, TASK_UTILS, METRICS, EVALUATOR,
                                  VISUALIZERS, VISBACKENDS, INFERENCERS)}


def register_all_modules(init_default_scope: bool = True) -> None:
    """Make mmengine build detkit's classes by name.

    Names are resolved lazily, so nothing is imported. ``init_default_scope`` sets mmengine's default scope to ``detkit``, which a Runner
    built manually (in a notebook) needs.
    """
    if init_default_scope:
        current = root.DefaultScope.get_current_instance()
        if current is None or current.scope_name != 'detkit':
            root.DefaultScope.get_instance(f'detkit-{len(root.DefaultScope._instance_dict)}', scope_name='detkit')


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
