"""CocoMetric as mmengine's evaluator drives it."""
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from pycocotools import mask as rle

from detkit.registry import METRICS, ConfigError
from detkit.structures.sample import DetDataSample

CLASSES = ('cat', 'dog')


def sample(img_id: int, boxes: list, labels: list, scores: list, masks: torch.Tensor | None = None,
           **more) -> DetDataSample:
    result = DetDataSample(metainfo={'img_id': img_id, 'ori_shape': (100, 100), 'img_shape': (100, 100), **more})
    result.pred_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                                         labels=torch.tensor(labels, dtype=torch.int64), scores=torch.tensor(scores))
    if masks is not None:
        result.pred_instances.masks = masks
    return result


def annotation_file(folder, categories=((5, 'dog'), (9, 'cat'))):
    """Two images; a cat of 40x40 in the first, a dog of 20x20 in the second. The file's order is not the model's."""
    path = folder / 'gt.json'
    path.write_text(json.dumps({
        'images': [{'id': 1, 'width': 100, 'height': 100}, {'id': 2, 'width': 100, 'height': 100}],
        'categories': [{'id': i, 'name': n} for i, n in categories],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 9, 'bbox': [10, 10, 40, 40], 'area': 1600, 'iscrowd': 0,
             'segmentation': [[10, 10, 50, 10, 50, 50, 10, 50]]},
            {'id': 2, 'image_id': 2, 'category_id': 5, 'bbox': [0, 0, 20, 20], 'area': 400, 'iscrowd': 0,
             'segmentation': [[0, 0, 20, 0, 20, 20, 0, 20]]}]}))
    return str(path)


def evaluate(samples: list[DetDataSample], classes=CLASSES, **cfg) -> dict[str, float]:
    evaluator = Evaluator([METRICS.build({'type': 'CocoMetric', **cfg})])
    evaluator.dataset_meta = {'classes': classes}
    for one in samples:
        evaluator.process(data_samples=[one])
    return evaluator.evaluate(len(samples))


CAT_FOUND = sample(1, [[10, 10, 50, 50]], [0], [0.9])
DOG_FOUND = sample(2, [[0, 0, 20, 12]], [1], [0.8])   # IoU 0.6: matched at 0.50, 0.55, 0.60


def test_labels_reach_categories_by_name(tmp_path):
    numbers = evaluate([CAT_FOUND, DOG_FOUND], ann_file=annotation_file(tmp_path), classwise=True)
    assert numbers == {'coco/bbox_mAP': 0.65, 'coco/bbox_mAP_50': 1., 'coco/bbox_mAP_75': 0.5, 'coco/bbox_mAP_s': 0.3,
                       'coco/bbox_mAP_m': 1., 'coco/bbox_mAP_l': -1.,
                       'coco/cat_precision': 1., 'coco/dog_precision': 0.3}


def test_proposals_are_counted_without_their_class(tmp_path):
    swapped = [sample(1, [[10, 10, 50, 50]], [1], [0.9]), DOG_FOUND]
    numbers = evaluate(swapped, ann_file=annotation_file(tmp_path), metric='proposal')
    assert numbers == {'coco/AR@100': 0.65, 'coco/AR@300': 0.65, 'coco/AR@1000': 0.65, 'coco/AR_s@1000': 0.3,
                       'coco/AR_m@1000': 1., 'coco/AR_l@1000': -1.}


def test_proposals_of_a_detector_with_one_class_of_another_name(tmp_path):
    assert evaluate([sample(1, [[10, 10, 50, 50]], [0], [0.9])], ('object',), ann_file=annotation_file(tmp_path),
                    metric='proposal')['coco/AR@100'] == 0.5


def square(*box: int) -> torch.Tensor:
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[:, box[1]:box[3], box[0]:box[2]] = True
    return mask


def test_boxes_and_masks_together(tmp_path):
    samples = [sample(1, [[10, 10, 50, 50]], [0], [0.9], square(10, 10, 50, 34)),
               sample(2, [], [], [], torch.zeros(0, 100, 100))]
    numbers = evaluate(samples, ann_file=annotation_file(tmp_path), metric=['bbox', 'segm'], classwise=True,
                       metric_items=['mAP', 'mAP_50', 'AR@100'])
    assert numbers == {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.5, 'coco/bbox_AR@100': 0.5, 'coco/segm_mAP': 0.15,
                       'coco/segm_mAP_50': 0.5, 'coco/segm_AR@100': 0.15, 'coco/bbox_cat_precision': 1.,
                       'coco/bbox_dog_precision': 0., 'coco/segm_cat_precision': 0.3, 'coco/segm_dog_precision': 0.}


