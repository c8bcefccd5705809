"""What users import: the names of MMDetection's that stay, ours beside them, and every name that a package lists as its own."""
from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import detkit

PUBLIC = {
    'detkit': ' '.join(detkit.__all__),
    'detkit.apis': 'init_detector inference_detector DetInferencer infer_files',
    'detkit.registry': '''register_all_modules ConfigError MODELS TASK_UTILS DATASETS TRANSFORMS METRICS HOOKS LOOPS RUNNERS OPTIMIZERS
        OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS DATA_SAMPLERS MODEL_WRAPPERS WEIGHT_INITIALIZERS LOG_PROCESSORS
        VISUALIZERS VISBACKENDS EVALUATOR INFERENCERS''',
    'detkit.structures': 'DetDataSample BitmapMasks PolygonMasks',
    'detkit.config': 'load_config dump_config find_config',
    'detkit.engine': 'train evaluate build_runner',
    'detkit.engine.checkpoint': 'load_checkpoint load_weights',
    'detkit.visualization': 'DetLocalVisualizer draw_instances side_by_side',
    'detkit.evaluation': 'CocoMetric evaluate_coco',
    'detkit.zoo': 'find_model load_index',
    'detkit.data.synthetic': 'generate',
    'detkit.data.known': 'download_dataset',
    'detkit.quickstart': 'quickstart',
    'detkit.environment': 'collect_env',
}
MMDETECTIONS = {   # parameter names that MMDetection 3.3's users pass by keyword
    ('detkit.apis', 'init_detector'): ['config', 'checkpoint', 'palette', 'device', 'cfg_options'],
    ('detkit.apis', 'inference_detector'): ['model', 'imgs', 'test_pipeline', 'text_prompt', 'custom_entities'],
    ('detkit.registry', 'register_all_modules'): ['init_default_scope'],
}


def packages() -> list[str]:
    return ['detkit', *(info.name for info in pkgutil.walk_packages(detkit.__path__, 'detkit.'))]


@pytest.mark.parametrize(('module', 'name'), [(m, n) for m, names in PUBLIC.items() for n in names.split()])
def test_a_public_name_is_there_and_says_what_it_is(module: str, name: str):
    thing = getattr(importlib.import_module(module), name)
    assert not inspect.isroutine(thing) and not inspect.isclass(thing) or thing.__doc__


@pytest.mark.parametrize(('place', 'names'), MMDETECTIONS.items(), ids=[name for _, name in MMDETECTIONS])
def test_arguments_have_mmdetections_names_and_order(place: tuple[str, str], names: list[str]):
    function = getattr(importlib.import_module(place[0]), place[1])
    assert list(inspect.signature(function).parameters)[:len(names)] == names


def test_every_name_that_a_package_lists_is_there():
    missing = [f'{package}.{name}' for package in packages() for module in [importlib.import_module(package)]
               for name in getattr(module, '__all__', ()) if not hasattr(module, name)]
    assert missing == []


def test_the_public_calls_are_imported_on_use(root: Path):
    program = """
import sys, detkit
assert set(detkit.__all__) <= set(dir(detkit))
assert not {'torch', 'mmengine'} & set(sys.modules)
detkit.load_config
assert 'torch' not in sys.modules
from detkit import DetInferencer, train
import detkit.engine, detkit.inference
assert train is detkit.engine.train and DetInferencer is detkit.inference.DetInferencer
"""
    subprocess.run([sys.executable, '-c', program], cwd=root, timeout=120, check=True)


def test_type_checkers_see_the_public_calls_where_they_are(root: Path):
    block = next(node for node in ast.parse((root / 'detkit/__init__.py').read_text()).body if isinstance(node, ast.If))
    seen = {name.name: statement.module for statement in block.body for name in statement.names}
    assert seen == {name: f'detkit.{module}' for name, module in detkit._MODULES.items()} and sorted(seen) == detkit.__all__
    setup = configparser.ConfigParser()
    setup.read(root / 'setup.cfg')
    assert 'py.typed' in setup['options.package_data']['detkit'].split() and (root / 'detkit/py.typed').is_file()


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'detkit' has no attribute 'nothing'. It offers: ConfigError, "):
        detkit.nothing  # noqa: B018
    assert not hasattr(detkit, '__path_hooks__')


def test_every_module_says_what_it_holds():
    modules = [importlib.import_module(package) for package in packages()]
    assert [m.__name__ for m in modules if not m.__doc__ and Path(m.__file__).read_text().strip()] == []


def test_the_version_is_a_version():
    assert [part.isdigit() for part in detkit.__version__.split('.')] == [True] * 3
