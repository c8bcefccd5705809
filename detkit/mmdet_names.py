"""Names in MMDetection 2 and 3 and in mmcv, and their detkit equivalents: one table for error messages and documentation.

A failed old import gives one line with the new form. ``import detkit`` appends a finder to ``sys.meta_path``: it is called only if no
installed package has the module, and raises only for an ``import`` statement; ``importlib.util.find_spec('mmdet')`` still returns None.
This module imports only the standard library and detkit.catalogue.
"""
from __future__ import annotations

import dis
import re
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import CodeType, FrameType
from typing import Any, NoReturn

OLD_PACKAGES = ('mmdet', 'mmcv')
OLD_PARTS = ('apis', 'core', 'datasets', 'utils', 'engine', 'version')      # of mmdet; users may expect them in detkit
GUIDE = 'docs/from_mmdetection.md has the table.'

BUILD = 'from detkit.registry import MODELS; MODELS.build(cfg.model)'
EVALUATE = 'from detkit.engine import evaluate; evaluate(cfg, checkpoint)'
DRAW = "from detkit.visualization import draw_instances; draw_instances(image, sample.pred_instances, classes).save('a.jpg')"
INFER = "from detkit.apis import DetInferencer; DetInferencer(model)('a.jpg', out_dir='out')"
WRAP = 'nothing: train(cfg) and torchrun wrap the model'
PRECISION = 'from detkit.engine import train; train(cfg, amp=True)'

