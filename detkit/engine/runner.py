"""mmengine's Runner with config keys in its errors, checkpoints that hold data only, and runs that can be interrupted and resumed."""
from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine import runner as mmrunner
from mmengine.config import Config
from mmengine.dist import barrier, get_dist_info, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner.utils import set_random_seed
from mmengine.utils.dl_utils import collect_env
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from detkit.config import dump_config
from detkit.data.classes import class_names
from detkit.engine.amp import settle_memory_format
from detkit.engine.checkpoint import (
    INTERRUPTED,
    LoadReport,
    load_checkpoint,
    load_weights,
    report_loading,
    restore_histories,
    write_checkpoint,
)
from detkit.engine.hooks.checkpoint import EVALUATED, note_last
from detkit.engine.hooks.ema import EMAHook
from detkit.engine.interrupt import Interrupt, TrainingInterrupted
from detkit.engine.loaders import build_loader, stop_workers
from detkit.engine.log import FILE_ONLY, LogProcessor, tidy
from detkit.engine.part_checks import check_optimizer
from detkit.engine.preflight import Prepared, preflight
from detkit.engine.prepare import prepare
from detkit.engine.resume import resume_run
from detkit.engine.schedule import build_scheduler, stored
from detkit.registry import HOOKS, LOG_PROCESSORS, LOOPS, METRICS, MODELS, RUNNERS, VISUALIZERS, ConfigError


def build_runner(cfg: Config) -> 'DetRunner':
    """Build the Runner for ``cfg``, which is not changed. The model is built now, the datasets on first use.

    Raises:
            ConfigError: a part of the config cannot be built; the message has its full key.
    """
    cfg, said = prepare(cfg)
    try:
        prepared = preflight(cfg)
        runner = DetRunner.from_cfg(cfg)
    except ConfigError as error:
        raise error.seen_from(cfg._cfg_dict)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    runner.prepared = prepared
    for line in [f'seed {runner.seed}', f'work dir {runner.work_dir}', *said]:
        runner.logger.info(line)
    for level, line in prepared.notes:
        runner.logger.log(level, line)
    return runner


def start_backends(visualizer: Visualizer) -> None:
    """Open the run of each visualization backend; mmengine opens it on first use.

    Raises:
            ConfigError: the service of a backend refuses (no login, a wrong address); the message is the service's, in one line.
        ImportError: its package is not installed.
    """
    for backend in visualizer._vis_backends.values():
        try:
            _ = backend.experiment                          # accessing this property opens it
        except (ConfigError, ImportError):
            raise
        except Exception as error:
            raise ConfigError(f"visualizer.vis_backends: {type(backend).__name__} cannot start: {' '.join(str(error).split())}") from error


