"""Faster R-CNN whole: batches, empty images, precision, its settings."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from detkit.models.detectors.two_stage import TwoStageDetector
from detkit.registry import MODELS, ConfigError

BOXES = [[[4., 6., 40., 44.]], [[20., 10., 60., 30.], [2., 30., 30., 62.]]]
TERMS = ['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox']


@pytest.fixture
def model(detector: Callable) -> TwoStageDetector:
    return detector('faster_rcnn')


def loss_of(model: TwoStageDetector, batch: Callable, pictures: list, samples: list) -> dict[str, torch.Tensor]:
    return model(**batch(model, pictures, samples), mode='loss')


def test_both_names_are_one_class():
    assert MODELS.get('FasterRCNN') is MODELS.get('mmdet.TwoStageDetector') is TwoStageDetector


def test_a_batch_predicts_what_its_images_do(model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    pictures, samples = images(3), [sample([]) for _ in range(3)]
    with torch.no_grad():
        together = model(**batch(model, pictures, samples, False), mode='predict')
        for i in range(3):
            alone = model(**batch(model, pictures[i:i + 1], samples[i:i + 1], False), mode='predict')[0].pred_instances
            found = together[i].pred_instances
            assert len(found) > 3
            assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
            assert_close(found.bboxes, alone.bboxes, atol=1e-3, rtol=1e-4)
            assert torch.equal(found.labels, alone.labels)


def test_terms_and_their_total(model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    losses = loss_of(model, batch, images(2), [sample(boxes) for boxes in BOXES])
    assert set(losses) == {*TERMS, 'acc'}
    total, _ = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(losses[k].item() for k in TERMS), rel=1e-5)      # accuracy is no loss
    assert 0 <= losses['acc'] <= 100


def test_a_batch_costs_the_mean_of_its_images_weighed_by_what_was_sampled(
        model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    (a, b), samples = images(2), [sample(boxes, seed=i) for i, boxes in enumerate(BOXES)]
    first, second = (loss_of(model, batch, [x], [s]) for x, s in zip((a, b), samples))
    both = loss_of(model, batch, [a, b], samples)
    share = {k: ((both[k] - second[k]) / (first[k] - second[k])).item() for k in TERMS}
    assert share['loss_rpn_cls'] == pytest.approx(share['loss_rpn_bbox'], rel=1e-2)
    assert share['loss_cls'] == pytest.approx(share['loss_bbox'], rel=1e-2)
    assert all(0 < s < 1 for s in share.values())
    twice = loss_of(model, batch, [a, a], [samples[0]] * 2)
    for key in TERMS:
        assert_close(twice[key], first[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('boxes', [[[]], [[], []], [[], BOXES[0]]], ids=['alone', 'all empty', 'one of two'])
def test_images_without_objects_train(boxes: list, model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    losses = loss_of(model.train(), batch, images(len(boxes)), [sample(b) for b in boxes])
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    for key in ('loss_rpn_bbox', 'loss_bbox'):
        assert (losses[key].item() == 0) is not any(boxes)
    total.backward()
    learning = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, g in learning.items() if g is None or not torch.isfinite(g).all()] == []


def test_losses_are_float32_in_a_bfloat16_network(model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    pictures, samples = images(2), [sample(boxes) for boxes in BOXES]
    exact = loss_of(model, batch, pictures, samples)
    with torch.autocast('cpu', torch.bfloat16):
        feats = model.extract_feat(batch(model, pictures, samples)['inputs'])
        losses = loss_of(model, batch, pictures, samples)
        found = model(**batch(model, pictures, samples, False), mode='predict')
    assert feats[0].dtype == torch.bfloat16
    for key in TERMS:
        assert losses[key].dtype == torch.float32
        assert torch.isfinite(losses[key])
        assert losses[key].item() == pytest.approx(exact[key].item(), rel=.25)       # other proposals may be sampled
    assert {found[0].pred_instances.bboxes.dtype, found[0].pred_instances.scores.dtype} == {torch.float32}
    sum(losses[k] for k in TERMS).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_step_follows_from_the_samples_seeds_alone(model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    pictures = images(1)

    def step(seed: int) -> dict[str, float]:
        return {k: v.item() for k, v in loss_of(model, batch, pictures, [sample(BOXES[1], seed=seed)]).items()}

    before = torch.get_rng_state()
    first, again = step(1), step(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert first == again == step(1)
    assert step(2)['loss_rpn_cls'] != first['loss_rpn_cls']


def test_boxes_come_back_in_pixels_of_the_original_image(model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    data = batch(model, images(1), [sample([], scale_factor=(.5, 2.))], False)
    with torch.no_grad():
        network = model.predict(**data, rescale=False)[0].pred_instances.bboxes.clone()
        assert_close(model.predict(**data)[0].pred_instances.bboxes, network * torch.tensor([2., .5, 2., .5]))
    assert network.min() >= 0
    assert network.max() <= 64


def test_raw_outputs_are_features_and_proposal_scores(model: TwoStageDetector):
    feats, out = model(torch.zeros(2, 3, 64, 64))
    assert [tuple(f.shape) for f in feats] == [(2, 16, s, s) for s in (16, 8, 4, 2, 1)]
    assert [tuple(c.shape) for c in out.cls] == [(2, 3 * s * s, 1) for s in (16, 8, 4, 2, 1)]


def test_one_box_for_all_classes(config: Callable, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    roi_head = config('faster_rcnn')['roi_head']
    roi_head['bbox_head']['reg_class_agnostic'] = True
    model = detector('faster_rcnn', roi_head=roi_head)
    assert model.roi_head.bbox_head.fc_reg.out_features == 4
    assert torch.isfinite(model.parse_losses(loss_of(model, batch, images(1), [sample(BOXES[1])]))[0])
    with torch.no_grad():
        assert len(model(**batch(model, images(1), [sample([])], False), mode='predict')[0].pred_instances) > 0


def test_a_threshold_that_nothing_reaches_gives_no_detections(
        config: Callable, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    test_cfg = config('faster_rcnn')['test_cfg']
    test_cfg['rcnn']['score_thr'] = 1.
    model = detector('faster_rcnn', test_cfg=test_cfg)
    found = model(**batch(model, images(2), [sample([]), sample([])], False), mode='predict')
    assert [f.pred_instances.bboxes.shape for f in found] == [(0, 4)] * 2


def test_proposals_for_training_may_be_as_for_testing(
        config: Callable, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    train_cfg = config('faster_rcnn')['train_cfg']
    del train_cfg['rpn_proposal']
    model = detector('faster_rcnn', train_cfg=train_cfg)
    assert torch.isfinite(model.parse_losses(loss_of(model, batch, images(1), [sample(BOXES[1])]))[0])


def test_a_model_for_inference_needs_no_train_cfg(detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model = detector('faster_rcnn', train_cfg=None)
    with torch.no_grad():
        assert len(model(**batch(model, images(1), [sample([])], False), mode='predict')[0].pred_instances) > 0


@pytest.mark.parametrize(('part', 'keys', 'said'), [
    ('train_cfg', dict(rcn={}), 'has the keys rcnn, rpn, rpn_proposal, not rcn, rcnn, rpn, rpn_proposal.'),
    ('test_cfg', dict(rpn_proposal={}), 'has the keys rcnn, rpn, not rcnn, rpn, rpn_proposal.')])
def test_unknown_sections_are_refused(part: str, keys: dict, said: str, config: Callable):
    cfg = config('faster_rcnn')
    cfg[part].update(keys)
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg)
    assert str(caught.value) == f'{part}: {part} of a two-stage detector {said}'


@pytest.mark.parametrize(('keys', 'change', 'said'), [
    (('test_cfg', 'rcnn'), dict(score_thresh=.1), "test_cfg.rcnn: model.test_cfg.rcnn has no 'score_thresh'."),
    (('train_cfg', 'rpn', 'assigner'), dict(pos_iou=.1), "train_cfg.rpn.assigner: MaxIoUAssigner takes no argument 'pos_iou'."),
    (('train_cfg', 'rcnn', 'sampler'), dict(type='RandomSample'), "train_cfg.rcnn.sampler.type: no 'RandomSample' in the registry"),
    (('rpn_head',), dict(type='FCOSHead'), "rpn_head.type: rpn_head type 'FCOSHead' proposes no regions here. RPNHead does."),
    (('rpn_head',), dict(type='RPNHed'), "rpn_head.type: no 'RPNHed' in the registry 'model'. Did you mean 'RPNHead'"),
    (('roi_head', 'bbox_head'), dict(num_class=3), "roi_head.bbox_head: Shared2FCBBoxHead takes no argument 'num_class'.")])
def test_a_wrong_key_is_named_with_its_way(keys: tuple[str, ...], change: dict, said: str, config: Callable):
    cfg = part = config('faster_rcnn')
    for key in keys:
        part = part[key]
    part.update(change)
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg)
    assert str(caught.value).startswith(said)


def test_the_second_stage_predicts_in_the_callers_precision(model: TwoStageDetector, batch: Callable, sample: Callable, images: Callable):
    seen = []
    model.roi_head.bbox_head.register_forward_hook(lambda module, args, out: seen.append(out[0].dtype))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = model(**batch(model, images(1), [sample([])], False), mode='predict')[0].pred_instances
    assert seen == [torch.bfloat16]
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