# Old name -> new form. Names of registered classes (RetinaNet, CocoDataset, Resize, ...) are looked up in detkit.catalogue.
NEW_FORMS: dict[str, str] = {
    'mmdet.__version__': 'import detkit; detkit.__version__',
    'mmdet.apis.init_detector': 'from detkit.apis import init_detector',
    'mmdet.apis.inference_detector': 'from detkit.apis import inference_detector',
    'mmdet.apis.async_inference_detector': 'from detkit.apis import DetInferencer; DetInferencer(model).stream(paths)',
    'mmdet.apis.DetInferencer': 'from detkit.apis import DetInferencer',
    'mmdet.apis.show_result_pyplot': "from detkit.apis import DetInferencer; DetInferencer(model)('a.jpg', show=True)",
    'mmdet.apis.train_detector': "from detkit.engine import train; train(cfg, work_dir='work_dirs/a')",
    'mmdet.apis.set_random_seed': 'from detkit.engine import train; train(cfg, seed=0)',
    'mmdet.apis.init_random_seed': 'from detkit.engine import train; train(cfg, seed=0)',
    'mmdet.apis.single_gpu_test': EVALUATE,
    'mmdet.apis.multi_gpu_test': EVALUATE,
    'mmdet.datasets.build_dataset': 'from detkit.registry import DATASETS; DATASETS.build(cfg.train_dataloader.dataset)',
    'mmdet.datasets.build_dataloader': 'from detkit.engine.loaders import build_loader; build_loader(cfg.train_dataloader)',
    'mmdet.datasets.CustomDataset': 'from detkit.data.datasets.detection import DetDataset',
    'mmdet.datasets.PIPELINES': 'from detkit.registry import TRANSFORMS',
    'mmdet.datasets.DATASETS': 'from detkit.registry import DATASETS',
    'mmdet.datasets.pipelines.Compose': 'from detkit.data.compose import Compose',
    'mmdet.datasets.replace_ImageToTensor': "nothing: pipelines end in dict(type='PackDetInputs')",
    'mmdet.models.build_detector': BUILD,
    'mmdet.models.build_backbone': BUILD,
    'mmdet.models.build_neck': BUILD,
    'mmdet.models.build_head': BUILD,
    'mmdet.models.build_loss': BUILD,
    'mmdet.models.DETECTORS': 'from detkit.registry import MODELS',
    'mmdet.models.BACKBONES': 'from detkit.registry import MODELS',
    'mmdet.models.NECKS': 'from detkit.registry import MODELS',
    'mmdet.models.HEADS': 'from detkit.registry import MODELS',
    'mmdet.models.LOSSES': 'from detkit.registry import MODELS',
    'mmdet.models.ROI_EXTRACTORS': 'from detkit.registry import MODELS',
    'mmdet.models.SHARED_HEADS': 'from detkit.registry import MODELS',
    'mmdet.models.BaseDetector': 'from detkit.models.detectors.detector import Detector',
    'mmdet.core.bbox2result': 'nothing: a result is a DetDataSample, with result.pred_instances.bboxes, .scores and .labels',
    'mmdet.core.encode_mask_results': 'nothing: result.pred_instances.masks.codes are run-length codes',
    'mmdet.core.get_classes': "from detkit.registry import DATASETS; DATASETS.get('CocoDataset').METAINFO['classes']",
    'mmdet.core.bbox_overlaps': 'from detkit.ops import pairwise_iou; pairwise_iou(boxes, others)',
    'mmdet.core.multiclass_nms': 'from detkit.ops import batched_nms',
    'mmdet.core.build_assigner': 'from detkit.registry import TASK_UTILS; TASK_UTILS.build(cfg)',
    'mmdet.core.build_bbox_coder': 'from detkit.registry import TASK_UTILS; TASK_UTILS.build(cfg)',
    'mmdet.core.build_anchor_generator': 'from detkit.registry import TASK_UTILS; TASK_UTILS.build(cfg)',
    'mmdet.core.BBOX_ASSIGNERS': 'from detkit.registry import TASK_UTILS',
    'mmdet.core.ANCHOR_GENERATORS': 'from detkit.registry import TASK_UTILS',
    'mmdet.core.BitmapMasks': 'from detkit.structures import BitmapMasks',
    'mmdet.core.PolygonMasks': 'from detkit.structures import PolygonMasks',
    'mmdet.core.EvalHook': 'nothing: val_dataloader, val_evaluator and train_cfg=dict(val_interval=1) in the config',
    'mmdet.core.DistEvalHook': 'nothing: val_dataloader, val_evaluator and train_cfg=dict(val_interval=1) in the config',
    'mmdet.core.eval_map': "dict(type='CocoMetric', metric='bbox') as val_evaluator",
    'mmdet.core.imshow_det_bboxes': DRAW,
    'mmdet.core.imshow_gt_det_bboxes': DRAW,
    'mmdet.utils.register_all_modules': 'from detkit.registry import register_all_modules',
    'mmdet.utils.collect_env': 'from detkit.environment import collect_env',
    'mmdet.utils.get_root_logger': 'from mmengine.logging import MMLogger; MMLogger.get_current_instance()',
    'mmdet.utils.setup_multi_processes': 'nothing: train(cfg) does it',
    'mmdet.utils.setup_cache_size_limit_of_dynamo': 'nothing: train(cfg) does it',
    'mmdet.utils.compat_cfg': 'nothing: load_config(path) reads the config',
    'mmdet.utils.replace_cfg_vals': 'nothing: load_config(path) reads the config',
    'mmdet.utils.update_data_root': 'nothing: the environment variable DETKIT_DATA_ROOT, or --cfg-options data_root=...',
    'mmdet.utils.build_dp': WRAP,
    'mmdet.utils.build_ddp': WRAP,
    'mmdet.utils.ConfigType': 'dict',
    'mmdet.utils.OptConfigType': 'dict | None',
    'mmdet.utils.OptMultiConfig': 'dict | list[dict] | None',
    'mmdet.utils.InstanceList': 'from mmengine.structures import InstanceData; list[InstanceData]',
    'mmdet.utils.get_device': 'from mmengine.device import get_device',
    'mmdet.registry.MODELS': 'from detkit.registry import MODELS',
    'mmdet.registry.DATASETS': 'from detkit.registry import DATASETS',
    'mmdet.registry.TRANSFORMS': 'from detkit.registry import TRANSFORMS',
    'mmdet.registry.TASK_UTILS': 'from detkit.registry import TASK_UTILS',
    'mmdet.registry.METRICS': 'from detkit.registry import METRICS',
    'mmdet.registry.HOOKS': 'from detkit.registry import HOOKS',
    'mmdet.registry.LOOPS': 'from detkit.registry import LOOPS',
    'mmdet.registry.OPTIM_WRAPPERS': 'from detkit.registry import OPTIM_WRAPPERS',
    'mmdet.registry.RUNNERS': 'from detkit.registry import RUNNERS',
    'mmdet.registry.VISUALIZERS': 'from detkit.registry import VISUALIZERS',
    'mmdet.structures.DetDataSample': 'from detkit.structures import DetDataSample',
    'mmdet.structures.SampleList': 'from detkit.structures import DetDataSample; list[DetDataSample]',
    'mmdet.visualization.DetLocalVisualizer': 'from detkit.visualization import DetLocalVisualizer',
    'mmdet.evaluation.CocoMetric': 'from detkit.evaluation import CocoMetric',
    'mmcv.__version__': 'import detkit; detkit.__version__',
    'mmcv.Config': "from detkit.config import load_config; load_config('my_config.py')",
    'mmcv.Config.fromfile': "from detkit.config import load_config; load_config('my_config.py')",
    'mmcv.ConfigDict': 'from mmengine.config import ConfigDict',
    'mmcv.DictAction': 'from mmengine.config import DictAction',
    'mmcv.imread': "from detkit.opencv import cv2; cv2.imread('a.jpg')",
    'mmcv.imwrite': "from detkit.opencv import cv2; cv2.imwrite('a.jpg', image)",
    'mmcv.imresize': 'from detkit.opencv import cv2; cv2.resize(image, (width, height))',
    'mmcv.imshow': 'from detkit.visualization import Picture; Picture(image)',
    'mmcv.imshow_det_bboxes': DRAW,
    'mmcv.visualization.imshow_bboxes': DRAW,
    'mmcv.visualization.imshow_det_bboxes': DRAW,
    'mmcv.bgr2rgb': 'image[..., ::-1]',
    'mmcv.VideoReader': "from detkit.apis import DetInferencer; DetInferencer(model).stream('clip.mp4')",
    'mmcv.ProgressBar': 'from mmengine.utils import ProgressBar',
    'mmcv.track_iter_progress': 'from mmengine.utils import track_iter_progress',
    'mmcv.mkdir_or_exist': 'from mmengine.utils import mkdir_or_exist',
    'mmcv.load': 'from mmengine.fileio import load',
    'mmcv.dump': 'from mmengine.fileio import dump',
    'mmcv.runner.load_checkpoint': 'from detkit.engine.checkpoint import load_weights; load_weights(model, checkpoint)',
    'mmcv.runner.save_checkpoint': 'from detkit.engine.checkpoint import write_checkpoint',
    'mmcv.runner.init_dist': "from detkit.engine import train; train(cfg, launcher='pytorch')",
    'mmcv.runner.get_dist_info': 'from mmengine.dist import get_dist_info',
    'mmcv.runner.wrap_fp16_model': PRECISION,
    'mmcv.runner.auto_fp16': PRECISION,
    'mmcv.runner.force_fp32': PRECISION,
    'mmcv.runner.build_optimizer': "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(...)) in the config",
    'mmcv.runner.EpochBasedRunner': 'from detkit.engine import build_runner; build_runner(cfg).train()',
    'mmcv.runner.HOOKS': 'from detkit.registry import HOOKS',
    'mmcv.runner.Hook': 'from mmengine.hooks import Hook',
    'mmcv.runner.BaseModule': 'from mmengine.model import BaseModule',
    'mmcv.runner.ModuleList': 'from mmengine.model import ModuleList',
    'mmcv.runner.Sequential': 'from mmengine.model import Sequential',
    'mmcv.runner.IterBasedRunner': 'from detkit.engine import build_runner; build_runner(cfg).train()',
    'mmcv.parallel.MMDataParallel': WRAP,
    'mmcv.parallel.MMDistributedDataParallel': WRAP,
    'mmcv.parallel.collate': 'from mmengine.dataset import pseudo_collate',
    'mmcv.parallel.scatter': 'nothing: model.data_preprocessor(data) moves a batch',
    'mmcv.cnn.ConvModule': 'from detkit.nn.conv import ConvModule',
    'mmcv.cnn.build_conv_layer': 'from detkit.nn.conv import build_conv',
    'mmcv.cnn.build_norm_layer': 'from detkit.nn.conv import build_norm',
    'mmcv.cnn.build_activation_layer': 'from detkit.nn.conv import build_activation',
    'mmcv.cnn.Scale': 'from detkit.nn.conv import Scale',
    'mmcv.cnn.DepthwiseSeparableConvModule': 'from detkit.nn.conv import DepthwiseSeparableConvModule',
    'mmcv.cnn.bias_init_with_prob': 'from detkit.nn.conv import bias_for_probability',
    'mmcv.cnn.normal_init': 'from mmengine.model import normal_init',
    'mmcv.cnn.kaiming_init': 'from mmengine.model import kaiming_init',
    'mmcv.cnn.xavier_init': 'from mmengine.model import xavier_init',
    'mmcv.cnn.constant_init': 'from mmengine.model import constant_init',
    'mmcv.ops.nms': 'from detkit.ops import nms',
    'mmcv.ops.batched_nms': 'from detkit.ops import batched_nms',
    'mmcv.ops.soft_nms': 'from detkit.ops import soft_nms',
    'mmcv.ops.roi_align': 'from detkit.ops import roi_align',
    'mmcv.ops.RoIAlign': 'from torchvision.ops import RoIAlign',
    'mmcv.ops.RoIPool': 'from torchvision.ops import RoIPool',
    'mmcv.ops.DeformConv2d': 'from detkit.nn.deform_conv import DeformConv2d',
    'mmcv.ops.ModulatedDeformConv2d': 'from detkit.nn.deform_conv import ModulatedDeformConv2d',
    'mmcv.ops.MultiScaleDeformableAttention': 'from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention',
    'mmcv.ops.sigmoid_focal_loss': 'from detkit.ops import sigmoid_focal_loss',
    'mmcv.transforms.BaseTransform': 'from detkit.data.transforms.base import BaseTransform',
    'mmcv.utils.Config': "from detkit.config import load_config; load_config('my_config.py')",
    'mmcv.utils.Registry': 'from mmengine.registry import Registry',
    'mmcv.utils.build_from_cfg': BUILD,
    'mmcv.utils.print_log': 'from mmengine.logging import print_log',
    'mmcv.is_list_of': 'from mmengine.utils import is_list_of',
    'mmcv.utils.get_logger': 'from mmengine.logging import MMLogger; MMLogger.get_current_instance()',
    'model.show_result': INFER,
    'model.simple_test': "from detkit.apis import inference_detector; inference_detector(model, 'a.jpg')",
    'model.aug_test': 'from detkit.engine import evaluate; evaluate(cfg, checkpoint, tta=True)',
    'model.forward_test': "from detkit.apis import inference_detector; inference_detector(model, 'a.jpg')",
    'model.forward_train': 'model.loss(inputs, data_samples)',
    'model.forward_dummy': "model(inputs, mode='tensor')",
    'model(return_loss=False)': 'model.test_step(batch)',
    'dataset.CLASSES': "dataset.metainfo['classes']",
    'dataset.PALETTE': "dataset.metainfo['palette']",
    'dataset.data_infos': '[dataset.get_data_info(index) for index in range(len(dataset))]',
    'dataset.get_ann_info': "dataset.get_data_info(index)['instances']",
    'dataset.prepare_train_img': 'dataset[index]',
    'dataset.prepare_test_img': 'dataset[index]',
    'dataset.evaluate': EVALUATE,
    'dataset.format_results': "dict(type='CocoMetric', format_only=True, outfile_prefix='results') as test_evaluator",
    'dataset.coco': 'import json; json.load(open(dataset.ann_file))',
    'result[label]': 'found = result.pred_instances; found.bboxes[found.labels == label]',
}

