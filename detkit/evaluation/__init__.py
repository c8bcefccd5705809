"""What a detector is worth: COCO's average precision and recall, per class and in total."""
from detkit.evaluation.coco import CocoResult, evaluate_coco
from detkit.evaluation.coco_metric import CocoMetric

__all__ = ['CocoMetric', 'CocoResult', 'evaluate_coco']
