"""Write the detections of a whole test set to a file."""
from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from detkit.files import atomic_path, write_json
from detkit.registry import METRICS, ConfigError
from detkit.structures.rle_masks import rle_codes

TRUTH = ('gt_instances', 'ignored_instances', 'gt_sem_seg')


@METRICS.register_module()
class DumpDetResults(BaseMetric):
    """Write the predictions at the end of a test; computes no metric.

    ``out_file_path``: ``.pkl`` (MMDetection's format: a list of the samples as dicts, with tensors on the CPU) or ``.json`` (a
    list of ``img_id``, ``img_path``, ``bboxes`` (xyxy, pixels of the original image), ``scores``, ``labels``). Masks are RLE.

    Raises:
        ConfigError: another suffix, or .json for a model that predicts panoptic maps but no objects.
    """

    default_prefix = 'dump'        # mmengine warns about a metric without a prefix

    def __init__(self, out_file_path: str, collect_device: str = 'cpu', collect_dir: str | None = None) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        self.path = Path(out_file_path)
        if self.path.suffix not in ('.json', '.pkl', '.pickle'):
            raise ConfigError(f"--out '{out_file_path}' should end in .json or .pkl.")

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store the predictions of a batch, without the ground truth."""
        for sample in data_samples:
            kept = {k: on_cpu(v) for k, v in sample.items() if k not in TRUTH}
            if 'masks' in kept.get('pred_instances', ()):
                kept['pred_instances']['masks'] = rle_codes(kept['pred_instances']['masks'])
            if 'pred_instances' not in kept and self.path.suffix == '.json':
                raise ConfigError('this model predicts panoptic maps and no objects (test_cfg.instance_on). --out takes a .pkl then; '
                                  "CocoPanopticMetric(outfile_prefix=...) writes them in COCO's format.")
            self.results.append(kept)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        if self.path.suffix == '.json':
            write_json(self.path, [record(r) for r in results])
        else:
            with atomic_path(self.path) as temporary, open(temporary, 'wb') as file:
                pickle.dump(results, file)
        MMLogger.get_current_instance().info(f'detections of {len(results)} images written to {self.path}')
        return {}


def on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: on_cpu(v) for k, v in value.items()}
    return value.cpu() if isinstance(value, torch.Tensor) else value


def record(result: dict) -> dict[str, Any]:
    found = result['pred_instances']
    arrays = {k: np.asarray(found[k]).tolist() for k in ('bboxes', 'scores', 'labels')}
    return dict(img_id=result.get('img_id'), img_path=str(result.get('img_path')), **arrays,
                **({'masks': found['masks']} if 'masks' in found else {}))