IMPORT = re.compile(r'from (\S+) import (\w+)')


# ---------------------------------------------------------------------------------------------------------- the table
def new_form(name: str) -> str | None:
    """Return the new form of a name such as ``mmdet.apis.init_detector``, or None.

    Searches the whole name, then package and last part (old code also imports from ``mmdet.models.builder``), then detkit's catalogue.
    """
    if name in NEW_FORMS:
        return NEW_FORMS[name]
    package, last = name.split('.')[0], name.rpartition('.')[2]
    for old, form in NEW_FORMS.items():
        if old.split('.')[0] == package and old.rpartition('.')[2] == last:
            return form
    return registered_class(last)


def registered_class(name: str) -> str | None:
    from detkit.catalogue import CATALOGUE
    for modules in CATALOGUE.values():
        for module, names in modules.items():
            if name in names.split():
                return f'from {module} import {name}'
    return None


def advice(names: list[str]) -> str:
    """Return the new form of each of ``names`` (dotted) that has one; imports from one module share a statement."""
    groups: dict[str, list[str]] = {}
    for name in names:
        form = new_form(name)
        if form:
            match = IMPORT.fullmatch(form)
            groups.setdefault(f'from {match[1]} import' if match else form, []).append(name)
    parts = []
    for form, olds in groups.items():
        if form.endswith(' import'):
            form += f" {', '.join(dict.fromkeys(IMPORT.fullmatch(new_form(old))[2] for old in olds))}"
        parts.append(f"for {', '.join(olds)} {form if form.startswith('nothing') else f'`{form}`'}")
    return f"write {'; '.join(parts)}." if parts else ''


