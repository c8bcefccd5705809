"""A model that trains in milliseconds, and what a whole run needs around it."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from detkit.registry import DATASETS, METRICS, MODELS
from detkit.structures import DetDataSample


@MODELS.register_module(force=True)
class ToyDetector(BaseModel):
    """Convolution, batch norm, dropout and a classifier with ``num_classes``: everything that a resumed run must restore."""

    def __init__(self, num_classes: int = 2, width: int = 4, data_preprocessor: Any = None, norm: str = 'BN') -> None:
        super().__init__(data_preprocessor)
        kind = nn.SyncBatchNorm if norm == 'SyncBN' else nn.BatchNorm2d
        self.num_classes = num_classes
        self.conv, self.norm, self.drop = nn.Conv2d(3, width, 3, 2), kind(width), nn.Dropout(0.3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if isinstance(inputs, list):
            inputs = torch.stack(inputs)
        if inputs.dtype == torch.uint8:
            inputs = inputs.float() / 255
        out = self.head(self.drop(self.norm(self.conv(inputs)).relu()).mean((2, 3)))
        if mode == 'loss':
            labels = torch.tensor([s.label for s in data_samples])
            return dict(loss_cls=nn.functional.cross_entropy(out.float(), labels), loss_size=out.float().square().mean() * 0.01)
        for sample, score in zip(data_samples or [], out):
            sample.set_metainfo(dict(predicted=int(score.argmax())))
        return data_samples if mode == 'predict' else out


@DATASETS.register_module(force=True)
class ToyData:
    """``length`` images whose pixels are noise from (seed, epoch, index), brighter for label 1; ``bad`` of them are nan."""

    def __init__(self, length: int = 12, classes: Any = ('a', 'b'), bad: tuple = ()) -> None:
        self.length, self.bad, self.seed = length, bad, 0
        self.metainfo = dict(classes=classes)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self.pipeline = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        epoch, index = index if isinstance(index, tuple) else (int(self.epoch), index)
        generator = torch.Generator().manual_seed(self.seed % 1000 * 10000 + epoch * 100 + index)
        image = torch.rand(3, 8, 8, generator=generator) + index % 2
        for transform in getattr(self.pipeline, 'transforms', self.pipeline):
            image = transform(image)
        if index in self.bad:
            image = image * float('nan')
        sample = DetDataSample(metainfo=dict(img_path=f'picture_{index}.jpg', img_id=index, label=index % 2))
        return dict(inputs=image, data_samples=sample)


@METRICS.register_module(force=True)
class ToyAccuracy(BaseMetric):
    default_prefix = 'toy'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(s['predicted'] == s['label']) for s in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(accuracy=sum(results) / len(results))


def toy_config(work_dir: Path, **changes: Any) -> Config:
    """Three epochs of three iterations, warm-up and cosine, EMA, evaluation after each epoch."""
    loader = dict(batch_size=4, num_workers=0, dataset=dict(type='ToyData'), sampler=dict(type='DefaultSampler', shuffle=True))
    evaluation = dict(copy.deepcopy(loader), sampler=dict(type='DefaultSampler', shuffle=False))
    cfg = dict(
        model=dict(type='ToyDetector'), work_dir=str(work_dir), randomness=dict(seed=3),
        train_dataloader=loader, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3),
        val_dataloader=evaluation, val_cfg=dict(type='ValLoop'), val_evaluator=dict(type='ToyAccuracy'),
        test_dataloader=copy.deepcopy(evaluation), test_cfg=dict(type='TestLoop'), test_evaluator=dict(type='ToyAccuracy'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
                         dict(type='CosineAnnealingLR', T_max=3, by_epoch=True, begin=0, end=3)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2), checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.1, update_buffers=True, priority=49)])
    for key, value in changes.items():
        cfg[key] = value
    return Config(cfg)


@pytest.fixture(scope='session')
def toy() -> Any:
    return toy_config
