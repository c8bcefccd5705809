"""Reject settings without effect: unused names at the top of a file, and settings of MMDetection 2."""
from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from detkit.config_files import FileTree
from detkit.config_names import READ, ConfigNames
from detkit.registry import TRANSFORMS, ConfigError, did_you_mean
from detkit.renamed_settings import PLACES, SECTIONS, old_sections, old_settings

MIN_SIMILARITY = 0.89   # above it, a key is taken for a misspelled section; no variable in MMDetection's configs reaches it

# MMDetection 3.3.0's own configs contain these names without effect: file -> names.
CARRIED = {
    'bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py': 'interval',
    'bytetrack_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py': 'test_pipeline',
    'faster-rcnn_r50_fpg-chn128_crop640-50e_coco.py': 'norm_cfg',
    'ga-fast-rcnn_r50-caffe_fpn_1x_coco.py': 'data optimizer_config',
    'glip_atss_swin-t_a_fpn_dyhead_pretrain_odinw13.py': 'caption_prompt',
    'grounding_dino_swin-b_pretrain_odinw13.py': 'caption_prompt',
    'grounding_dino_swin-b_pretrain_odinw35.py': 'caption_prompt',
    'grounding_dino_swin-t_pretrain_odinw13.py': 'caption_prompt',
    'grounding_dino_swin-t_pretrain_odinw35.py': 'caption_prompt',
    'mask-rcnn_r50-caffe_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-100e_coco.py': 'test_pipeline',
    'mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-90k_coco.py': 'max_iters',
    'mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-scp-90k_coco.py': 'max_iters',
    'ssd300.py': 'cudnn_benchmark',
    'strongsort_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py': 'train_pipeline',
    'yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py': 'interval',
    'yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py': 'test_pipeline',
}


def check_file_settings(tree: FileTree, cfg: dict) -> None:
    """Raise ConfigError if a name at the top of a file has no effect or is a setting of MMDetection 2.

    A file without ``model`` is a part of a config; its names may be used elsewhere, so they are not checked. Names that start with an
    underscore and files of installed packages are not checked either.
    """
    check_old_settings(cfg, tree)
    if 'model' not in cfg:
        return
    for path, name in unused_names(tree):
        names = tree.names[path]
        raise ConfigError(f"{path}:{names.bound[name]}: '{name}' is set, but nothing reads it."
                          f'{way_to_set(tree, path, name) or suggestion(name, tree)}')


def unused_names(tree: FileTree) -> Iterator[tuple[Path, str]]:
    """Yield ``(file, name)`` for every top-level name that neither its file, nor a file based on it, nor detkit reads."""
    readers: dict[Path, set[str]] = {path: set() for path in tree.names}     # file -> names that files based on it read
    for path, names in tree.names.items():
        for base in tree.below(path):
            readers[base] |= names.from_bases
    for path, names in tree.names.items():
        if '.mim' in path.parts:
            continue
        carried = CARRIED.get(path.name, '').split()
        for name in names.bound:
            if not (name in READ or name in names.used or name in readers[path] or name in tree.settings(path)
                    or name in carried or name.startswith('_') or is_dumped(names) and not misspelt_section(name)
                    or is_same_as_in_base(tree, path, name)):
                yield path, name


def is_dumped(names: ConfigNames) -> bool:
    """Return whether the file is a complete config written by ``Config.dump``: only values, with all variables substituted."""
    return names.reads_nothing and not names.bases and 'model' in names.bound


def contradicted_names(tree: FileTree, cfg: dict) -> Iterator[str]:
    """Yield a message for each plain top-level value of a dumped config that differs from all values under the same key in its sections.

    Such a value is not read: probably a user has edited it there. It is only a message, because a recipe that sets a section but leaves
    the variable of its base unchanged gives the same dump.
    """
    for path, names in tree.names.items():
        if not is_dumped(names):
            continue
        sections = {key: value for key, value in dict.items(cfg) if key in READ}
        for name, line in names.bound.items():
            value = dict.get(cfg, name)
            if name in READ or not isinstance(value, (str, int, float)):
                continue
            places = list(places_of(name, sections))
            if places and all(other != value for _, other in places):
                key, other = places[0]
                yield f'{path}:{line}: {name}={value!r} changes nothing in this dumped config: {key} is {other!r}. Set {key}.'