def message(missing: str, module: str, names: list[str]) -> str:
    """Return a one-line message: the missing module, and the new form of each of ``names`` (dotted, as used in old code)."""
    start = f"No module named '{missing}'. detkit takes its place: "
    if not names:
        return f"{start}write `import detkit`; what '{module}' has is imported from detkit. {GUIDE}"
    unknown = [name for name in names if not new_form(name)]
    parts = [advice(names), f"detkit has nothing for {', '.join(unknown)}." if unknown else '', GUIDE]
    return start + ' '.join(part for part in parts if part)


# -------------------------------------------------------------------------------------------------------- old imports
class OldImportFinder:
    """Raise ModuleNotFoundError with the new form if an ``import`` of an old name fails."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return None for other modules, packages known to a later finder, and ``importlib.util.find_spec``.

        Raises:
            ModuleNotFoundError: an old import of a module that no finder knows.
        """
        package, _, part = name.partition('.')
        is_old = name in OLD_PACKAGES or package == 'detkit' and part in OLD_PARTS
        caller = sys._getframe(1)
        while caller is not None and caller.f_code.co_name == '_find_spec':
            caller = caller.f_back
        if not is_old or caller is None or caller.f_code.co_name != '_find_and_load_unlocked':
            return None
        for finder in sys.meta_path[sys.meta_path.index(OldImportFinder) + 1:]:
            found = finder.find_spec(name, path, target) if hasattr(finder, 'find_spec') else None
            if found is not None:
                return found
        module, names = statement(caller, name)
        raise ModuleNotFoundError(message(name, module, names), name=name)


