"""Name -> class: the registries that turn ``dict(type='FPN', ...)`` into an object.

They are children of mmengine's root registries with the scope ``detkit``. A name is looked up in ``catalogue.py`` and its
module imported on first use, so that importing detkit costs nothing. The prefixes ``mmdet.``, ``mmcv.`` and ``mmengine.``
mean detkit's own class, or mmengine's where detkit has none; ``mmpretrain.`` means detkit's for the classes in LIKE_MMPRETRAIN.

Registries stay silent about where they look; every failure is a ConfigError that names the config key. An argument is honoured or
refused: ``build`` checks names, types and ranges, and a key that the caller sets cannot be set by the config as well.
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

OUR_SCOPES = ('detkit', 'mmdet', 'mmcv', 'mmengine')   # prefixes that mean "detkit's class of that name"
PRETRAINING = ('mmpretrain', 'mmcls')                  # the new and the old name of a package with classes of other arguments
LIKE_MMPRETRAIN = frozenset({'TIMMBackbone'})          # ours that take its arguments, with its defaults


class ConfigError(ValueError):
    """A config that cannot be built. The message says where, what, and what would work.

    ``cfg`` is the dict at fault and ``path`` the keys that lead from it to the fault; each enclosing ``build`` adds its own. ``place``
    says where ``cfg`` stands for as long as no enclosing config has shown the way to it.
    """

    def __init__(self, message: str, cfg: Any = None, path: tuple[str, ...] = (), place: str = '') -> None:
        super().__init__(message)
        self.message, self.cfg, self.path, self.place = message, cfg, path, place

    def __str__(self) -> str:
        keys = join_keys(filter(None, (self.place, *self.path)))
        return f'{keys}: {self.message}' if keys else self.message

    def seen_from(self, outer: Any) -> 'ConfigError':
        """Lengthen ``path`` by the keys that lead from ``outer`` to the dict at fault, if it lies there."""
        keys = None if self.cfg is None else find_keys(outer, self.cfg)
        if keys is not None:
            self.path, self.cfg = keys + self.path, outer
            self.place = '' if keys else self.place
        return self


def join_keys(keys: Iterable[str]) -> str:
    """``('pipeline', '[2]', 'type')`` -> ``'pipeline[2].type'``."""
    return '.'.join(keys).replace('.[', '[')


def find_keys(outer: Any, inner: Any) -> tuple[str, ...] | None:
    """The keys that lead from ``outer`` to ``inner`` (identical, or else equal); () when they are the same, None if not found."""
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
    """`` Did you mean 'x' or 'y'?``, or nothing when no known name is close."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ''


class Registry(MMEngineRegistry):
    """A child of one of mmengine's root registries, filled lazily from the catalogue."""

    def __init__(self, name: str, parent: MMEngineRegistry) -> None:
        super().__init__(name, build_func=build_from_cfg, parent=parent, scope='detkit')
        self._modules = {key: module for module, names in CATALOGUE.get(name, {}).items() for key in names.split()}

    def names(self) -> list[str]:
        """Every name of ours, and of mmengine's those registered so far; nothing is imported to answer."""
        return sorted({*self._modules, *self._module_dict, *(self.parent.module_dict if self.parent else ())})

    def __contains__(self, key: str) -> bool:
        return plain_name(key) in self.names()

    def get(self, key: str) -> Any:
        """The class registered as ``key``.

        Raises:
            ConfigError: no such name here or in mmengine.
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
        """What mmengine, another package's registry or a full dotted path has under ``name``, or None."""
        if '.' in name and name.split('.')[0] not in self.children:
            return dotted(name)
        found = super().get(name)
        if found is None and 'mmengine.runner' not in sys.modules:
            import_module('mmengine.runner')   # mmengine's classes register as they are imported; this imports them all
            found = super().get(name)
        return found


def plain_name(key: str) -> str:
    scope, _, rest = key.partition('.')
    ours = scope in OUR_SCOPES and '.' not in rest or scope in PRETRAINING and rest in LIKE_MMPRETRAIN
    return rest if rest and ours else key


def dotted(path: str) -> Any:
    """The object at a full dotted path (lazy configs name classes so), or None."""
    module, _, attribute = path.rpartition('.')
    try:
        return getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if module == error.name or module.startswith(f'{error.name}.'):
            return None
        raise


# Errors of a constructor that come from a value it cannot have, and the packages of which a traceback would not help.
VALUE_ERRORS = (TypeError, ValueError, AssertionError, KeyError, IndexError, AttributeError, ZeroDivisionError, RuntimeError)
CHECKED_PACKAGES = ('detkit', 'mmengine', 'torch', 'torchvision', 'timm')
MAX_ARGUMENTS_TEXT = 200
MODULES_THAT_INHERIT = ('mmengine.model.weight_init',)      # whose constructors hand their ``**kwargs`` on to their bases


