"""Code of MMDetection 2 and 3 works, or ends in one line that names the new form."""
from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.structures import InstanceData

import detkit
from detkit.apis import init_detector
from detkit.config import load_config
from detkit.data.datasets.coco import CocoDataset
from detkit.engine.loaders import build_loader
from detkit.mmdet_names import NEW_FORMS, OldImportFinder, new_form, table
from detkit.models.detectors.detector import Detector
from detkit.registry import ConfigError
from detkit.structures import DetDataSample

pytestmark = pytest.mark.skipif(any(map(importlib.util.find_spec, ('mmdet', 'mmcv'))), reason='MMDetection or mmcv is installed here')


def failing(code: str) -> str:
    """The message of the ImportError that ``code`` ends in."""
    with pytest.raises(ImportError) as error:
        exec(compile(code, '<old code>', 'exec'), {'__name__': '__main__'})
    assert '\n' not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------ the table
@pytest.mark.parametrize('form', sorted(set(NEW_FORMS.values())))
def test_every_new_form_is_one_that_exists(form):
    assert compile(form, 'form', 'exec') if not form.startswith(('nothing', 'dict(', 'optim_wrapper')) else True
    for part in form.split('; '):
        if part.startswith(('from ', 'import ')):
            exec(part, {})


def test_the_docs_show_the_table(root: Path):
    assert table() in (root / 'docs' / 'from_mmdetection.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(('old', 'new'), [
    ('mmdet.models.builder.build_detector', 'from detkit.registry import MODELS; MODELS.build(cfg.model)'),
    ('mmdet.models.dense_heads.RetinaHead', 'from detkit.models.dense_heads.retina_head import RetinaHead'),
    ('mmdet.datasets.pipelines.Resize', 'from detkit.data.transforms.geometry import Resize'),
    ('mmdet.engine.hooks.DetVisualizationHook', 'from detkit.engine.hooks.visualization import DetVisualizationHook'),
    ('mmdet.core.no_such_thing', None)])
def test_names_are_found_by_their_last_part_and_in_the_catalogue(old, new):
    assert new_form(old) == new
    if new:
        exec(new.partition(';')[0], {})