def install_finder() -> None:
    """Append the finder, once."""
    if OldImportFinder not in sys.meta_path:
        sys.meta_path.append(OldImportFinder)


def statement(frame: FrameType | None, name: str) -> tuple[str, list[str]]:
    """Return the module of the import statement outside ``frame``, and the dotted old names that it or the code around it uses."""
    module = name
    while frame is not None and is_inside(frame):
        if frame.f_code.co_name == '_find_and_load':
            module = frame.f_locals.get('name', module)
        frame = frame.f_back
    if frame is None:
        return module, []
    asked, names, variable = import_at(frame.f_code, frame.f_lasti)
    module = asked or module
    names = [f'{module}.{n}' for n in names]
    if not names and variable:
        prefix = module if variable != module.split('.')[0] else variable         # import mmdet.apis as a; import mmdet.apis
        names = list(dict.fromkeys(known_part(f'{prefix}.{use}') for use in uses(frame.f_code, variable)))
    return module, [re.sub(r'^detkit\.', 'mmdet.', n) for n in names if n]


def known_part(name: str) -> str:
    """Return the longest prefix of a dotted name that has a new form, or '': ``mmcv.__version__`` of ``mmcv.__version__.split``."""
    while name and not new_form(name):
        name = name.rpartition('.')[0]
    return name


