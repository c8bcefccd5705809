"""When checkpoints are written, which ones are kept, and which one is the best."""
from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine import hooks as mmhooks
from mmengine.dist import is_main_process, master_only

from detkit.engine.checkpoint import INTERRUPTED, LAST, load_checkpoint, write_checkpoint
from detkit.engine.hooks.early_stopping import better_when, check_rule
from detkit.files import atomic_path
from detkit.registry import HOOKS, ConfigError, did_you_mean

EVALUATED = 'evaluated_iter'    # key in the message hub: number of iterations before the last evaluation
UNDEFINED = -1      # pycocotools returns this for a precision without ground truth


@HOOKS.register_module()
class CheckpointHook(mmhooks.CheckpointHook):
    """mmengine's CheckpointHook with its arguments, safe against a kill at any moment.

    A new checkpoint is complete before an older one is removed. The paths of the last, best and kept checkpoints are stored
    relative to the work dir, so that a copied or moved work dir can be resumed with its own files. A checkpoint written before an
    evaluation is written again after it, because the evaluation changes its state (best score, counters of other hooks).
    ``backend_args`` and ``file_client_args`` raise an error: checkpoints are local files.

    Differences from mmengine: without ``interval``, the checkpoint of the newest epoch is kept (mmengine writes only the last one of
    the run). Without ``rule``, the metric's name decides whether greater is better, also for detection metrics that mmengine does not
    know (PQ, AP50, mMR).
    """

    def __init__(self, interval: int | None = None, by_epoch: bool = True, *args: Any, file_client_args: dict | None = None,
                 backend_args: dict | None = None, **kwargs: Any) -> None:
        if file_client_args or backend_args:
            raise ConfigError('CheckpointHook writes local files; leave file_client_args and backend_args out.')
        known = [n for n in inspect.signature(mmhooks.CheckpointHook.__init__).parameters if n not in ('self', 'kwargs')]
        unknown = [name for name in kwargs if name not in known]
        if unknown:                                        # mmengine passes it on, and it would fail when the first checkpoint is written
            raise ConfigError(f"CheckpointHook takes no argument '{unknown[0]}'.{did_you_mean(unknown[0], known)} It takes: "
                              f"{', '.join(known)}.")
        if interval is None:
            interval = 1 if by_epoch else -1
            kwargs = dict(max_keep_ckpts=1, **kwargs) if by_epoch and 'max_keep_ckpts' not in kwargs else kwargs
        try:
            super().__init__(interval, by_epoch, *args, **kwargs)
        except (AssertionError, KeyError, TypeError, ValueError) as error:      # mmengine raises these for save_best, rule and others
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f'CheckpointHook: {error.args[0] if error.args else error}') from error

    def _init_rule(self, rules: list[str | None], key_indicators: list[str]) -> None:
        rules = rules * len(key_indicators) if len(rules) == 1 else rules
        for rule in rules:
            check_rule('CheckpointHook', rule)
        has_keys = (self.greater_keys, self.less_keys) != (self._default_greater_keys, self._default_less_keys)
        super()._init_rule([rule or (None if key == 'auto' or has_keys else better_when(key)) for rule, key in zip(rules, key_indicators)],
                           key_indicators)

    def before_train(self, runner: Any) -> None:
        """Find the checkpoint folder and, after a resume, the checkpoints kept before."""
        folder = Path(runner.work_dir)
        self.folder = folder if self.out_dir is None else Path(self.out_dir).expanduser() / folder.name
        self.out_dir = str(self.folder)
        info = runner.message_hub.runtime_info
        self.kept = [n for n in info.get('kept_checkpoints', []) if (self.folder / n).is_file()]
        self.last_ckpt = str(self.folder / self.kept[-1]) if self.kept else None
        self.best = dict(info.get('best_checkpoints', {}))

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.kept = [n for n in self.kept if n != name] + [name]
        surplus = self.kept[:-self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        self.kept = self.kept[len(surplus):]
        self.last_ckpt = str(self.folder / name)
        runner.message_hub.update_info('kept_checkpoints', list(self.kept))
        runner.save_checkpoint(self.out_dir, name, save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler,
                               meta=meta, by_epoch=self.by_epoch, **self.args)
        if is_main_process():
            note_last(runner.work_dir, self.folder / name)
            for old in [self.folder / n for n in surplus] + [Path(runner.work_dir) / INTERRUPTED]:
                old.unlink(missing_ok=True)

    def after_val_epoch(self, runner: Any, metrics: dict) -> None:
        """Keep the best checkpoint. Record the evaluation in the checkpoint of this step, so that a resumed run does not repeat it."""
        if not runner.training:
            return
        runner.message_hub.update_info(EVALUATED, runner.iter)
        super().after_val_epoch(runner, metrics)
        step = runner.epoch if self.by_epoch else runner.iter
        if self.last_ckpt is not None and Path(self.last_ckpt).name == self.filename_tmpl.format(step):
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        better = [k for k, rule in zip(self.key_indicators, self.rules) if self.improves(runner, metrics, k, rule)]
        for key in better:
            self.keep_best(runner, key, metrics[key], step)
        if better and self.last_ckpt is not None:            # the newest checkpoint must also record which one is the best
            self.last_ckpt = str(self.folder / self.filename_tmpl.format(step))

    def improves(self, runner: Any, metrics: dict, key: str, rule: str) -> bool:
        if key not in metrics:
            raise ConfigError(f'default_hooks.checkpoint.save_best: {unknown_metric(key, metrics)}')
        value = metrics[key]
        if rule == 'greater' and value == UNDEFINED:
            runner.logger.warning(f'{key} is {UNDEFINED}: there was no object to measure against, and no best checkpoint is kept')
            return False
        best = runner.message_hub.get_info(self.score_key(key), self.init_value_map[rule])
        return value is not None and not math.isnan(value) and self.is_better_than[key](value, best)

    def score_key(self, key: str) -> str:
        return 'best_score' if len(self.key_indicators) == 1 else f'best_score_{key}'

    def keep_best(self, runner: Any, key: str, score: float, step: int) -> None:
        name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
        before, self.best[key] = self.best.get(key), name
        hub = runner.message_hub
        hub.update_info(self.score_key(key), float(score))
        hub.update_info('best_checkpoints', dict(self.best))
        runner.save_checkpoint(self.out_dir, name, save_optimizer=False, save_param_scheduler=False,
                               meta=dict(epoch=runner.epoch, iter=runner.iter), by_epoch=False)
        if is_main_process() and before not in (None, name):
            (self.folder / before).unlink(missing_ok=True)
        runner.logger.info(f'best so far: {key} {score:.4f}, saved as {name}')

    def after_train(self, runner: Any) -> None:
        """With ``published_keys``, write copies of the last and the best checkpoints that hold only these keys."""
        if self.published_keys is None:
            return
        names = [Path(self.last_ckpt).name] if self.save_last and self.last_ckpt else []
        for name in [*names, *self.best.values()]:
            self.publish(runner, self.folder / name)

    @master_only
    def publish(self, runner: Any, path: Path) -> None:
        content = load_checkpoint(path)
        target = path.with_name(f'{path.stem}-published{path.suffix}')
        write_checkpoint({k: v for k, v in content.items() if k in self.published_keys}, target)
        runner.logger.info(f'published {target}')


def unknown_metric(key: str, names: Iterable[str]) -> str:
    """Return the error message for a metric that the evaluation does not compute."""
    names = list(names)
    return f"the evaluation has no '{key}'.{did_you_mean(key, names)} It has: {', '.join(names)}."


def note_last(work_dir: str | Path, checkpoint: Path) -> None:
    """Write the checkpoint to resume from into the ``last_checkpoint`` file: its name if it is in the work dir, else its full path."""
    inside = checkpoint.resolve().parent == Path(work_dir).resolve()
    with atomic_path(Path(work_dir) / LAST) as temporary:
        temporary.write_text(checkpoint.name if inside else str(checkpoint.resolve()), encoding='utf-8')