# -------------------------------------------------------------------------------------------------------------- imports
@pytest.mark.parametrize(('code', 'parts'), [
    ('from mmdet.apis import init_detector, inference_detector',
     ['for mmdet.apis.init_detector, mmdet.apis.inference_detector `from detkit.apis import init_detector, inference_detector`']),
    ('from mmdet.datasets import build_dataloader, build_dataset',
     ['build_loader(cfg.train_dataloader)`', '`from detkit.registry import DATASETS; ']),
    ('from mmdet.apis import train_detector, set_random_seed', ["train(cfg, work_dir='work_dirs/a')`", 'train(cfg, seed=0)`']),
    ('from mmdet.apis import single_gpu_test, multi_gpu_test, show_result_pyplot, async_inference_detector',
     ['evaluate(cfg, checkpoint)`', 'show=True)`', 'stream(paths)`']),
    ('from mmdet.models import build_detector, NoSuchHead', ['MODELS.build(cfg.model)`', 'detkit has nothing for mmdet.models.NoSuchHead']),
    ('from mmdet.core import bbox_overlaps as o, multiclass_nms', ['import pairwise_iou', 'import batched_nms']),
    ('from mmdet.registry import MODELS, TRANSFORMS', ['`from detkit.registry import MODELS, TRANSFORMS`']),
    ('from mmdet.structures import DetDataSample', ['`from detkit.structures import DetDataSample`']),
    ('from mmdet.visualization import DetLocalVisualizer', ['`from detkit.visualization import DetLocalVisualizer`']),
    ('from mmdet.evaluation import CocoMetric', ['`from detkit.evaluation import CocoMetric`']),
    ('from mmdet.utils import register_all_modules', ['`from detkit.registry import register_all_modules`']),
    ('from mmcv import Config, DictAction', ['load_config(', 'import DictAction']),
    ('from mmcv.runner import load_checkpoint', ['load_weights(model, checkpoint)']),
    ('from mmcv.parallel import MMDataParallel', ['MMDataParallel nothing: train(cfg)']),
    ('from mmcv.ops import RoIAlign, nms', ['from torchvision.ops import RoIAlign', 'from detkit.ops import nms']),
    ('def later():\n    from mmcv.cnn import ConvModule\nlater()', ['from detkit.nn.conv import ConvModule']),
    ('import mmcv\ncfg = mmcv.Config.fromfile("a.py")\ndef show():\n    return mmcv.imread("a.jpg")',
     ['load_config(', "cv2.imread('a.jpg')"]),
    ('import mmdet\nprint(mmdet.__version__)', ['`import detkit; detkit.__version__`']),
    ('import mmcv as m\nm.imread("a.jpg").shape\nm.no_such(m)', ["for mmcv.imread `from detkit.opencv import cv2; cv2.imread('a.jpg')`"]),
    ('import mmdet.apis\nmmdet.apis.init_detector(1)', ['for mmdet.apis.init_detector `from detkit.apis import init_detector`']),
    ('import mmdet.apis as a\na.init_detector(1)', ['for mmdet.apis.init_detector `from detkit.apis import init_detector`']),
    ('def f():\n    import mmcv\n    print(mmcv.__version__.split("."))\nf()',
     ['for mmcv.__version__ `import detkit; detkit.__version__`']),
    ('import mmcv.runner.checkpoint', ["what 'mmcv.runner.checkpoint' has is imported from detkit"]),
    ('from mmcv.runner import *', ["what 'mmcv.runner' has"]),
    ('import importlib\nimportlib.import_module("mmdet.core")', ["what 'mmdet.core' has"]),
    ('from detkit.datasets import build_dataset', ["No module named 'detkit.datasets'", 'DATASETS.build(']),
    ('from detkit.utils import register_all_modules', ['from detkit.registry import register_all_modules']),
    ('from detkit.apis import train_detector', ["'detkit.apis' has no 'train_detector': write `from detkit.engine import train; "]),
    ('from detkit.models import build_detector', ['MODELS.build(cfg.model)`']),
    ('from detkit.models import RetinaHead', ['`from detkit.models.dense_heads.retina_head import RetinaHead`']),
    ('from detkit.structures import bbox_overlaps', ['pairwise_iou']),
    ('from detkit.evaluation import eval_map', ["dict(type='CocoMetric', metric='bbox')"]),
    ('from detkit.visualization import imshow_det_bboxes', ['draw_instances']),
    ('from detkit.data import build_dataloader', ['build_loader']),
])
def test_an_old_import_names_the_new_form_in_one_line(code, parts):
    text = failing(code)
    assert all(part in text for part in [*parts, 'docs/from_mmdetection.md has the table.']), text


def test_the_error_is_the_one_that_python_would_raise():
    with pytest.raises(ModuleNotFoundError, match="^No module named 'mmdet'") as error:
        importlib.import_module('mmdet.apis')
    assert error.value.name == 'mmdet'
    assert 'mmdet' not in sys.modules


def test_whoever_asks_whether_mmdetection_is_installed_is_told_no():
    for name in ('mmdet', 'mmcv', 'detkit.datasets', 'detkit.utils'):
        assert importlib.util.find_spec(name) is None
    with pytest.raises(ConfigError, match="the package 'mmdet' is not installed"):
        load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')


def test_an_installed_package_comes_first_also_by_a_finder_that_is_added_later(tmp_path, monkeypatch):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('value = 3\n')

    class Later:
        @staticmethod
        def find_spec(name, path=None, target=None):
            place = tmp_path / 'mmcv' / '__init__.py'
            return importlib.util.spec_from_file_location(name, place) if name == 'mmcv' else None

    assert sys.meta_path.count(OldImportFinder) == 1
    monkeypatch.setattr(sys, 'meta_path', [*sys.meta_path, Later])
    try:
        assert importlib.import_module('mmcv').value == 3
        with pytest.raises(ModuleNotFoundError, match="^No module named 'mmcv.ops'"):
            importlib.import_module('mmcv.ops')
    finally:
        del sys.modules['mmcv']


def test_an_installed_mmdetection_without_mmcv_leads_to_what_the_user_imports(tmp_path, monkeypatch):
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet' / '__init__.py').write_text('import mmcv\n')
    (tmp_path / 'mmdet' / 'apis.py').write_text('')
    monkeypatch.syspath_prepend(str(tmp_path))
    text = failing('from mmdet.apis import init_detector')
    assert text.startswith("No module named 'mmcv'") and '`from detkit.apis import init_detector`' in text