def is_inside(frame: FrameType) -> bool:
    """Return whether a frame belongs to the import machinery or to an installed MMDetection, not to the user's code."""
    return 'importlib' in frame.f_code.co_filename or str(frame.f_globals.get('__name__')).split('.')[0] in OLD_PACKAGES


def import_at(code: CodeType, offset: int) -> tuple[str | None, list[str], str | None]:
    """Return the import statement at ``offset`` of ``code``: module, imported names, and the variable of ``import a.b as c``.

    All None or empty if there is another instruction, such as a call of ``importlib.import_module``.
    """
    instructions = list(dis.get_instructions(code))
    place = next((i for i, instruction in enumerate(instructions) if instruction.offset == offset), None)
    if place is None or instructions[place].opname != 'IMPORT_NAME':
        return None, [], None
    names = next((i.argval for i in reversed(instructions[:place]) if i.opname == 'LOAD_CONST' and not isinstance(i.argval, int)), None)
    variable = next((i.argval for i in instructions[place:] if i.opname.startswith('STORE_')), None)
    return instructions[place].argval, [n for n in names or () if n != '*'], None if names else variable


def uses(code: CodeType, variable: str) -> Iterator[str]:
    """Yield the dotted names that ``code``, including its functions, reads from ``variable``: ``Config.fromfile`` of ``mmcv``."""
    chain: list[str] | None = None
    for instruction in dis.get_instructions(code):
        if chain is not None and instruction.opname in ('LOAD_ATTR', 'LOAD_METHOD'):
            chain.append(instruction.argval)
            continue
        if chain:
            yield '.'.join(chain)
        is_variable = instruction.opname.startswith('LOAD_') and instruction.opname != 'LOAD_CONST' and instruction.argval == variable
        chain = [] if is_variable else None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from uses(constant, variable)


# ------------------------------------------------------------------------------------- old names in detkit's own modules
def missing_attribute(module: str, name: str) -> NoReturn:
    """Raise the error for ``__getattr__`` of ``detkit.apis`` and other packages with an MMDetection counterpart.

    Raises:
        ImportError: an old name, or a class in another module; the message names the new form.
        AttributeError: any other name.
    """
    form = None if name.startswith('_') else new_form(f"mmdet.{module.partition('.')[2]}.{name}")
    if form:
        raise ImportError(f"'{module}' has no '{name}': write `{form}`. {GUIDE}", name=module)
    raise AttributeError(f"module '{module}' has no attribute '{name}'")


def old_method(name: str) -> Callable[..., NoReturn]:
    """Return a replacement for a method of MMDetection 2's detectors: raises TypeError with the new form when called."""
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"detectors have no {name}() since MMDetection 3. Write `{NEW_FORMS[f'model.{name}']}`. {GUIDE}")
    method.__name__ = name
    method.__doc__ = f"Raises TypeError: MMDetection 2's ``{name}`` has another form here."
    return method


def old_attribute(name: str) -> NoReturn:
    """Raise the error for ``__getattr__`` of datasets.

    Raises:
        AttributeError: always; for an attribute of MMDetection 2's datasets the message names the new form.
    """
    form = NEW_FORMS.get(f'dataset.{name}')
    raise AttributeError(f"data sets have no '{name}' since MMDetection 3. Write `{form}`. {GUIDE}" if form
                         else f"the data set has no attribute '{name}'")


def table() -> str:
    """Return NEW_FORMS as a Markdown table, used in docs/from_mmdetection.md."""
    rows = [f'| `{old}` | {form if form.startswith("nothing") else f"`{form}`"} |' for old, form in NEW_FORMS.items()]
    return '\n'.join(['| old | new |', '|---|---|', *rows])
