"""detkit/catalogue.py says where each registered name lives; the ``register_module`` decorators say it too. They must agree."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import detkit.registry
from detkit.catalogue import CATALOGUE, names_in
from detkit.registry import REGISTRIES, Registry

VARIABLES = {variable: value.name for variable, value in vars(detkit.registry).items() if isinstance(value, Registry)}
NAMES = [(registry, module, name) for registry, modules in CATALOGUE.items() for module, names in modules.items()
         for name in names.split()]


def is_registration(node: ast.AST) -> bool:
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'register_module'
            and isinstance(node.func.value, ast.Name) and node.func.value.id in VARIABLES)


def names_of(call: ast.Call, default: str | None, module: str) -> list[str]:
    """The names that a ``register_module`` call gives: ``name='A'``, ``name=['A', 'B']``, ``name=names_in('model', __name__)`` in a file
    that registers nothing else, or the decorated thing's own."""
    given = next((word.value for word in call.keywords if word.arg == 'name'), call.args[0] if call.args else None)
    if given is None:
        assert default is not None, f'line {call.lineno}: register_module(module=...) without a name'
        return [default]
    if ast.unparse(given) == "names_in('model', __name__)":
        return names_in('model', module)
    value = ast.literal_eval(given)
    return [value] if isinstance(value, str) else list(value)


def registrations(path: Path, module: str = '') -> Iterator[tuple[str, str]]:
    """(registry, name) of every ``register_module`` in a file, that of ``module``, as a decorator or called."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    decorators = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            decorators.update({id(call): node.name for call in node.decorator_list if is_registration(call)})
    for node in ast.walk(tree):
        if is_registration(node):
            for name in names_of(node, decorators.get(id(node)), module):
                yield VARIABLES[node.func.value.id], name


def test_the_scan_sees_every_way_of_registering(tmp_path: Path):
    path = tmp_path / 'example.py'
    path.write_text("@MODELS.register_module()\nclass A: ...\n@MODELS.register_module(name=['B', 'C'])\nclass X: ...\n"
                    "HOOKS.register_module(name='D', module=X)\n@METRICS.register_module('E')\nclass Y: ...\n")
    assert list(registrations(path)) == [('model', 'A'), ('model', 'B'), ('model', 'C'), ('metric', 'E'), ('hook', 'D')] or \
        sorted(registrations(path)) == [('hook', 'D'), ('metric', 'E'), ('model', 'A'), ('model', 'B'), ('model', 'C')]


def test_catalogue_and_decorators_list_the_same_names(root: Path):
    scanned = set()
    for path in sorted((root / 'detkit').rglob('*.py')):
        module = '.'.join(path.relative_to(root).with_suffix('').parts)
        scanned |= {(registry, module, name) for registry, name in registrations(path, module)}
    assert sorted(scanned - set(NAMES)) == [], 'registered, but not in detkit/catalogue.py'
    assert sorted(set(NAMES) - scanned) == [], 'in detkit/catalogue.py, but registered nowhere'


def test_a_detector_has_all_names_of_its_line():
    single_stage = detkit.registry.MODELS.get('SingleStageDetector')
    names = names_in('model', 'detkit.models.detectors.single_stage')
    assert {'RetinaNet', 'RTMDet', 'YOLOX'} < set(names) and all(detkit.registry.MODELS.get(name) is single_stage for name in names)


def test_no_name_stands_twice_in_a_registry():
    pairs = [(registry, name) for registry, _, name in NAMES]
    assert sorted({pair for pair in pairs if pairs.count(pair) > 1}) == []


def test_the_catalogue_names_registries_that_exist():
    assert set(CATALOGUE) <= set(REGISTRIES)


@pytest.mark.parametrize(('registry', 'module', 'name'), NAMES, ids=[f'{r}-{n}' for r, _, n in NAMES])
def test_a_name_resolves_to_what_its_module_registers(registry: str, module: str, name: str):
    found = REGISTRIES[registry].get(name)
    assert found is not None
    assert found.__module__.startswith(('detkit.', 'mmengine.', 'torch.'))