def test_a_module_of_the_users_that_a_config_names_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'my_old_heads.py').write_text('from mmdet.models import HEADS\n')
    (tmp_path / 'c.py').write_text("custom_imports = dict(imports=['my_old_heads'])\nmodel = dict(type='RetinaNet')\n")
    with pytest.raises(ConfigError, match="'my_old_heads' .*for mmdet.models.HEADS `from detkit.registry import MODELS`") as error:
        load_config(tmp_path / 'c.py')
    assert '\n' not in str(error.value)


def test_a_script_ends_in_one_line_and_loads_nothing_heavy():
    code = 'import sys, detkit\nassert "torch" not in sys.modules and "mmengine" not in sys.modules\nfrom mmdet.apis import init_detector'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60,
                          env={'PYTHONPATH': str(Path(detkit.__file__).parents[1])})
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: No module named 'mmdet'. detkit takes its place: write for mmdet.apis.init_detector "
                           '`from detkit.apis import init_detector`.')


# -------------------------------------------------------------------------------------------------------------- objects
def test_other_missing_names_stay_attribute_errors():
    import detkit.models
    import detkit.structures
    for module in (detkit.structures, detkit.models, detkit.apis, detkit.data):
        assert not hasattr(module, 'nonsense') and not hasattr(module, '__wrapped__')
    assert new_form('mmdet.models.backbones') is None
    from detkit.models import backbones
    assert backbones.__name__ == 'detkit.models.backbones'


def test_old_methods_of_a_detector_name_the_new_form(recwarn):
    model = init_detector('rtmdet_nano_bccd', device='cpu')
    assert model.CLASSES == tuple(model.dataset_meta['classes']) and len(model.CLASSES) == 3
    old = [name.partition('.')[2] for name in NEW_FORMS if name.startswith('model.')]
    assert len(old) == 6
    for name in old:
        with pytest.raises(TypeError) as error:
            getattr(model, name)('a.jpg')
        assert NEW_FORMS[f'model.{name}'] in str(error.value) and '\n' not in str(error.value)
    assert 'show_result' not in dict(model.named_modules()) and isinstance(model, Detector)


def test_a_result_is_no_list_of_arrays():
    result = DetDataSample(pred_instances=InstanceData(bboxes=torch.zeros(2, 4), labels=torch.tensor([0, 1])))
    for use in (lambda: result[0], lambda: [*result], lambda: dict(boxes=result[0])):
        with pytest.raises(TypeError, match=r'no list: for result\[label\] write `found = result.pred_instances; '):
            use()
    label = 1
    scope = dict(result=result, label=label)
    exec(NEW_FORMS['result[label]'].replace('; ', '; boxes = '), scope)
    assert scope['boxes'].shape == (1, 4)


def test_old_arguments_of_a_detector_name_the_new_form(recwarn):
    model = init_detector('rtmdet_nano_bccd', device='cpu')
    for call in (lambda: model(return_loss=False, rescale=True, img=[], img_metas=[]),
                 lambda: model(torch.zeros(1, 3, 32, 32), return_loss=False)):
        with pytest.raises(TypeError, match=r'and not return_loss.*write `model.test_step\(batch\)`') as error:
            call()
        assert '\n' not in str(error.value)


def test_old_attributes_of_a_data_set_name_the_new_form(tmp_path):
    (tmp_path / 'a.json').write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    dataset = CocoDataset(ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('a',)), lazy_init=True)
    for name in ('CLASSES', 'PALETTE', 'data_infos', 'get_ann_info', 'prepare_train_img', 'evaluate', 'format_results', 'coco'):
        with pytest.raises(AttributeError, match=rf"data sets have no '{name}' since MMDetection 3. Write `"):
            getattr(dataset, name)
    assert not hasattr(dataset, 'colour') and pickle.loads(pickle.dumps(dataset)).ann_file == dataset.ann_file
    with pytest.raises(TypeError, match=r"Mine.CLASSES is MMDetection 2's form.*METAINFO = dict\(classes=\('a',\)\)"):
        type('Mine', (CocoDataset,), dict(CLASSES=('a',)))


def test_old_names_are_looked_for_in_the_registry_and_the_engine_too():
    for code, form in (('from detkit.registry import DETECTORS', 'from detkit.registry import MODELS'),
                       ('from detkit.registry import PIPELINES', 'from detkit.registry import TRANSFORMS'),
                       ('from detkit.engine import train_detector', 'from detkit.engine import train; ')):
        with pytest.raises(ImportError) as error:
            exec(code, {})
        assert f'write `{form}' in str(error.value)
    with pytest.raises(ConfigError, match='a data loader is built from a dict such as cfg.train_dataloader, and not from a list'):
        build_loader([])
