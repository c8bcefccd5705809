"""All replacements that detkit makes inside mmengine: what, why, in which version, and the test that fails without it.

The replacing functions are in the modules that use them (``detkit.config``, ``detkit.engine.checkpoint``). ``replaced`` and ``replace``
install them, and raise an error for a name that is not in the table or that mmengine no longer has. Standard library only.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Patch:
    reason: str
    test: str                      # file::function below tests/
    version: str = '0.10.7'        # the last mmengine version that needs it


CONFIG, CHECKPOINT = 'mmengine.config.config', 'mmengine.runner.checkpoint'
PATCHES: dict[str, Patch] = {
    f'{CONFIG}.Config._file2dict': Patch(
        'names a temporary copy of the file at fault, and reads bases before the variables that a child sets for them',
        'test_config.py::test_the_file_at_fault_is_named_not_the_one_that_inherits_it'),
    f'{CONFIG}.Config._parse_lazy_import': Patch(
        'does the same for pure Python configs', 'test_config.py::test_a_pure_python_base_at_fault_is_named'),
    f'{CONFIG}.RemoveAssignFromAST': Patch(
        'cannot set a variable before it is used', 'test_config.py::test_an_override_of_a_variable_reaches_everything_made_from_it'),
    f'{CONFIG}.ImportTransformer': Patch(
        'cannot either, in pure Python configs', 'test_config.py::test_lazy_configs_name_our_classes_for_mmdetection_s'),
    f'{CONFIG}.Config._get_base_files': Patch(
        'wraps a tuple of bases in a list', 'test_config.py::test_bases_with_backslashes_and_in_the_home_folder'),
    f'{CONFIG}.Config._pre_substitute_base_vars': Patch(
        'keeps to itself which name stands for the value of a {{_base_.name}} template',
        'test_config.py::test_a_file_works_with_the_value_of_a_template'),
    f'{CONFIG}.Config._is_lazy_import': Patch(
        'takes an import beside _base_ for a pure Python config', 'test_config.py::test_imports_beside_a_base_are_real_and_can_be_written'),
    f'{CONFIG}._is_builtin_module': Patch(
        'takes os, frozen since Python 3.11, for a foreign module',
        'test_config.py::test_a_template_may_stand_beside_an_import_of_the_standard_library'),
    'mmengine.config.utils._is_builtin_module': Patch(
        'is the same function under a second name', 'test_config.py::test_a_pure_python_config_uses_the_standard_library_at_once'),
    f'{CONFIG}.Config._get_cfg_path': Patch(
        'finds package:: bases in its own list of packages only', 'test_config.py::test_a_base_of_ours_may_be_named_by_package'),
    f'{CONFIG}.get_installed_path': Patch(
        'asks pkg_resources, gone since setuptools 82', 'test_config.py::test_a_pure_python_base_may_lie_in_a_package'),
    f'{CHECKPOINT}.load_state_dict': Patch(
        'prints every key that does not fit', 'engine/test_checkpoint.py::test_pretrained_of_mmengine_reads_files_as_data')}


def replace(replacements: Mapping[str, Any]) -> dict[str, Any]:
    """Install ``replacements`` (dotted name in PATCHES -> value); return the original values, which another call can restore.

    Raises:
        KeyError: a name is not in PATCHES.
        AttributeError: mmengine does not have (or no longer has) the attribute.
    """
    before = {}
    for name, value in replacements.items():
        patch = PATCHES[name]
        owner, attribute = owner_of(name)
        if attribute not in vars(owner):
            raise AttributeError(f"mmengine has no '{name}', which detkit replaces: that of mmengine {patch.version} {patch.reason}. "
                                 f"Install the mmengine that detkit's setup.cfg asks for.")
        before[name] = vars(owner)[attribute]
        setattr(owner, attribute, value)
    return before


@contextmanager
def replaced(replacements: Mapping[str, Any]) -> Iterator[None]:
    """Install ``replacements`` while the block runs."""
    before = replace(replacements)
    try:
        yield
    finally:
        replace(before)


def owner_of(name: str) -> tuple[Any, str]:
    """Return the module or class that has the attribute with the dotted name, and the attribute's name."""
    path, _, attribute = name.rpartition('.')
    module, _, last = path.rpartition('.')
    return (getattr(import_module(module), last) if last[0].isupper() else import_module(path)), attribute
