"""What detkit replaces in mmengine: all of it in one table, each entry there in mmengine, put back when a reading ends."""
from __future__ import annotations

import ast
import re
from importlib.metadata import version
from pathlib import Path

import mmengine.config.config as mmconfig
import mmengine.runner.checkpoint
import pytest

import detkit.engine.checkpoint
from detkit.config import load_config
from detkit.mmengine_patches import CONFIG, PATCHES, owner_of, replace, replaced


@pytest.mark.parametrize('name', PATCHES)
def test_a_patch_names_what_mmengine_has_its_version_and_a_test(name: str, root: Path):
    owner, attribute = owner_of(name)
    assert attribute in vars(owner) and PATCHES[name].version == version('mmengine')
    file, _, function = PATCHES[name].test.partition('::')
    assert function in {node.name for node in ast.parse((root / 'tests' / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_a_name_that_is_not_in_the_table_is_refused():
    with pytest.raises(KeyError, match='Config.dump'):
        replace({f'{CONFIG}.Config.dump': None})


def test_an_attribute_that_mmengine_no_longer_has_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(mmconfig, 'get_installed_path')
    with pytest.raises(AttributeError, match=re.escape("mmengine has no 'mmengine.config.config.get_installed_path'")):
        replace({f'{CONFIG}.get_installed_path': None})


def test_everything_is_put_back_after_the_block(tmp_path: Path):
    names = [name for name in PATCHES if name.startswith('mmengine.config')]
    before = [vars(owner)[attribute] for owner, attribute in map(owner_of, names)]
    with pytest.raises(RuntimeError), replaced({f'{CONFIG}.get_installed_path': str}):
        assert mmconfig.get_installed_path is str
        raise RuntimeError
    (tmp_path / 'x.py').write_text("model = dict(type='A')\n")
    load_config(tmp_path / 'x.py')
    assert [vars(owner)[attribute] for owner, attribute in map(owner_of, names)] == before


def test_mmengine_loads_weights_with_our_report():
    assert mmengine.runner.checkpoint.load_state_dict is detkit.engine.checkpoint.fill_for_mmengine


def test_nothing_else_sets_attributes_of_mmengine(root: Path):
    """An import of mmengine under a name, and an assignment to an attribute of that name."""
    found = []
    for path in (root / 'detkit').rglob('*.py'):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.asname or alias.name.split('.')[0] for node in imports for alias in node.names
                 if (getattr(node, 'module', None) or alias.name).startswith('mmengine')}
        targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
        found += [f'{path.name}: {ast.unparse(target)}' for target in targets
                  if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in names]
    assert found == ['config.py: ConfigDict.lazy']            # a switch that mmengine itself turns
