"""Single-stage detectors whole: batches, empty images, precision, modes."""
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmengine.registry import DefaultScope
from torch.testing import assert_close

from detkit.models.detectors.single_stage import SingleStageDetector
from detkit.registry import MODELS, ConfigError
from detkit.structures import DetDataSample

NAMES = ['retinanet', 'rtmdet']
BOXES = [[[4., 6., 40., 44.]], [[20., 10., 60., 30.], [2., 30., 30., 62.]]]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize('alias', ['SingleStageDetector', 'RetinaNet', 'RTMDet', 'mmdet.RetinaNet'])
def test_all_names_are_one_class(alias: str):
    assert MODELS.get(alias) is SingleStageDetector


def test_a_batch_predicts_what_its_images_do(name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model, pictures, samples = detector(name), images(3), [sample([]) for _ in range(3)]
    with torch.no_grad():
        together = model(**batch(model, pictures, samples, False), mode='predict')
        for i in range(3):
            alone = model(**batch(model, pictures[i:i + 1], samples[i:i + 1], False), mode='predict')[0].pred_instances
            found = together[i].pred_instances
            assert len(found) == 20
            assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
            assert_close(found.bboxes, alone.bboxes, atol=1e-3, rtol=1e-4)
            assert torch.equal(found.labels, alone.labels)
            assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def loss_of(model: torch.nn.Module, batch: Callable, pictures: list, samples: list[DetDataSample]) -> dict[str, torch.Tensor]:
    return model(**batch(model, pictures, samples), mode='loss')


def test_a_batch_costs_the_mean_of_its_images_weighed_by_what_they_hold(
        name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    """All terms are divided by one number, summed over images, so every term mixes two images in the same proportion."""
    model, (a, b), samples = detector(name), images(2), [sample(boxes) for boxes in BOXES]
    first, second = (loss_of(model, batch, [x], [s]) for x, s in zip((a, b), samples))
    both = loss_of(model, batch, [a, b], samples)
    shares = [((both[k] - second[k]) / (first[k] - second[k])).item() for k in ('loss_cls', 'loss_bbox')]
    assert shares[0] == pytest.approx(shares[1], rel=1e-2)
    assert 0 < shares[0] < 1
    twice = loss_of(model, batch, [a, a], [samples[0]] * 2)
    for key in first:
        assert_close(twice[key], first[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('boxes', [[[]], [[], []], [[], BOXES[0]]], ids=['alone', 'all empty', 'one of two'])
def test_images_without_objects_train(name: str, boxes: list, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model = detector(name).train()
    model.backbone.eval(), model.neck.eval()                     # 64 x 64: a single value a channel has no batch statistics
    losses = loss_of(model, batch, images(len(boxes)), [sample(b) for b in boxes])
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    assert (losses['loss_bbox'].item() == 0) is not any(boxes)
    total.backward()
    learning = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, g in learning.items() if g is None or not torch.isfinite(g).all()] == []


def test_objects_smaller_than_a_pixel_or_without_area_train(
        name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model = detector(name)
    losses = loss_of(model, batch, images(1), [sample([[10., 10., 10.4, 10.4], [30., 30., 30., 30.]])])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_losses_are_float32_in_a_bfloat16_network(
        name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable, monkeypatch: pytest.MonkeyPatch):
    # 128 pixels: the gradient of a strided convolution over a map one pixel wide is undefined memory in torch's CPU bfloat16
    model, pictures, samples = detector(name), images(2, (128, 128)), [sample(boxes, size=(128, 128)) for boxes in BOXES]
    exact, seen = loss_of(model, batch, pictures, samples), []
    for step in ('loss', 'predict'):
        original = getattr(model.bbox_head, step)
        monkeypatch.setattr(model.bbox_head, step, lambda out, s, f=original: seen.extend(out.cls + out.reg) or f(out, s))
    with torch.autocast('cpu', torch.bfloat16):
        feats = model.extract_feat(batch(model, pictures, samples)['inputs'])
        losses = loss_of(model, batch, pictures, samples)
        found = model(**batch(model, pictures, samples, False), mode='predict')
    assert feats[0].dtype == torch.bfloat16                        # the network did run low
    assert {x.dtype for x in seen} == {torch.float32}              # and the head's arithmetic did not
    for key, value in losses.items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert value.item() == pytest.approx(exact[key].item(), rel=.1)
    assert {found[0].pred_instances.bboxes.dtype, found[0].pred_instances.scores.dtype} == {torch.float32}
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_step_is_repeated_exactly_and_draws_nothing(name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model, pictures, samples = detector(name), images(2), [sample(boxes) for boxes in BOXES]
    before = torch.get_rng_state()
    first, again = (loss_of(model, batch, pictures, samples) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in again.items()}


def test_boxes_come_back_in_pixels_of_the_original_image(
        name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model, pictures = detector(name), images(1)
    data = batch(model, pictures, [sample([], scale_factor=(.5, 2.), ori_shape=(32, 128))], False)
    with torch.no_grad():
        network = model.predict(**data, rescale=False)[0].pred_instances.bboxes.clone()
        original = model.predict(**data)[0].pred_instances.bboxes
    assert_close(original, network * torch.tensor([2., .5, 2., .5]))


def test_padding_in_the_batch_is_not_looked_at(name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    """Boxes end at the image, not at the batch it was padded to."""
    model = detector(name)
    pictures = [images(1, (40, 64))[0], images(1, (64, 64))[0]]
    with torch.no_grad():
        found = model(**batch(model, pictures, [sample([], size=(40, 64)), sample([])], False), mode='predict')
    assert found[0].pred_instances.bboxes[:, 3].max() <= 40
    assert found[1].pred_instances.bboxes[:, 3].max() > 40


def test_modes(name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model = detector(name)
    data = batch(model, images(1), [sample(BOXES[0])])
    out = model(**data)
    assert out.cls[0].shape[-1] == 3
    assert len(out.cls) == len(out.reg) == len(out.sizes)
    with pytest.raises(ValueError, match="forward has no mode 'train'. Known: loss, predict, tensor."):
        model(**data, mode='train')


def test_outputs_do_not_depend_on_the_samples(name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model = detector(name)
    data = batch(model, images(1), [sample(BOXES[0])])
    assert_close(model(data['inputs']).cls[0], model(**data).cls[0])
    assert_close(model.network(data['inputs']).reg[0], model(**data).reg[0])


def test_nothing_is_kept_between_loss_and_prediction(name: str, detector: Callable, batch: Callable, sample: Callable, images: Callable):
    model = detector(name)
    before = {n: set(vars(m)) for n, m in model.named_modules()}
    loss_of(model, batch, images(1), [sample(BOXES[0])])
    model(**batch(model, images(1), [sample([])], False), mode='predict')
    assert {n: set(vars(m)) for n, m in model.named_modules()} == before


def test_a_detector_made_by_hand_has_a_preprocessor(config: Callable, images: Callable):
    cfg = config('retinanet')
    with DefaultScope.overwrite_default_scope('mmengine'):          # as in a program that has set no scope
        model = SingleStageDetector(cfg['backbone'], cfg['bbox_head'], cfg['neck'], cfg['train_cfg'], cfg['test_cfg'])
    assert type(model.data_preprocessor).__name__ == 'DetDataPreprocessor'
    assert model.data_preprocessor(dict(inputs=images(1)))['inputs'].shape == (1, 3, 64, 64)


def test_without_a_neck_the_backbone_feeds_the_head(config: Callable, detector: Callable):
    cfg = config('retinanet')
    head = dict(cfg['bbox_head'], in_channels=64, anchor_generator=dict(type='AnchorGenerator', strides=[32], ratios=[1.], scales=[2.]))
    model = detector('retinanet', neck=None, bbox_head=head, backbone=dict(cfg['backbone'], out_indices=(3,)))
    assert model(torch.zeros(1, 3, 64, 64)).cls[0].shape == (1, 4, 3)


@pytest.mark.parametrize(('part', 'change', 'said'), [
    ('test_cfg', dict(score_thresh=.1), "test_cfg: model.test_cfg has no 'score_thresh'. Did you mean 'score_thr'"),
    ('test_cfg', dict(nms=dict(type='nms', iou_tresh=.1)), "test_cfg.nms.iou_tresh: nms type 'nms' has no 'iou_tresh'."),
    ('train_cfg', dict(sampler=dict(type='PseudoSampla')), "train_cfg.sampler.type: no 'PseudoSampla' in the registry 'task util'."),
    ('neck', dict(out_chanels=4), "neck: FPN takes no argument 'out_chanels'. Did you mean 'out_channels'"),
    ('backbone', dict(norm_cfg=dict(type='BatchNorm', eps=1e-3)),
     "backbone.norm_cfg.type: norm_cfg type 'BatchNorm' is unknown. Known: BN")])
def test_a_wrong_key_is_named_with_its_way(part: str, change: dict, said: str, config: Callable):
    cfg = config('retinanet')
    cfg[part].update(change)
    with pytest.raises(ConfigError) as caught:
        MODELS.build(cfg)
    assert str(caught.value).startswith(said)
