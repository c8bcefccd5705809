"""Name -> class: the registries that turn ``dict(type='FPN', ...)`` into an object.

They are children of mmengine's root registries with the scope ``detkit``. A name is looked up in ``catalogue.py`` and its
module imported on first use, so that importing detkit costs nothing. The prefixes ``mmdet.``, ``mmcv.`` and ``mmengine.``
mean detkit's own class, or mmengine's where detkit has none; ``mmpretrain.`` means detkit's for the classes in LIKE_MMPRETRAIN.

Registries stay silent about where they look; every failure is a ConfigError that names the config key.
"""
from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NoReturn

import mmengine.registry as root
from mmengine.registry import Registry as MMEngineRegistry

from detkit.catalogue import CATALOGUE
from detkit.mmdet_names import missing_attribute

OUR_SCOPES = ('detkit', 'mmdet', 'mmcv', 'mmengine')   # prefixes that mean "detkit's class of that name"
PRETRAINING = ('mmpretrain', 'mmcls')                  # the new and the old name of a package with classes of other arguments
LIKE_MMPRETRAIN = frozenset({'TIMMBackbone'})          # ours that take its arguments, with its defaults


class ConfigError(ValueError):
    """A config that cannot be built. The message says where, what, and what would work.

    ``cfg`` is the dict at fault and ``path`` the keys that lead from it to the fault; each enclosing ``build`` adds its own.
    """

    def __init__(self, message: str, cfg: Any = None, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.cfg, self.path = message, cfg, path

    def __str__(self) -> str:
        return f'{join_keys(self.path)}: {self.message}' if self.path else self.message

    def seen_from(self, outer: Any) -> 'ConfigError':
        """Lengthen ``path`` by the keys that lead from ``outer`` to the dict at fault, if it lies there."""
        keys = None if self.cfg is None else find_keys(outer, self.cfg)
        if keys is not None:
            self.path, self.cfg = keys + self.path, outer
        return self


def join_keys(keys: Iterable[str]) -> str:
    """``('pipeline', '[2]', 'type')`` -> ``'pipeline[2].type'``."""
    return '.'.join(keys).replace('.[', '[')


def find_keys(outer: Any, inner: Any) -> tuple[str, ...] | None:
    """The keys that lead from ``outer`` to ``inner`` (identical, or else equal); () when they are the same, None if not found."""
    if outer is inner or (isinstance(outer, dict) and outer == inner):
        return ()
    if isinstance(outer, dict):
        items = [(str(key), value) for key, value in outer.items()]
    elif isinstance(outer, (list, tuple)):
        items = [(f'[{i}]', value) for i, value in enumerate(outer)]
    else:
        return None
    for key, value in items:
        rest = find_keys(value, inner)
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


def build_from_cfg(cfg: Any, registry: MMEngineRegistry, default_args: dict | None = None, **context: Any) -> Any:
    """Build ``cfg``, or return it as it is when it is already an object or None.

    ``default_args`` fill in what ``cfg`` leaves out; ``context`` is handed down by the part that contains this one.

    Raises:
        ConfigError: no or an unknown ``type``, an argument that the class does not take, one that is missing, or any
            ConfigError from inside, its path lengthened by the way from here.
    """
    if isinstance(cfg, (str, int, float)):
        raise ConfigError(f"{cfg!r} stands where a dict with a type should describe what to build (registry '{registry.name}').")
    if not isinstance(cfg, dict):
        return cfg
    args = {**(default_args or {}), **cfg, **context}
    args.pop('_scope_', None)
    if 'type' not in args:
        raise ConfigError(f"has no 'type' (keys: {', '.join(map(str, cfg)) or 'none'}); the registry '{registry.name}' "
                          f'needs one to know what to build.', cfg)
    kind = args.pop('type')
    try:
        cls = registry.get(kind) if isinstance(kind, str) else kind
        check_arguments(cls, args)
        with root.DefaultScope.overwrite_default_scope('detkit'):     # for what mmengine's own classes build inside
            if inspect.isclass(cls) and issubclass(cls, root_manager()):
                return cls.get_instance(**args)
            return cls(**args)
    except ConfigError as error:
        if error.cfg is None:
            error.cfg = cfg
            if str(error.message).startswith(f"no '{kind}'"):
                error.path = ('type', *error.path)
        raise error.seen_from(cfg)
    except Exception as error:
        if type(error) not in VALUE_ERRORS or str(getattr(cls, '__module__', '')).split('.')[0] not in CHECKED_PACKAGES:
            raise                                          # a class of the user's own shows where it fails
        raise ConfigError(f"{getattr(cls, '__name__', cls)} cannot be built from {plain_arguments(args)}: {type(error).__name__}: "
                          f"{' '.join(str(error).split())}", cfg) from error


def plain_arguments(args: dict) -> str:
    """The arguments that are plain values, as a config has them."""
    plain = [f'{key}={value!r}' for key, value in args.items() if value is None or isinstance(value, (str, int, float, list, tuple))]
    text = ', '.join(plain) or 'its arguments'
    return text if len(text) <= MAX_ARGUMENTS_TEXT else f'{text[:MAX_ARGUMENTS_TEXT]}...'


def root_manager() -> type:
    from mmengine.utils import ManagerMixin
    return ManagerMixin


def check_arguments(cls: Any, args: dict) -> None:
    """Raise ConfigError for an argument that ``cls`` does not take or one that it needs and is missing."""
    name = getattr(cls, '__name__', str(cls))
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):   # some builtins have no signature; calling them tells
        return
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [] if open_ended else [a for a in args if a not in named]
    if unknown:
        raise ConfigError(f"{name} takes no argument '{unknown[0]}'.{did_you_mean(unknown[0], named)} "
                          f'It takes: {", ".join(named)}.')
    missing = [p.name for p in named.values() if p.default is p.empty and p.name not in args]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(repr(m) for m in missing)}.")


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