def places_of(name: str, node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield ``(key path, value)`` for each plain value with the key ``name`` inside ``node``."""
    items = dict.items(node) if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        path = f'{prefix}[{key}]' if isinstance(key, int) else f'{prefix}.{key}' if prefix else str(key)
        if key == name and isinstance(value, (str, int, float)):
            yield path, value
        yield from places_of(name, value, path)


def is_same_as_in_base(tree: FileTree, path: Path, name: str) -> bool:
    values = tree.names[path].values
    return name in values and any(name in tree.names[base].values and tree.names[base].values[name] == values[name]
                                  for base in tree.below(path))


def way_to_set(tree: FileTree, path: Path, name: str) -> str:
    """Return how to set the variable ``name`` of a base of ``path``, or '' if no base has a variable that is used."""
    for base in tree.below(path):
        names = tree.names[base]
        made = sorted({key for key in reached(names, name) if key in READ})
        if name in names.bound and made:
            return (f" {base.name}:{names.bound[name]} has a variable of that name, but it goes into {', '.join(made)} before this file is "
                    f'read. Set its keys in those sections here, or give --cfg-options {name}=..., which replaces the variable.')
    return ''


def reached(names: ConfigNames, name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Return the top-level names of the file that depend on ``name``, directly or indirectly."""
    direct = set(names.readers.get(name, ())) - seen
    return direct.union(*(reached(names, other, seen | direct | {name}) for other in direct))


def suggestion(name: str, tree: FileTree) -> str:
    """Return a suggestion for a name that is not read."""
    declared = tree.variables(list(tree.names))
    for counted, other in (('max_epochs', 'max_iters'), ('max_iters', 'max_epochs')):
        if name == counted and other in declared:
            return f' This recipe is counted by {other}: set that.'
    if name in SECTIONS:
        return f" It is MMDetection 2's form. Now: {SECTIONS[name][1]}."
    if name in PLACES:
        return f' Set {PLACES[name]}.'
    near = did_you_mean(name, READ | {n for names in tree.names.values() for n in names.bound} - {name})
    return near or ' Use it in this file, or take it out; a name of your own that only your code reads begins with an underscore.'


def misspelt_section(key: str, sections: frozenset[str] = READ) -> str | None:
    """Return the section of a config that ``key`` probably misspells, or None."""
    return next(iter(difflib.get_close_matches(key, sections, n=1, cutoff=MIN_SIMILARITY)), None)


# Allowed types of sections; objects that are already built are always allowed.
KINDS = {'a dict': ((dict,), """model data_preprocessor train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg
             optim_wrapper default_hooks env_cfg log_processor visualizer randomness custom_imports auto_scale_lr model_wrapper_cfg
             tta_model"""),
         'a dict or a list of dicts': ((dict, list, tuple), 'val_evaluator test_evaluator param_scheduler'),
         'a list of dicts': ((list, tuple), 'custom_hooks tta_pipeline'),
         'True or False': ((bool,), 'resume find_unused_parameters efficient_conv_bn_eval trusted_checkpoints'),
         "True, False or 'auto'": ((bool,), 'amp channels_last'),
         'True, False or a dict': ((bool, dict), 'compile'),
         'a list of names of modules': ((dict, list, tuple), 'activation_checkpointing'),
         'a text': ((str,), 'load_from work_dir experiment_name launcher default_scope'),
         "a level such as 'INFO'": ((str,), 'log_level')}
MAX_SEED = 2 ** 32 - 1     # numpy's limit
LOG_LEVELS = ('CRITICAL', 'ERROR', 'WARNING', 'WARN', 'INFO', 'DEBUG', 'NOTSET')


def check_kinds(cfg: dict) -> None:
    """Raise ConfigError for a section with a plain value of an invalid type: ``train_cfg=3``, ``resume='maybe'``."""
    for kind, (types, names) in KINDS.items():
        for key in names.split():
            value = dict.get(cfg, key)
            is_wrong = isinstance(value, (str, int, float, list, tuple, dict)) and not isinstance(value, types) \
                or key == 'log_level' and isinstance(value, str) and value.upper() not in LOG_LEVELS
            if is_wrong and not (value == 'auto' and 'auto' in kind):
                raise ConfigError(f'{key} is {value!r}; it should be {kind}.')
    if dict.get(cfg, 'load_from') == '':
        raise ConfigError('load_from is an empty text; it should be the path of a checkpoint, or None.')
    seed = (dict.get(cfg, 'randomness') or {}).get('seed')
    if not (seed is None or isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED):
        raise ConfigError(f'randomness.seed is {seed!r}; it should be a whole number from 0 to {MAX_SEED}, or None.')
    for part, value in (dict.get(cfg, 'env_cfg') or {}).items():
        if part.endswith('_cfg') and not isinstance(value, (dict, type(None))):
            raise ConfigError(f'env_cfg.{part} is {value!r}; it should be a dict.')
    for key, items in (('default_hooks', (dict.get(cfg, 'default_hooks') or {})), ('custom_hooks', dict.get(cfg, 'custom_hooks') or ())):
        for name, hook in items.items() if isinstance(items, dict) else enumerate(items):
            if isinstance(hook, (str, int, float, list, tuple)):
                place = f'{key}[{name}]' if isinstance(name, int) else f'{key}.{name}'
                raise ConfigError(f"{place} is {hook!r}; it should be a dict with a type, such as dict(type='EMAHook').")


def check_keys(cfg: Config) -> None:
    """Raise ConfigError for a misspelled section, or a variable that was changed after its file had been read.

    ``load_config`` has checked the names in files and stored their values; values that differ now were set in Python.
    """
    noted = getattr(cfg, '_variables', None)
    if '_base_' in cfg:
        raise ConfigError(f"a config given in Python has no _base_; here it is {cfg['_base_']!r}. Write it into a file, or load the base "
                          f"and give the rest: load_config(base, {{'optim_wrapper.optimizer.lr': 0.01}}).")
    check_kinds(cfg._cfg_dict)
    sections = READ if noted is not None or not cfg.filename else READ - set(cfg)     # mmengine's reader does not check names
    for key, value in dict.items(cfg._cfg_dict):
        if key in READ or (noted or {}).get(key) == repr(value):
            continue
        near = misspelt_section(key, sections)
        if near:
            raise ConfigError(f"the config has '{key}', which nothing reads. Did you mean '{near}'?")
        if noted is not None and not key.startswith('_') and not is_put_in_place(value, cfg):
            way = f'Use load_config(file, {{{key!r}: ...}})' if key in noted else f'Use {PLACES[key]}' if key in PLACES \
                else f'Now: {SECTIONS[key][1]}' if key in SECTIONS else f"Use '_{key}', if your own code reads it"
            raise ConfigError(f'{key}={value!r} was set after the config had been read, and nothing reads it. {way}.')
    for place, word, now in old_settings(cfg._cfg_dict) if noted is not None else ():
        if word not in TRANSFORMS:
            raise ConfigError(f"'{place}' is MMDetection 2's form, which nothing reads. Now: {now}.")


def note_values(cfg: Config) -> None:
    """Store the current values of ``cfg``, so that ``check_keys`` detects later changes."""
    object.__setattr__(cfg, '_variables', {key: repr(value) for key, value in dict.items(cfg._cfg_dict) if key not in READ})
    object.__setattr__(cfg, '_sections', Counter(map(repr, values_in_sections(cfg))))


def is_put_in_place(value: Any, cfg: Config) -> bool:
    """Return whether ``value`` has also been written into a section since ``note_values``; for a str, also as the start of a longer str."""
    before = Counter(getattr(cfg, '_sections', ()))
    for node in values_in_sections(cfg):
        text = repr(node)
        if before[text] > 0:
            before[text] -= 1
        elif node == value or isinstance(value, str) and isinstance(node, str) and node.startswith(value):
            return True
    return False


def values_in_sections(cfg: Config) -> Iterator[Any]:
    """Yield every value in the sections of ``cfg``, including nested values."""
    queue = [value for key, value in dict.items(cfg._cfg_dict) if key in READ]
    while queue:
        node = queue.pop()
        yield node
        queue.extend(dict.values(node) if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ())


def check_old_settings(cfg: dict, tree: FileTree | None = None) -> None:
    """Raise ConfigError if ``cfg`` has settings in MMDetection 2's form. ``tree``: the files from which it was read."""
    carried = {name for path in tree.names for name in CARRIED.get(path.name, '').split()} if tree else set()
    used = {name for names in tree.names.values() for name in names.used | names.from_bases} if tree else set()
    old = [(where(tree, key), key, now) for key, now in old_sections(cfg).items()
           if key not in carried and (key not in used or key in READ)]
    old += [(where(tree, word), place, now) for place, word, now in old_settings(cfg) if word not in TRANSFORMS]
    if old:
        place, key, now = old[0]
        others = ', '.join(f"'{k}'" for _, k, _ in old[1:7])
        raise ConfigError(f"{place}'{key}' is MMDetection 2's form, which nothing reads. Now: {now}."
                          f"{f' Old too: {others}.' if others else ''} docs/configs.md has a table of both forms.")


def where(tree: FileTree | None, word: str) -> str:
    """Return ``file:line: `` of the first occurrence of ``word`` in the files, starting with the file given by the user; or ''."""
    for path in reversed(tree.names) if tree else ():
        line = tree.line_of(path, word)
        if line:
            return f'{path}:{line}: '
    return ''


def check_variable_options(tree: FileTree, replaced: set[str]) -> None:
    """Raise ConfigError if an option replaces an unused variable.

    A dumped config still has its variables, but their values are already substituted in the sections.
    """
    readers = set().union(*(names.from_bases | names.used for names in tree.names.values()))
    for name in sorted(replaced - READ - readers):
        if name != 'num_classes':                          # may be derived from classes even if no model uses it
            path = next(path for path, names in tree.names.items() if name in names.bound)
            raise ConfigError(f"--cfg-options {name}: {path}:{tree.names[path].bound[name]} has it, but nothing is made from it there. "
                              f"{'Set ' + PLACES[name] if name in PLACES else 'Name the key that it went into'}.")