def test_iou_thresholds_and_limits_are_honoured(tmp_path):
    path = annotation_file(tmp_path)
    assert evaluate([CAT_FOUND, DOG_FOUND], ann_file=path, iou_thrs=0.75)['coco/bbox_mAP'] == 0.5
    noisy = sample(1, [[60, 60, 90, 90], [10, 10, 50, 50]], [0, 0], [0.9, 0.5])
    numbers = evaluate([noisy], ann_file=path, proposal_nums=(1, 2), metric='proposal')
    assert numbers['coco/AR@1'] == 0 and numbers['coco/AR@2'] == 0.5


def test_nothing_found_is_zero(tmp_path):
    empty = [sample(1, [], [], []), sample(2, [], [], [])]
    numbers = evaluate(empty, ann_file=annotation_file(tmp_path), metric=['bbox', 'segm'])
    assert numbers['coco/bbox_mAP'] == 0 and numbers['coco/segm_mAP'] == 0


def test_truth_from_the_samples_own_instances():
    crowd = {'bbox': [60, 60, 90, 90], 'bbox_label': 0, 'ignore_flag': 1}
    one = sample(7, [[10, 10, 50, 50], [60, 60, 90, 90]], [0, 0], [0.5, 0.9],
                 instances=[{'bbox': [10, 10, 50, 50], 'bbox_label': 0, 'ignore_flag': 0}, crowd])
    assert evaluate([one])['coco/bbox_mAP'] == 1   # the better-scored box lies in the crowd and counts neither way


def test_truth_from_gt_instances_of_an_image_that_was_not_resized():
    one = sample(7, [[10, 10, 50, 50]], [1], [0.5], square(10, 10, 50, 34))
    one.gt_instances = InstanceData(bboxes=torch.tensor([[10., 10., 50., 50.]]), labels=torch.tensor([1]),
                                    masks=square(10, 10, 50, 50))
    numbers = evaluate([one], metric=['bbox', 'segm'])
    assert (numbers['coco/bbox_mAP'], numbers['coco/segm_mAP']) == (1, 0.3)


def test_truth_in_the_pixels_of_a_resized_image_is_refused():
    one = sample(7, [[10, 10, 50, 50]], [1], [0.5])
    one.set_metainfo({'img_shape': (200, 200)})
    one.gt_instances = InstanceData(bboxes=torch.zeros(1, 4), labels=torch.tensor([1]))
    with pytest.raises(ConfigError, match="img_shape .200, 200.*'instances' in meta_keys"):
        evaluate([one])


def test_truth_that_was_only_resized_is_scaled_back():
    one = sample(7, [[10, 10, 50, 50]], [1], [0.5])
    one.set_metainfo({'img_shape': (200, 200), 'gt_scale': (2., 4.)})
    one.gt_instances = InstanceData(bboxes=torch.tensor([[20., 40., 100., 200.]]), labels=torch.tensor([1]))
    assert evaluate([one])['coco/bbox_mAP'] == 1
    one.gt_instances.masks = square(10, 10, 50, 50)
    with pytest.raises(ConfigError, match="'instances' in meta_keys"):
        evaluate([one])


def test_samples_without_truth_are_refused():
    with pytest.raises(ConfigError, match='image 1 carries no ground truth'):
        evaluate([CAT_FOUND])


