"""Train and test with one call each, from ``tools/train.py``, ``tools/test.py`` or a notebook."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import PrepareTTAHook

from detkit.config import load_config
from detkit.engine.checkpoint import load_checkpoint, load_weights, restore_histories
from detkit.engine.prepare import GROUPS, kind, need
from detkit.engine.runner import DetRunner, build_runner
from detkit.engine.work_dir import claimed_work_dir, finished_message
from detkit.files import check_out_dir
from detkit.registry import ConfigError

TRAINING_HOOKS = ('EMAHook', 'PipelineSwitchHook', 'CheckInvalidLossHook', 'ReplayHook')   # not used in a test
TTA_MODEL = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
TTA_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def train(cfg: Config | str | Path, work_dir: str | Path | None = None, amp: bool | str | None = None,
          resume: str | Path | bool | None = None, auto_scale_lr: bool = False, seed: int | None = None, launcher: str = 'none',
          trusted: bool = False, fresh: bool = False) -> DetRunner:
    """Train with ``cfg`` and return the runner: ``runner.model`` is trained, ``runner.message_hub`` holds the curves.

    Args:
            cfg: a config, its path or its name; it is not changed.
            work_dir: folder of logs and checkpoints; None: the config's, else ``work_dirs/<config's name>``.
            amp: mixed precision: True, False, 'auto' (if the machine is faster with it); None: as in the config.
            resume: 'auto' or True: from the newest checkpoint in the work dir, if there is one; a path: from that checkpoint. A finished
                run is not continued: the log says so, and the model gets the checkpoint's weights.
            auto_scale_lr: multiply the learning rate by the total batch size over the config's ``auto_scale_lr.base_batch_size``.
            seed: random seed; None: the config's, else a random one, which the log names.
            launcher: 'none', or how the processes were started: 'pytorch' (torchrun), 'slurm', 'mpi'.
            trusted: load checkpoints with the standard unpickler, which executes code that they contain.
            fresh: start again even if the work dir holds a run: its checkpoints are removed when training begins, its logs are kept.

    Raises:
            ConfigError: the config cannot be run; the work dir is used by another training, or holds a run and neither ``resume``
                nor ``fresh`` is given.
            TrainingFailed: a loss is not finite.
            TrainingInterrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once a checkpoint to resume from has been written.
    """
    cfg = own(cfg, work_dir, launcher, trusted)
    need(cfg, 'training')
    if amp is not None:
        cfg.amp = amp
    if auto_scale_lr:
        cfg.auto_scale_lr = dict(cfg.get('auto_scale_lr') or {}, enable=True)
    if seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    if resume:
        cfg.resume, cfg.load_from = True, None if resume in (True, 'auto') else str(resume)
    with claimed_work_dir(cfg, fresh) as outdated:
        finished = finished_message(cfg)
        runner = build_runner(cfg)
        if finished:
            restore_finished(runner)
            runner.logger.info(finished)
        else:
            runner.outdated_files = outdated
            runner.train()
    return runner


def restore_finished(runner: DetRunner) -> None:
    """Load the weights and the curves of the finished run into ``runner``; if the run used EMA, the averaged weights."""
    checkpoint = load_checkpoint(runner._load_from, runner.cfg.get('trusted_checkpoints', False))
    restore_histories(checkpoint)
    load_weights(runner.model, checkpoint, strict=True, name=runner._load_from)
    runner.message_hub.load_state_dict(checkpoint.get('message_hub', {}))


def evaluate(cfg: Config | str | Path, checkpoint: str | Path, work_dir: str | Path | None = None, show_dir: str | Path | None = None,
             out: str | Path | None = None, tta: bool = False, show: bool = False, wait_time: float = 2, launcher: str = 'none',
             trusted: bool = False) -> dict[str, Any]:
    """Evaluate ``checkpoint`` on the config's test set and return the metrics by name.

    Args:
            cfg, work_dir, launcher, trusted: as in ``train``.
            checkpoint: a path or URL; it must hold all weights of the model.
            show_dir: folder for images that show ground truth next to detections.
            out: file for the detections: ``.json``, or ``.pkl`` in MMDetection's format.
            tta: test-time augmentation with the config's ``tta_model`` and ``tta_pipeline``, else with horizontal flips merged by NMS.
            show, wait_time: show each image in a window for ``wait_time`` seconds.

    Raises:
            ConfigError: the config cannot be run, or the checkpoint is of another model.
    """
    cfg = own(cfg, work_dir, launcher, trusted)
    need(cfg, 'testing')
    for key in (*GROUPS['training'], *GROUPS['validation'], 'param_scheduler'):
        cfg[key] = None
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if kind(h) not in TRAINING_HOOKS]
    cfg.resume, cfg.load_from = False, str(checkpoint)
    if out is not None:
        add_dump(cfg, out)
    if show or show_dir is not None:
        draw(cfg, show, wait_time, show_dir)
    if tta:
        add_tta(cfg)
    runner = build_runner(cfg)
    runner.strict = True
    if tta:
        runner.register_hook(PrepareTTAHook(cfg.tta_model.to_dict()))
    return runner.test()


def own(cfg: Config | str | Path, work_dir: str | Path | None, launcher: str, trusted: bool) -> Config:
    """Return a copy of ``cfg`` with the options that training and testing share."""
    cfg = load_config(cfg)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    if launcher != 'none':
        cfg.launcher = launcher
    if trusted:
        cfg.trusted_checkpoints = True
    return cfg


def add_dump(cfg: Config, out: str | Path) -> None:
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    cfg.test_evaluator = [*metrics, dict(type='DumpDetResults', out_file_path=str(out))]


def draw(cfg: Config, show: bool, wait_time: float, show_dir: str | Path | None) -> None:
    if show_dir is not None:
        check_out_dir(show_dir)
    hooks = dict(cfg.get('default_hooks') or {})
    found = hooks.get('visualization') or dict(type='DetVisualizationHook')
    hooks['visualization'] = dict(found, draw=True, show=show, wait_time=wait_time,
                                  test_out_dir=None if show_dir is None else os.path.abspath(show_dir))
    cfg.default_hooks = hooks


def add_tta(cfg: Config) -> None:
    """Give the test dataset the TTA pipeline: the config's, else the test pipeline with and without a horizontal flip."""
    cfg.tta_model = cfg.get('tta_model') or TTA_MODEL
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if 'pipeline' not in dataset:
        raise ConfigError('--tta: test_dataloader.dataset has no pipeline that could be augmented.')
    if not cfg.get('tta_pipeline'):
        *steps, pack = dataset.pipeline
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        keys = tuple(dict.fromkeys((*pack.get('meta_keys', ()), *TTA_KEYS)))
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [dict(pack, meta_keys=keys)]])]
    dataset.pipeline = cfg.tta_pipeline