@RUNNERS.register_module()
class DetRunner(mmrunner.Runner):
    """The Runner that ``build_runner`` builds; it is used as mmengine's Runner."""

    strict = False       # True: a loaded checkpoint must fill the whole model
    training = False     # True inside the training loop
    lr_before, lr_after = 0., float('inf')        # of the first parameter group, before and after auto_scale_lr
    outdated_files: Sequence[Path] = ()   # from an earlier run in the work dir; removed when training begins
    checkpoint_classes: tuple[str, ...] | None = None      # of the last loaded checkpoint

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.interrupt, self.prepared = Interrupt(), Prepared()
        super().__init__(*args, **kwargs)

    # ------------------------------------------------------------------------------------------------ building
    @contextmanager
    def keyed(self) -> Iterator[None]:
        """Complete the path of a ConfigError to the full config key."""
        try:
            yield
        except ConfigError as error:
            raise error.seen_from(self.cfg._cfg_dict)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        with self.keyed():
            return MODELS.build(model)

    def build_visualizer(self, visualizer: Any = None) -> Any:
        if not isinstance(visualizer, dict):
            return super().build_visualizer(visualizer)
        with self.keyed():
            built = VISUALIZERS.build(visualizer, **{k: v for k, v in dict(name=self._experiment_name, save_dir=self._log_dir).items()
                                                     if k not in visualizer})
        if is_main_process():
            start_backends(built)
        return built

    def build_log_processor(self, log_processor: Any) -> Any:
        if not isinstance(log_processor, dict):
            return log_processor
        with self.keyed():
            return LOG_PROCESSORS.build(log_processor) if 'type' in log_processor else LogProcessor(**log_processor)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        tidy(logger)
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to the device and wrap it for distributed training. SyncBN becomes BN without CUDA or without a process group."""
        if not (self.distributed and torch.cuda.is_available()) and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
            self.logger.info('SyncBN became BN: it needs several processes and CUDA')
            model = revert_sync_batchnorm(model)
        for line in settle_memory_format(self.cfg, model):
            self.logger.info(line)
        with warnings.catch_warnings():                    # torch renames an argument that mmengine 0.10.7 passes
            warnings.filterwarnings('ignore', message='.broadcast_buffers. is deprecated', category=FutureWarning)
            return super().wrap_model(model_wrapper_cfg, model)

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        if isinstance(hook, dict):
            args = dict(hook)
            own = args.pop('priority', None)
            with self.keyed():
                hook = HOOKS.build(args)
            priority = own if priority is None else priority
        super().register_hook(hook, priority)

    def build_dataloader(self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
        if isinstance(dataloader, DataLoader):
            return dataloader
        key = next((k for k in ('train', 'val', 'test') if getattr(self, f'_{k}_dataloader') is dataloader), None)
        try:
            return build_loader(dataloader, seed, diff_rank_seed, self.prepared.datasets.pop(key, None))
        except ConfigError as error:
            error.seen_from(dataloader)
            error.path = (f'{key}_dataloader', *error.path) if key else error.path
            error.cfg = self.cfg._cfg_dict                 # the path is complete here: callers must not add to it
            raise

    def build_train_loop(self, loop: Any) -> Any:
        if isinstance(loop, dict):
            args = dict(loop)
            if 'by_epoch' in args and 'type' not in args:
                args['type'] = 'EpochBasedTrainLoop' if args.pop('by_epoch') else 'IterBasedTrainLoop'
            with self.keyed():
                return LOOPS.build(dict(args, **({} if 'type' in args else dict(type='EpochBasedTrainLoop'))), runner=self,
                                   dataloader=self._train_dataloader)
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> Any:
        return self.build_evaluation(loop, 'ValLoop', self._val_dataloader, self.prepared.evaluators.pop('val', self._val_evaluator))

    def build_test_loop(self, loop: Any) -> Any:
        return self.build_evaluation(loop, 'TestLoop', self._test_dataloader, self.prepared.evaluators.pop('test', self._test_evaluator))

    def build_evaluation(self, loop: Any, default: str, dataloader: Any, evaluator: Any) -> Any:
        if not isinstance(loop, dict):
            return loop
        with self.keyed():
            return LOOPS.build(dict(dict(type=default), **loop), runner=self, dataloader=dataloader, evaluator=evaluator)

    def build_evaluator(self, evaluator: Any) -> Any:
        with self.keyed():
            if isinstance(evaluator, dict) and 'metrics' not in evaluator:
                evaluator = [evaluator]
            if isinstance(evaluator, (list, tuple)):
                return mmengine.evaluator.Evaluator([METRICS.build(m) for m in evaluator])
            return super().build_evaluator(evaluator)

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        if isinstance(optim_wrapper, dict):
            check_optimizer(optim_wrapper)
        with self.keyed():
            try:
                return super().build_optim_wrapper(optim_wrapper)
            except (AssertionError, TypeError, ValueError) as error:   # mmengine and torch raise these for wrong settings
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(f'optim_wrapper: {error}') from error

    def _build_param_scheduler(self, scheduler: Any, optim_wrapper: OptimWrapper) -> list:
        with self.keyed():
            built = []
            for one in scheduler if isinstance(scheduler, (list, tuple)) else [scheduler]:
                built.append(self.one_scheduler(one, optim_wrapper) if isinstance(one, dict) else one)
            return built

    def one_scheduler(self, cfg: dict, optim_wrapper: OptimWrapper) -> Any:
        """Build one parameter scheduler. The default of ``end`` is the end of training."""
        end = self.max_epochs if cfg.get('by_epoch', True) else self.max_iters
        try:
            return build_scheduler({'end': end, **self.with_scaled_end(cfg)}, optim_wrapper, len(self.train_dataloader))
        except ConfigError as error:
            error.cfg = cfg                                 # the config's dict, from which the key is found
            raise

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        if auto_scale_lr and auto_scale_lr.get('enable') and 'base_batch_size' not in auto_scale_lr:
            raise ConfigError("auto_scale_lr: there is no 'base_batch_size', the number of images a step that the learning rate is for.")
        wrappers = list(optim_wrapper.values()) if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
        group = wrappers[0].optimizer.param_groups[0]
        self.lr_before = group['lr']
        super().scale_lr(optim_wrapper, auto_scale_lr)
        self.lr_after = group['lr']

    def with_scaled_end(self, cfg: dict) -> dict:
        """Return the config of a scheduler, with ``eta_min`` scaled like the learning rate if the rate would otherwise rise to it."""
        eta_min, is_of_lr = cfg.get('eta_min'), isinstance(cfg.get('type'), str) and cfg['type'].endswith('LR')
        rises = is_of_lr and isinstance(eta_min, (int, float)) and self.lr_after < eta_min < self.lr_before
        return dict(cfg, eta_min=eta_min * self.lr_after / self.lr_before) if rises else dict(cfg)

    # ------------------------------------------------------------------------------------------------- logging
    def _log_env(self, env_cfg: dict) -> None:
        """Write environment and config to the log file, and one line to the console."""
        lines = '\n'.join(f'    {k}: {v}' for k, v in {**collect_env(), **env_cfg, **self._randomness_cfg}.items())
        self.logger.info(f'environment:\n{lines}\nconfig:\n{self.cfg.pretty_text}', **FILE_ONLY)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU (threads: {torch.get_num_threads()})'
        self.logger.info(f'PyTorch {torch.__version__} on {device}, {self.world_size} process{"es" * (self.world_size > 1)}; '
                         f'log and config in {self.log_dir}')

    @master_only
    def dump_config(self) -> None:
        """Write the config: into the work dir when training, next to the log when testing, so that a training's config is not replaced."""
        stem = Path(self.cfg.filename).stem if self.cfg.filename else self.timestamp
        dump_config(self.cfg, Path(self.log_dir if self._train_dataloader is None else self.work_dir) / f'{stem}.py')

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        """Like mmengine's, but ``seed`` is always below 2^32, also a given one, and is the same for the data of all processes."""
        self._deterministic = deterministic
        self._seed = set_random_seed(seed=seed, deterministic=deterministic, diff_rank_seed=diff_rank_seed)
        if diff_rank_seed:
            self._seed -= get_dist_info()[0]

    # ------------------------------------------------------------------------------------------------ training
    def train(self) -> nn.Module:
        try:
            return super().train()
        except ConfigError as error:
            raise error.seen_from(self.cfg._cfg_dict)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context of the training loop: when a signal asks to stop, save a checkpoint from which the run can be resumed exactly."""
        self.training = True
        with self.interrupt.listening():                   # active until all is saved: a second signal must not interrupt the saving
            try:
                self.remove_outdated_files()
                self.message_hub.update_info(EVALUATED, self.message_hub.runtime_info.get(EVALUATED, 0))
                yield
            except TrainingInterrupted:
                self.save_interrupted()
                self.call_hook('after_run')
                raise
            finally:
                self.training = False
                for loop in (self._train_loop, self._val_loop):
                    if isinstance(loop, mmrunner.BaseLoop):
                        stop_workers(loop.dataloader)      # persistent workers would outlive the run

    def remove_outdated_files(self) -> None:
        unfinished = [p for p in self.outdated_files if p.name.startswith('.')]
        for files, what in ((unfinished, 'unfinished files'), ([p for p in self.outdated_files if p not in unfinished],
                                                               'files of an earlier run')):
            for path in files:
                path.unlink(missing_ok=True)
            if files:
                self.logger.info(f'removed {len(files)} {what} from {self.work_dir}: {", ".join(p.name for p in files)}')

    def stop_if_asked(self) -> None:
        """Raise TrainingInterrupted if a signal asked to stop, except in the middle of gradient accumulation."""
        signum = self.interrupt.asked()
        if signum and self.optim_wrapper.should_update():
            raise TrainingInterrupted(signum)

    def save_interrupted(self) -> None:
        for hook in self.hooks:
            if isinstance(hook, EMAHook):
                hook.put_back()
        self.save_checkpoint(self.work_dir, INTERRUPTED, meta=dict(epoch=self.epoch, iter=self.iter))
        path = Path(self.work_dir) / INTERRUPTED
        if self.rank == 0:
            note_last(self.work_dir, path)
        barrier()                                          # torchrun stops the first process as soon as another one has ended
        self.logger.info(f'stopped in epoch {self.epoch + 1} after iteration {self.iter}; saved {path}')

    # --------------------------------------------------------------------------------------------- checkpoints
    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, file_client_args: dict | None = None, save_optimizer: bool = True,
                        save_param_scheduler: bool = True, meta: dict | None = None, by_epoch: bool = True,
                        backend_args: dict | None = None) -> None:
        """Write a checkpoint of plain values atomically. ``by_epoch``: True at the end of an epoch, False after an iteration."""
        epoch, iteration = (self.epoch + 1, self.iter) if by_epoch else (self.epoch, self.iter + 1)
        meta = dict(dict(epoch=epoch, iter=iteration), **(meta or {}))
        meta.update(cfg=self.cfg.pretty_text, seed=self.seed, experiment_name=self.experiment_name, world_size=self.world_size,
                    time=time.strftime('%Y%m%d_%H%M%S'), mmengine_version=mmengine.__version__, epoch_length=len(self.train_dataloader))
        metainfo = getattr(self.train_dataloader.dataset, 'metainfo', None)
        if metainfo is not None:
            meta['dataset_meta'] = metainfo
        checkpoint = dict(meta=meta, state_dict=bare(self.model).state_dict(), message_hub=self.message_hub.state_dict())
        if save_optimizer:
            checkpoint['optimizer'] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint['param_schedulers'] = {k: [stored(s) for s in v] for k, v in self.param_schedulers.items()} \
                if isinstance(self.param_schedulers, dict) else [stored(s) for s in self.param_schedulers]
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        write_checkpoint(checkpoint, Path(out_dir) / filename)

    def load_checkpoint(self, filename: str, map_location: str | Callable = 'cpu', strict: bool = False,
                        revise_keys: list[tuple[str, str]] | None = None) -> dict:
        """Load weights. Keys that do not match give one log line; ConfigError if no key matches, or if ``strict`` and not all match."""
        checkpoint = load_checkpoint(filename, self.cfg.get('trusted_checkpoints', False), map_location)
        restore_histories(checkpoint)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        report: LoadReport = load_weights(bare(self.model), checkpoint, strict or self.strict, revise_keys=revise_keys, name=filename)
        report_loading(report, filename)
        self.checkpoint_classes = class_names(checkpoint.get('meta'))
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: str | Callable = 'default') -> None:
        """Resume from the state that is saved in ``filename``; see ``detkit.engine.resume``."""
        resume_run(self, filename, resume_optimizer, resume_param_scheduler)


def bare(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
