"""Evaluation of detectors: COCO's average precision and recall, per class and in total."""
from typing import NoReturn

from detkit.evaluation.coco import CocoResult, evaluate_coco
from detkit.evaluation.coco_metric import CocoMetric
from detkit.mmdet_names import missing_attribute

__all__ = ['CocoMetric', 'CocoResult', 'evaluate_coco']


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