def test_format_only_writes_coco_results_and_computes_nothing(tmp_path, monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(MMLogger, 'info', lambda self, message, *args: messages.append(message))
    prefix = tmp_path / 'out' / 'test'
    found = [sample(1, [[10, 10, 50, 50]], [0], [0.5], square(10, 10, 50, 50)), DOG_FOUND]
    assert evaluate(found[:1], ann_file=annotation_file(tmp_path), format_only=True, outfile_prefix=str(prefix)) == {}
    assert messages == [f'1 detections written to {prefix}.bbox.json, {prefix}.segm.json']
    boxes = json.loads((tmp_path / 'out' / 'test.bbox.json').read_text())
    assert boxes == [{'image_id': 1, 'category_id': 9, 'bbox': [10., 10., 40., 40.], 'score': 0.5}]
    mask = json.loads((tmp_path / 'out' / 'test.segm.json').read_text())[0]['segmentation']
    assert rle.area({'size': mask['size'], 'counts': mask['counts'].encode()}) == 1600
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['test.bbox.json', 'test.segm.json']


def test_format_only_needs_no_truth(tmp_path):
    evaluate([CAT_FOUND], format_only=True, outfile_prefix=str(tmp_path / 'r'))
    assert json.loads((tmp_path / 'r.bbox.json').read_text())[0]['category_id'] == 0


def test_a_file_of_test_images_serves_to_write_results_and_nothing_else(tmp_path):
    truth = json.loads(Path(annotation_file(tmp_path)).read_text())
    del truth['annotations']
    (tmp_path / 'info.json').write_text(json.dumps(truth))
    evaluate([CAT_FOUND], ann_file=str(tmp_path / 'info.json'), format_only=True, outfile_prefix=str(tmp_path / 'r'))
    assert json.loads((tmp_path / 'r.bbox.json').read_text())[0]['category_id'] == 9
    with pytest.raises(ConfigError, match="info.json' has no list 'annotations': there is nothing to measure against.*format_only=True"):
        METRICS.build({'type': 'CocoMetric', 'ann_file': str(tmp_path / 'info.json')})


def test_a_list_of_annotation_files_names_the_command_that_joins_them():
    with pytest.raises(ConfigError, match=r"ann_file=\['a.json', 'b.json'\] is a list.*dataset.py merge a.json b.json all.json"):
        METRICS.build({'type': 'CocoMetric', 'ann_file': ['a.json', 'b.json']})


def test_no_class_in_common_is_refused_before_anything_runs(tmp_path):
    metric = METRICS.build({'type': 'CocoMetric', 'ann_file': annotation_file(tmp_path)})
    with pytest.raises(ConfigError, match="gt.json' has none of the classes.*'dog', 'cat'.*'person'"):
        metric.dataset_meta = {'classes': ('person',)}


def test_a_class_without_objects_in_the_file_is_left_out_by_name(tmp_path):
    extra = sample(2, [[0, 0, 20, 20], [0, 0, 20, 20]], [0, 2], [0.9, 0.8])
    numbers = evaluate([CAT_FOUND, extra], ('fish', 'cat', 'dog'), ann_file=annotation_file(tmp_path), classwise=True)
    assert math.isnan(numbers['coco/fish_precision']) and numbers['coco/dog_precision'] == 1


@pytest.mark.parametrize(('cfg', 'words'), [
    ({'metric': 'bboxes'}, "no metric 'bboxes'. Did you mean 'bbox'"),
    ({'metric': 'proposal_fast'}, "Use 'proposal'"),
    ({'metric_items': ['mAP_5']}, "no metric item 'mAP_5'. Did you mean"),
    ({'format_only': True}, 'set outfile_prefix'),
    ({'ann_file': 'nowhere/gt.json'}, 'ann_file: .*nowhere/gt.json'),
    ({'anno_file': 'x'}, "takes no argument 'anno_file'. Did you mean 'ann_file'"),
])
def test_wrong_arguments_are_refused(cfg, words):
    with pytest.raises(ConfigError, match=words):
        METRICS.build({'type': 'CocoMetric', **cfg})


def test_wrong_predictions_are_refused(tmp_path):
    path = annotation_file(tmp_path)
    with pytest.raises(ConfigError, match='label 2 in image 1.*2 classes'):
        evaluate([sample(1, [[0, 0, 1, 1]], [2], [0.5])], ann_file=path)
    with pytest.raises(ConfigError, match='predictions have none'):
        evaluate([CAT_FOUND], ann_file=path, metric='segm')
    with pytest.raises(ConfigError, match='image_id 33.*gt.json'):
        evaluate([sample(33, [[0, 0, 1, 1]], [0], [0.5])], ann_file=path)


def test_mask_scores_rank_masks(tmp_path):
    """Two masks, the right one with the worse box score: AP is 1 only if mask_scores rank them."""
    masks = torch.cat([square(60, 60, 90, 90), square(10, 10, 50, 50)])
    one = sample(1, [[60, 60, 90, 90], [10, 10, 50, 50]], [0, 0], [0.9, 0.1], masks)
    one.pred_instances.mask_scores = torch.tensor([0.1, 0.9])
    numbers = evaluate([one, DOG_FOUND_WITH_MASK], ann_file=annotation_file(tmp_path), metric='segm', classwise=True)
    assert numbers['coco/cat_precision'] == 1 and numbers['coco/dog_precision'] == 1


DOG_FOUND_WITH_MASK = sample(2, [[0, 0, 20, 20]], [1], [0.8], square(0, 0, 20, 20))
DOG_FOUND_WITH_MASK.pred_instances.mask_scores = torch.tensor([0.8])


def test_results_survive_the_trip_between_processes(tmp_path):
    """What process() keeps is numpy and plain Python, so that it can be pickled and holds no GPU memory."""
    metric = METRICS.build({'type': 'CocoMetric', 'ann_file': annotation_file(tmp_path)})
    metric.process({}, [CAT_FOUND.to_dict()])
    assert {type(v) for v in metric.results[0].values()} <= {np.ndarray, int, tuple}
