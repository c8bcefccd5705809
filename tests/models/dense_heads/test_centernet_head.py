"""CenterNetHead: heatmaps, losses and peaks worked out by hand."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kinds import small_detector
from torch import nn
from torch.testing import assert_close

from detkit.config import load_config
from detkit.data.compose import Compose
from detkit.models.dense_heads.centernet_head import (
    CenterNetHead,
    HeatmapOutputs,
    center_heatmap,
    gaussian_radius,
    last_of_each,
)
from detkit.models.detectors.tta import DetTTAModel
from detkit.ops.boxes import aligned_iou
from detkit.registry import MODELS, ConfigError

FEATS = (torch.zeros(1, 4, 4, 4),)                       # of images of 16 x 16


def head(**cfg: object) -> CenterNetHead:
    """Scores 0.5; sizes and shifts 0."""
    built = MODELS.build(dict(dict(type='CenterNetHead', num_classes=2, in_channels=4, feat_channels=4, test_cfg=dict(topk=3)), **cfg))
    for branch in (built.heatmap_head, built.wh_head, built.offset_head):
        nn.init.zeros_(branch[2].weight)
        nn.init.zeros_(branch[2].bias)
    return built


def losses(h: CenterNetHead, *samples: object) -> dict[str, float]:
    return {k: v.item() for k, v in h.loss(h((torch.zeros(len(samples), 4, 4, 4),)), list(samples)).items()}


CELL = .25 * math.log(2)                                 # focal loss of p = 0.5 towards 0 or 1


def test_an_object_by_hand(sample: Callable):
    # centre (7, 9) is cell (1, 2) and a shift of (0.75, 0.25); 2 x 2 cells; too small for a Gaussian of more than its cell
    found = losses(head(), sample([[3, 5, 11, 13]], [1], size=(16, 16)))
    assert found == pytest.approx(dict(loss_center_heatmap=32 * CELL, loss_wh=.1 * (2 + 2) / 2, loss_offset=(.75 + .25) / 2), rel=1e-5)
    empty = losses(head(), sample([], size=(16, 16)))
    assert empty == pytest.approx(dict(loss_center_heatmap=32 * CELL, loss_wh=0, loss_offset=0), rel=1e-5)


def test_of_two_objects_in_a_cell_the_last_is_learnt(sample: Callable):
    found = losses(head(), sample([[3, 5, 11, 13], [6, 8, 7, 9]], [0, 1], size=(16, 16)))
    assert found['loss_wh'] == pytest.approx(.1 * (.25 + .25) / 4)           # two centres on the heatmaps
    assert last_of_each(torch.tensor([3, 0, 3, 3, 1]), 4).tolist() == [False, True, False, True, True]


def test_a_batch_sums_its_images_over_all_centres(sample: Callable):
    samples = [sample([[3, 5, 11, 13]], [1], size=(16, 16)), sample([[1, 1, 9, 13]], [0], size=(16, 16))]
    both, alone = losses(head(), *samples), [losses(head(), s) for s in samples]
    for name in both:
        assert both[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2)


def test_a_gaussian_ends_at_its_radius_and_the_higher_counts():
    heat = center_heatmap(torch.tensor([[1, 1], [4, 1]]), torch.tensor([1., 2.]), torch.tensor([0, 0]), 2, (3, 6))
    narrow, wide = (lambda d: math.exp(-d / (2 * .5**2))), (lambda d: math.exp(-d / (2 * (5 / 6)**2)))
    assert_close(heat[0, 1], torch.tensor([narrow(1), 1., max(narrow(1), wide(4)), wide(1), 1., wide(1)]))
    assert heat[0, 0, 1].item() == pytest.approx(narrow(1)) and heat[0, 2, 0].item() == pytest.approx(narrow(2))
    assert (heat[1] == 0).all()


def test_a_box_moved_by_the_radius_keeps_the_overlap():
    size = torch.tensor([[10., 10.], [4., 40.], [100., 30.]])
    r = gaussian_radius(size, .3)[:, None]
    box = torch.cat([torch.zeros(3, 2), size], 1)
    overlaps = torch.stack([aligned_iou(box, box + torch.cat([a * r, a * r, b * r, b * r], 1)) for a, b in ((1, 1), (1, -1), (-1, 1))])
    assert_close(overlaps.amin(0), torch.full((3,), .3), atol=1e-4, rtol=0)


def outputs() -> HeatmapOutputs:
    """A peak of class 1 at cell (2, 1), a lower one of class 0 at (0, 3), and a slope towards the first."""
    center = torch.full((1, 2, 4, 4), -9.)
    center[0, 1, 1, 2], center[0, 1, 1, 1], center[0, 0, 3, 0] = 2., 1., 0.
    size, shift = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    size[0, :, 1, 2], shift[0, :, 1, 2] = torch.tensor([2., 1.]), torch.tensor([.5, .25])
    return HeatmapOutputs(center, size, shift)


def test_peaks_are_boxes(sample: Callable):
    found = head().predict(outputs(), [sample([], size=(16, 16))])[0]
    assert found.labels[:2].tolist() == [1, 0]
    assert found.scores[:2].tolist() == pytest.approx([1 / (1 + math.exp(-2)), .5])
    assert found.bboxes[:2].tolist() == [[6, 3, 14, 7], [0, 12, 0, 12]]      # centre (2.5, 1.25), 2 x 1 cells of 4 pixels
    assert found.scores[2] < 1e-3                                            # the slope, 0.73, is no peak


def test_the_border_laid_around_an_image_is_taken_off(sample: Callable):
    found = head().predict(outputs(), [sample([], size=(16, 16), border=(1., 15., 2., 14.))])[0]
    assert found.bboxes[0].tolist() == [4, 2, 12, 6]


def test_a_whole_image_on_its_canvas_comes_back_in_its_own_pixels():
    """Through the recipe's test pipeline, which neither resizes nor says so; a flipped view is turned back."""
    cfg = load_config('centernet_r18_8xb16-crop512-140e_coco')
    canvas = next(step for step in cfg.test_pipeline if step['type'] == 'RandomCenterCropPad')
    pack = [*cfg.test_pipeline[-1]['meta_keys'], 'flip', 'flip_direction']
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    model, found = small_detector('centernet', test_cfg=dict(topk=5)), []
    for prob in (0., 1.):
        pipeline = Compose([dict(type='LoadImageFromNDArray'), dict(type='RandomFlip', prob=prob), canvas,
                            dict(type='PackDetInputs', meta_keys=pack)])
        packed = pipeline(dict(img=image.copy(), img_id=0, img_path='drawn', rng=np.random.default_rng(0)))
        assert packed['inputs'].shape == (3, 64, 96) and packed['data_samples'].border.tolist() == [7, 57, 13, 83]
        with torch.no_grad():
            data = model.data_preprocessor(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]), False)
            found.append(model(**data, mode='predict')[0])
        in_canvas = model.bbox_head.decode(model.network(data['inputs']), torch.tensor([[64, 96]])).boxes[0, :len(found[-1].pred_instances)]
        assert_close(found[-1].pred_instances.bboxes, in_canvas - torch.tensor([13., 7, 13, 7]))
    merged = DetTTAModel(model, dict(nms=dict(type='nms', iou_threshold=.99), max_per_img=10)).merge_preds([found])[0].pred_instances
    turned = found[1].pred_instances.bboxes[0] * torch.tensor([-1., 1, -1, 1]) + torch.tensor([70., 0, 70, 0])
    assert (merged.bboxes - turned[[2, 1, 0, 3]]).abs().amax(1).min() < 1e-3


