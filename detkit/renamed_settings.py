"""Current names of MMDetection 2 settings, and of names that users expect at the top of a config.

Old articles and answers show MMDetection 2 configs. These settings are no longer read, so without an error the run would use other values.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from detkit.catalogue import CATALOGUE

# Top-level key -> the sections that replace it, and the current form.
SECTIONS = dict(
    data=('train_dataloader', 'train_dataloader, val_dataloader, test_dataloader: dict(batch_size=2, num_workers=2, '
          "sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(...)) for each"),
    optimizer=('optim_wrapper', "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(...))"),
    optimizer_config=('optim_wrapper', 'optim_wrapper = dict(clip_grad=dict(...)); cumulative_iters becomes accumulative_counts'),
    fp16=('optim_wrapper', "optim_wrapper = dict(type='AmpOptimWrapper'), or amp = 'auto'"),
    lr_config=('param_scheduler', "param_scheduler = [dict(type='LinearLR', ...), dict(type='MultiStepLR', milestones=[...])]: the "
               'warm-up is a scheduler of its own, and step is milestones'),
    momentum_config=('param_scheduler', "param_scheduler = [dict(type='CosineAnnealingMomentum', ...)]"),
    runner=('train_cfg', "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12); by iterations: "
            "dict(type='IterBasedTrainLoop', max_iters=90000)"),
    total_epochs=('train_cfg', 'train_cfg = dict(max_epochs=12)'),
    total_iters=('train_cfg', "train_cfg = dict(type='IterBasedTrainLoop', max_iters=90000)"),
    evaluation=('val_evaluator', "val_evaluator = dict(type='CocoMetric', metric='bbox'); the interval is train_cfg.val_interval, "
                'save_best is in default_hooks.checkpoint'),
    checkpoint_config=('default_hooks', "default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))"),
    log_config=('default_hooks', "default_hooks = dict(logger=dict(type='LoggerHook', interval=50)); TensorBoard is one of vis_backends in "
                'visualizer'),
    dist_params=('env_cfg', "env_cfg = dict(dist_cfg=dict(backend='nccl'))"),
    cudnn_benchmark=('env_cfg', 'env_cfg = dict(cudnn_benchmark=True)'),
    opencv_num_threads=('env_cfg', 'env_cfg = dict(mp_cfg=dict(opencv_num_threads=0))'),
    mp_start_method=('env_cfg', "env_cfg = dict(mp_cfg=dict(mp_start_method='fork'))"),
    workflow=('train_cfg', 'nothing: validation runs every train_cfg.val_interval epochs'),
    gpu_ids=('launcher', 'nothing: CUDA_VISIBLE_DEVICES chooses the GPUs'),
    device=('launcher', 'nothing: the GPU is used if there is one'),
    seed=('randomness', 'randomness = dict(seed=0)'),
    deterministic=('randomness', 'randomness = dict(deterministic=True)'),
    resume_from=('resume', "resume = True, with load_from = 'checkpoint.pth'; or --resume"))

# Names that were never sections: where their value belongs.
PLACES = dict(
    samples_per_gpu='train_dataloader = dict(batch_size=2)', workers_per_gpu='train_dataloader = dict(num_workers=2)',
    batch_size='train_dataloader = dict(batch_size=2)', num_workers='train_dataloader = dict(num_workers=2)',
    max_epochs='train_cfg = dict(max_epochs=12), and the same in param_scheduler', epochs='train_cfg = dict(max_epochs=12)',
    max_iters='train_cfg = dict(max_iters=90000)', val_interval='train_cfg = dict(val_interval=1)',
    lr='optim_wrapper = dict(optimizer=dict(lr=0.01))', learning_rate='optim_wrapper = dict(optimizer=dict(lr=0.01))',
    base_lr='optim_wrapper = dict(optimizer=dict(lr=0.01))',
    data_root='the data_root of each dataset: train_dataloader = dict(dataset=dict(data_root=...)), the same for val and test, and '
              'ann_file in val_evaluator and test_evaluator',
    metainfo='the metainfo of each dataset: train_dataloader = dict(dataset=dict(metainfo=...)), the same for val and test',
    classes='train_dataloader = dict(dataset=dict(metainfo=dict(classes=(...)))), the same for val and test, and num_classes of each head',
    CLASSES='train_dataloader = dict(dataset=dict(metainfo=dict(classes=(...)))), the same for val and test, and num_classes of each head',
    PALETTE='train_dataloader = dict(dataset=dict(metainfo=dict(palette=[...])))',
    num_classes='num_classes of each head in model: model = dict(bbox_head=dict(num_classes=2)), or '
                'model = dict(roi_head=dict(bbox_head=dict(num_classes=2)))',
    img_scale='the scale of Resize in each pipeline', image_size='the scale of Resize in each pipeline',
    img_norm_cfg='model = dict(data_preprocessor=dict(mean=[...], std=[...], bgr_to_rgb=True))',
    train_pipeline='train_dataloader = dict(dataset=dict(pipeline=train_pipeline))',
    val_pipeline='val_dataloader = dict(dataset=dict(pipeline=val_pipeline))',
    test_pipeline='val_dataloader = dict(dataset=dict(pipeline=test_pipeline)), the same for test_dataloader',
    dataset_type='the type of each dataset: train_dataloader = dict(dataset=dict(type=...))',
    norm_cfg='norm_cfg of the parts of model', pretrained="model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=...)))",
    ann_file='train_dataloader = dict(dataset=dict(ann_file=...))', pretrain='load_from', checkpoint='load_from', weights='load_from')

# Pipeline steps that no longer exist.
STEPS = dict(
    Normalize='take it out; model.data_preprocessor normalises: dict(mean=[...], std=[...], bgr_to_rgb=True)',
    DefaultFormatBundle='take it out; PackDetInputs, the last step, does its work',
    Collect="write dict(type='PackDetInputs') as the last step; meta_keys stay an argument of it",
    ImageToTensor='take it out; PackDetInputs, the last step, does its work',
    MultiScaleFlipAug='write its transforms straight into the pipeline: Resize with scale=img_scale, then PackDetInputs; for test-time '
                      'augmentation see tta_model and tta_pipeline')

# Argument of a step -> its current name.
STEP_ARGUMENTS = {
    'Resize': dict(img_scale='scale', multiscale_mode="RandomResize (for 'range') or RandomChoiceResize (for 'value')",
                   ratio_range='RandomResize(scale=..., ratio_range=...)'),
    'RandomFlip': dict(flip_ratio='prob')}

DATASET_ARGUMENTS = dict(img_prefix='data_prefix=dict(img=...)', seg_prefix='data_prefix=dict(seg=...)',
                         classes='metainfo=dict(classes=(...))', samples_per_gpu='batch_size of the dataloader')
LOADER_ARGUMENTS = dict(samples_per_gpu='batch_size', workers_per_gpu='num_workers')
OUR_DATASETS = frozenset(name for names in CATALOGUE['dataset'].values() for name in names.split())
OF_MODEL = ('rpn', 'rcnn', 'rpn_proposal', 'assigner', 'nms_pre', 'score_thr', 'max_per_img')   # keys of model.train_cfg, model.test_cfg

# Prefix of a key of --cfg-options -> the current prefix.
OPTIONS = {
    'data.samples_per_gpu': 'train_dataloader.batch_size', 'data.workers_per_gpu': 'train_dataloader.num_workers',
    'data.train.': 'train_dataloader.dataset.', 'data.val.': 'val_dataloader.dataset.',
    'data.test.': 'test_dataloader.dataset.',
    'optimizer.': 'optim_wrapper.optimizer.', 'optimizer_config.grad_clip': 'optim_wrapper.clip_grad',
    'optimizer_config.': 'optim_wrapper.',
    'lr_config.step': 'param_scheduler.1.milestones', 'lr_config.warmup_iters': 'param_scheduler.0.end',
    'runner.': 'train_cfg.', 'total_epochs': 'train_cfg.max_epochs', 'evaluation.interval': 'train_cfg.val_interval',
    'evaluation.save_best': 'default_hooks.checkpoint.save_best', 'evaluation.': 'val_evaluator.',
    'checkpoint_config.': 'default_hooks.checkpoint.', 'log_config.': 'default_hooks.logger.', 'dist_params.': 'env_cfg.dist_cfg.',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark', 'model.pretrained': 'model.backbone.init_cfg.checkpoint',
    'resume_from': 'resume', 'seed': 'randomness.seed'}


def option_of_today(key: str) -> str | None:
    """Return the current form of an MMDetection 2 option, or None: ``data.train.ann_file`` -> ``train_dataloader.dataset.ann_file``."""
    return next((new + key[len(old):] for old, new in OPTIONS.items() if key == old or old.endswith('.') and key.startswith(old)), None)


def old_sections(keys: dict[str, Any]) -> dict[str, str]:
    """Return the top-level keys that MMDetection 2 read -> their current form.

    A key whose current section also exists is a variable and is skipped, as is a key whose value is only possible in current configs.
    """
    of_model = {key: f'model = dict({key}=dict(...))' for key in ('train_cfg', 'test_cfg')
                if isinstance(keys.get(key), dict) and 'type' not in keys[key] and any(k in keys[key] for k in OF_MODEL)}
    return {key: now for key, (section, now) in SECTIONS.items() if key in keys and section not in set(keys) - set(of_model)} | of_model


def old_settings(cfg: dict) -> Iterator[tuple[str, str, str]]:
    """Yield ``(key path, word, current form)`` of MMDetection 2 settings inside the sections."""
    if isinstance(cfg.get('model'), dict) and 'pretrained' in cfg['model'] and 'backbone' in cfg['model']:
        yield 'model.pretrained', 'pretrained', "model.backbone.init_cfg = dict(type='Pretrained', checkpoint=...)"
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader')
        if isinstance(loader, dict):
            yield from ((f'{part}_dataloader.{old}', old, new) for old, new in LOADER_ARGUMENTS.items() if old in loader)
            yield from in_dataset(loader.get('dataset'), f'{part}_dataloader.dataset')


def bare_name(kind: Any) -> str:
    """Return ``'Collect'`` for ``'mmdet.Collect'``; '' for a class."""
    return re.sub(r'^(mmdet|mmcv|detkit)\.', '', kind) if isinstance(kind, str) else ''


def in_dataset(dataset: Any, place: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(dataset, dict):
        return
    if bare_name(dataset.get('type')) in OUR_DATASETS:     # a user's dataset may have an argument of that name
        yield from ((f'{place}.{old}', old, new) for old, new in DATASET_ARGUMENTS.items() if old in dataset)
    yield from in_pipeline(dataset.get('pipeline'), f'{place}.pipeline')
    yield from in_dataset(dataset.get('dataset'), f'{place}.dataset')
    for number, inner in enumerate(dataset.get('datasets') or () if isinstance(dataset.get('datasets'), (list, tuple)) else ()):
        yield from in_dataset(inner, f'{place}.datasets.{number}')


def in_pipeline(steps: Any, place: str) -> Iterator[tuple[str, str, str]]:
    for number, step in enumerate(steps if isinstance(steps, (list, tuple)) else ()):
        name = bare_name(step.get('type')) if isinstance(step, dict) else ''
        if name in STEPS:
            yield f'{place}.{number}', name, STEPS[name]
        for old, new in STEP_ARGUMENTS.get(name, {}).items():
            if old in step:
                yield f'{place}.{number}.{old}', old, new