def build_from_cfg(cfg: Any, registry: MMEngineRegistry, default_args: dict | None = None, **context: Any) -> Any:
    """Build ``cfg``, or return it as it is when it is already an object or None.

    ``default_args`` fill in what ``cfg`` leaves out; ``context`` is set by the part that contains this one, and ``cfg`` cannot set it to
    anything else. A ``type`` in ``context`` is the class of which ``cfg`` holds the arguments.

    Raises:
        ConfigError: no or an unknown ``type``, an argument that the class does not take or that is set by the context, one that is
            missing, of a wrong type or out of range, or any ConfigError from inside, its path lengthened by the way from here.
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
    """Raise ConfigError for a ``type`` in ``cfg`` that is not ``cls``, the only class that can stand there."""
    kind, name = cfg.get('type', cls), getattr(cls, '__name__', str(cls))
    if kind is not cls and not (isinstance(kind, str) and plain_name(kind) == name):
        raise ConfigError(f"is {kind!r}; here it is always '{name}'. Leave it out.", cfg, ('type',))


def construct(cls: Callable, cfg: dict, args: dict | None = None, /, **context: Any) -> Any:
    """``cls(**cfg, **context)`` without looking a name up, checked as ``build`` does; ``type`` is left aside.

    ``args``: the arguments that follow from ``cfg``, where they are not its own keys; ``cfg`` is the dict that errors are about.

    Raises:
        ConfigError: see ``build_from_cfg``.
    """
    args = {k: v for k, v in (cfg if args is None else args).items() if k not in ('type', '_scope_')}
    try:
        check_context(cfg, context)
        args = {**args, **context}
        check_arguments(cls, args, context)
        with root.DefaultScope.overwrite_default_scope('detkit'):     # for what mmengine's own classes build inside
            if inspect.isclass(cls) and issubclass(cls, root_manager()):
                return cls.get_instance(**args)
            return cls(**args)
    except ConfigError as error:
        raise located(error, cfg, context)
    except Exception as error:
        if type(error) not in VALUE_ERRORS or package(cls) not in CHECKED_PACKAGES:
            raise                                          # a class of the user's own shows where it fails
        raise ConfigError(f"{getattr(cls, '__name__', cls)} cannot be built from {plain_arguments(args)}: {type(error).__name__}: "
                          f"{' '.join(str(error).split())}", cfg) from error


def check_context(cfg: dict, context: dict) -> None:
    """Raise ConfigError for a key of ``cfg`` that ``context`` sets to another value."""
    for key, value in context.items():
        if key in cfg and cfg[key] is not value and not (isinstance(value, PLAIN) and cfg[key] == value):
            shown = f' to {value!r}' if isinstance(value, (str, int, float)) else ''
            raise ConfigError(f'is set by the part that contains this one{shown}, and it is {cfg[key]!r} here. Leave it out.', cfg, (key,))


def located(error: ConfigError, cfg: dict, context: dict) -> ConfigError:
    """``error`` with its path from ``cfg``. What is wrong in a dict of ``context`` is found from the part that contains this one. A dict
    that the class itself made stands in no config: the error is one of the dict of the same ``type``, or else of ``cfg``."""
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
    """The arguments that are plain values, as a config has them."""
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
    """What a class or function takes, and, of the constructors of a class, those to which the first hands on what it does not name."""

    defaults: dict[str, Any]         # by argument; ``inspect.Parameter.empty`` where there is none
    kinds: dict[str, Any]            # annotations by argument
    required: list[str]
    is_open_ended: bool              # takes any other argument as well


@cache
def signature_of(cls: Any) -> Signature:
    """
    A constructor with ``*args, **kwargs``, or of a class with ``inherits_arguments``, hands on what it does not name to the next one
    among the bases.
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
    """Raise ConfigError for an argument that ``cls`` does not take, one that it needs and is missing, and in a class of a known package
    for a value of another type than its annotation or out of its range (detkit.argument_values).

    ``given``: names of arguments that the caller sets; their values are not looked at.
    """
    name = getattr(cls, '__name__', str(cls))
    try:
        signature = signature_of(cls)
    except (TypeError, ValueError):   # some builtins have no signature; calling them tells
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
    """Raise ConfigError for a key of ``cfg`` that is not in ``kinds``, or a value that is not of the type there or out of its range.

    ``what``: the setting that ``cfg`` is, for the message.
    """
    for key, value in cfg.items():
        if key not in kinds:
            raise ConfigError(f"{what} has no '{key}'.{did_you_mean(key, kinds)} It has: {', '.join(kinds)}.", cfg)
        fault = value_fault(value, kinds[key], key)
        if fault:
            raise ConfigError(str(fault), cfg, (key, *fault.keys))


def check_initializers(value: Any) -> None:
    """Raise ConfigError for an ``init_cfg``, a dict or a list of them, that ``init_weights`` could not follow."""
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
    """Raise ConfigError for an ``override`` of an ``init_cfg``: another way for the submodule ``name``; without ``type`` as ``cfg``."""
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
    """Make detkit's names the ones that mmengine builds.

    Names resolve lazily, so there is nothing to import; ``init_default_scope`` sets mmengine's default scope to
    ``detkit``, which a Runner built by hand (in a notebook) needs.
    """
    if init_default_scope:
        current = root.DefaultScope.get_current_instance()
        if current is None or current.scope_name != 'detkit':
            root.DefaultScope.get_instance(f'detkit-{len(root.DefaultScope._instance_dict)}', scope_name='detkit')


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