def test_places_that_are_no_peak_are_not_detected(sample: Callable):
    out = outputs()
    rising = HeatmapOutputs(torch.arange(32.).view(1, 2, 4, 4) / 8, out.size, out.shift)
    found = head().predict(rising, [sample([], size=(16, 16))])[0]
    assert len(found) == 2 and found.labels.tolist() == [1, 0]               # one in each class: its last cell


def test_initial_weights():
    h = head(feat_channels=64)
    h.init_weights()
    assert h.heatmap_head[2].bias.sigmoid().tolist() == pytest.approx([.1, .1])
    assert h.wh_head[0].weight.std().item() == pytest.approx(.001, rel=.1) and (h.offset_head[2].bias == 0).all()


def test_settings_that_cannot_be_are_named():
    for cfg, said in ((dict(train_cfg=dict(a=1)), 'CenterNetHead train_cfg is not offered'), (dict(test_cfg=dict(top_k=3)), "no 'top_k'"),
                      (dict(test_cfg=dict(local_maximum_kernel=2)), 'local_maximum_kernel=2 must be odd'),
                      (dict(test_cfg=dict(topk=0)), 'topk: is 0; it should be at least 1')):
        with pytest.raises(ConfigError, match=said):
            head(**cfg)
    with pytest.raises(ConfigError, match='one feature map; the neck gives 2'):
        head()(FEATS * 2)
