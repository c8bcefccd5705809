"""Mask2Former's losses: by hand, and against a slow formula where the points are all the pixels."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from torch.testing import assert_close

import detkit.models.query_heads.mask2former_head as module
import detkit.models.query_heads.mask_queries as mask_queries
from detkit.models.query_heads.mask_queries import (
    MaskQueries,
    average_factors,
    class_losses,
    named_by_layer,
    query_of_object,
    true_segments,
)
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, DetDataSample

COSTS = [dict(type='ClassificationCost', weight=2.0), dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
         dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0)]


@pytest.fixture
def head(config):
    return lambda kind='mask2former', **changes: MODELS.build(
        config(kind)['panoptic_head'] | changes, train_cfg=config(kind)['train_cfg'])


def truth(masks: torch.Tensor, labels: list[int], seed: int = 0, seg: torch.Tensor | None = None) -> DetDataSample:
    size = tuple(masks.shape[1:])
    sample = DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size, img_path='a.jpg', seed=seed))
    sample.gt_instances = InstanceData(labels=torch.tensor(labels, dtype=torch.long), masks=BitmapMasks(masks.numpy(), *size))
    if seg is not None:
        sample.gt_sem_seg = PixelData(sem_seg=seg[None])
    return sample


def drawn(head, count: int, size: int = 8, seed: int = 0) -> MaskQueries:
    """Outputs whose masks lie on a map as large as the truth's."""
    g = torch.Generator().manual_seed(seed)
    return MaskQueries(torch.randn(2, count, head.num_queries, head.num_classes + 1, generator=g),
                       torch.randn(2, count, head.num_queries, 16, generator=g), torch.randn(count, 16, size, size, generator=g) / 4)


def squares(*corners: tuple[int, int, int, int], size: int = 8) -> torch.Tensor:
    masks = torch.zeros(len(corners), size, size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, corners):
        mask[y1:y2, x1:x2] = 1
    return masks


def at_every_pixel(logits: torch.Tensor, *_: object) -> torch.Tensor:
    h, w = logits.shape[1:]
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing='ij')
    return torch.stack([x, y], -1).reshape(1, -1, 2).expand(len(logits), -1, -1)


def slow_losses(out: MaskQueries, samples: list[DetDataSample], index: list[torch.Tensor], num_classes: int) -> dict[str, torch.Tensor]:
    """Sec. 3.2 and 4.1 of the paper, a query at a time: weights 2, 5, 5; 0.1 for no object; masks averaged over all that are matched."""
    layers = []
    for d in range(len(out.logits)):
        cls = weight = mask = dice = torch.zeros(())
        count = 0
        for i, sample in enumerate(samples):
            for q in range(out.logits.shape[2]):
                k = int(index[i][d, q])
                label = num_classes if k < 0 else int(sample.gt_instances.labels[k])
                w = 0.1 if k < 0 else 1.0
                cls, weight = cls - w * out.logits[d, i, q].log_softmax(-1)[label], weight + w
                if k >= 0:
                    p = torch.einsum('c,chw->hw', out.embeds[d, i, q], out.features[i]).sigmoid()
                    t = torch.from_numpy(sample.gt_instances.masks.masks[k]).float()
                    mask = mask - (t * p.log() + (1 - t) * (1 - p).log()).mean()
                    dice = dice + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                    count += 1
        layers.append((2 * cls / weight, 5 * mask / max(count, 1), 5 * dice / max(count, 1)))
    return dict(loss_cls=layers[1][0], loss_mask=layers[1][1], loss_dice=layers[1][2],
                **{'d0.loss_cls': layers[0][0], 'd0.loss_mask': layers[0][1], 'd0.loss_dice': layers[0][2]})


@pytest.mark.parametrize('second', [[], [1, 2, 0]])
def test_losses_are_the_papers_where_points_are_all_pixels(head, monkeypatch, second):
    made, out = head(), None
    monkeypatch.setattr(module, 'uncertain_points', at_every_pixel)
    made.train_cfg = module.PointTraining(made.train_cfg.assigner, num_points=64)
    out = drawn(made, 2)
    samples = [truth(squares((0, 0, 4, 4), (3, 2, 8, 7)), [2, 0]),
               truth(squares(*[(i, i, i + 3, i + 4) for i in range(len(second))]), second, seed=5)]
    index = [made.match(MaskQueries(out.logits[:, i], out.embeds[:, i], out.features[i]), true_segments(s, 3, 3),
                        module.on_device(s, torch.device('cpu')), s) for i, s in enumerate(samples)]
    got = made.loss(out, samples)
    assert_close(got, slow_losses(out, samples, index, 3))


def test_a_perfect_query_is_matched_with_its_object(head):
    made = head()
    out = drawn(made, 1)
    masks = squares((1, 1, 5, 5), (4, 5, 8, 8))
    features = torch.zeros(1, 16, 8, 8)
    features[0, :2] = masks * 8. - 4
    embeds = torch.zeros(2, 1, 12, 16)
    embeds[0, 0, 7, 0] = embeds[0, 0, 3, 1] = embeds[1, 0, 2, 1] = embeds[1, 0, 5, 0] = 1
    sample = truth(masks, [0, 1])
    index = made.match(MaskQueries(torch.zeros_like(out.logits[:, 0]), embeds[:, 0], features[0]), true_segments(sample, 3, 3),
                       torch.Generator().manual_seed(0), sample)
    assert [(index[0] == k).nonzero().item() for k in (0, 1)] == [7, 3]
    assert [(index[1] == k).nonzero().item() for k in (0, 1)] == [5, 2]
    assert (index == -1).sum() == 2 * 10


def test_class_losses_by_hand(head):
    made = head(num_queries=2)
    logits, labels = torch.tensor([[[[0., 0, 0, 0], [9., 0, 0, 0]]]]), torch.tensor([[[1, 3]]])      # a class at 1 / 4, and no object
    factors = average_factors(labels, 0, made.loss_cls.class_weight)
    assert factors.classes.tolist() == pytest.approx([1.1]) and factors.masks == 1
    got, = class_losses(made.loss_cls, logits, labels, factors)
    assert_close(got, 2 * (torch.tensor(4.).log() + 0.1 * torch.logsumexp(logits[0, 0, 1], 0)) / 1.1)


def test_mask_losses_by_hand(head, monkeypatch):
    monkeypatch.setattr(module, 'uncertain_points', at_every_pixel)
    made = head(num_queries=1)
    made.train_cfg = module.PointTraining(made.train_cfg.assigner, num_points=4)
    out = MaskQueries(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 16), torch.zeros(1, 16, 2, 2))   # every pixel at 1 / 2
    got = made.loss(out, [truth(torch.tensor([[[1, 1], [0, 0]]], dtype=torch.uint8), [1])])
    assert_close(got, dict(loss_cls=2 * torch.tensor(4.).log(), loss_mask=5 * torch.tensor(2.).log(),
                           loss_dice=torch.tensor(5 * (1 - (2 * 1 + 1) / (2 + 2 + 1)))))


def test_counts_are_averaged_over_processes(head, monkeypatch):
    made = head()
    args = drawn(made, 1), [truth(squares((0, 0, 4, 4), (3, 2, 8, 7)), [2, 0])]
    alone = made.loss(*args)
    monkeypatch.setattr(mask_queries, 'mean_over_processes', lambda factors: factors * 2)      # the other has three times as much
    assert_close({k: 2 * v for k, v in made.loss(*args).items()}, alone)


def test_names_are_mmdetections():
    losses = named_by_layer(dict(loss_cls=[torch.tensor(float(i)) for i in range(3)]))
    assert {k: float(v) for k, v in losses.items()} == {'loss_cls': 2, 'd0.loss_cls': 0, 'd1.loss_cls': 1}


def test_an_image_without_objects_trains_every_parameter(detector, sample, images, batch):
    for kind in ('mask2former', 'mask2former_panoptic'):
        model = detector(kind).train()
        losses = model(**batch(model, images(1), [sample([])]), mode='loss')
        model.parse_losses(losses)[0].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        if kind == 'mask2former':
            assert all(v == 0 for k, v in losses.items() if 'cls' not in k)
        assert losses['loss_cls'] > 0


def test_more_objects_than_queries_share_what_there_is(head):
    made = head(num_queries=2)
    losses = made.loss(drawn(made, 1), [truth(squares((0, 0, 4, 4), (3, 2, 8, 7), (5, 5, 7, 8)), [2, 0, 1])])
    assert all(v.isfinite() and v > 0 for v in losses.values())
    assert query_of_object(torch.tensor([[2, 0]]), 3).tolist() == [[1, -1, 0]]


def test_a_batch_is_the_mean_of_its_images_by_their_objects(detector, sample, images, batch):
    model = detector('mask2former')
    pictures, samples = images(2), [sample([[4, 4, 40, 40], [20, 30, 60, 60]], seed=1), sample([[10, 6, 50, 30]], seed=2)]
    both = model(**batch(model, pictures, samples), mode='loss')
    one, two = (model(**batch(model, pictures[i:i + 1], samples[i:i + 1]), mode='loss') for i in range(2))
    for name in both:
        weights = (2 + 0.1 * 10, 1 + 0.1 * 11) if 'cls' in name else (2, 1)
        assert_close(both[name], (one[name] * weights[0] + two[name] * weights[1]) / sum(weights), rtol=1e-4, atol=1e-5)


def test_points_follow_from_the_samples_seed(detector, sample, images, batch):
    model = detector('mask2former')
    same, other = (model(**batch(model, images(1), [sample([[4, 4, 40, 40]], seed=s)]), mode='loss') for s in (3, 4))
    torch.rand(5)                                                                          # torch's own state plays no part
    assert_close(same, model(**batch(model, images(1), [sample([[4, 4, 40, 40]], seed=3)]), mode='loss'))
    assert same['loss_mask'] != other['loss_mask']


def test_stuff_is_one_segment_a_class_and_things_are_not_taken_from_the_map():
    seg = torch.tensor([[3, 3, 255], [4, 0, 9]], dtype=torch.uint8)
    made = truth(torch.tensor([[[0, 0, 0], [0, 1, 0]]], dtype=torch.uint8), [0], seg=seg)
    got = true_segments(made, 3, 5)
    assert got.labels.tolist() == [0, 3, 4] and got.masks.shape == (3, 2, 3)
    assert got.masks[1].tolist() == [[1, 1, 0], [0, 0, 0]] and got.masks[2].tolist() == [[0, 0, 0], [1, 0, 0]]
    made.set_metainfo(dict(batch_input_shape=(4, 4)))
    assert true_segments(made, 3, 5).masks.sum((1, 2)).tolist() == [1, 2, 1]               # what was padded belongs to nothing
    assert true_segments(made, 9, 9).labels.tolist() == [0]


def test_annotations_that_were_not_loaded_are_named():
    made = truth(squares((0, 0, 4, 4)), [0])
    with pytest.raises(ConfigError, match=r'num_stuff_classes=2.*with_seg=True'):
        true_segments(made, 3, 5)
    del made.gt_instances.masks
    with pytest.raises(ConfigError, match='with_mask=True'):
        true_segments(made, 3, 3)


def test_queries_look_at_their_mask_or_everywhere():
    features = torch.tensor([[[[1., -1.], [-1., 2.]]]])
    visible = module.where_masked(torch.tensor([[[1.], [-1.], [0.]]]), features)
    assert visible.shape == (1, 1, 3, 4)
    assert visible[0, 0].tolist() == [[True, False, False, True], [False, True, True, False], [True] * 4]
    assert module.where_masked(torch.tensor([[[-1.]]]), features.abs()).all()              # a mask without a cell


@pytest.mark.parametrize('change, words', [
    (dict(loss_cls=dict(type='CrossEntropyLoss', class_weight=[1.0] * 3)), 'class_weight has 3 weights for 3 classes and "no object"'),
    (dict(num_transformer_feat_level=4), 'num_transformer_feat_level=4 exceeds pixel_decoder.num_outs=3'),
    (dict(in_channels=[8, 16, 32]), r'in_channels=\[8, 16, 32\] are 3 maps: strides=\[4, 8, 16, 32\] must be as many')])
def test_arguments_that_do_not_fit_are_refused(head, change, words):
    with pytest.raises(ConfigError, match=words):
        head(**change)


@pytest.mark.parametrize('change, words', [
    (dict(num_points=0), 'num_points: is 0'), (dict(oversample_ratio=0.5), 'oversample_ratio: is 0.5'),
    (dict(importance_sample_ratio=1.5), 'importance_sample_ratio: is 1.5'),
    (dict(sampler=dict(type='RandomSampler', num=5, pos_fraction=0.5)), "sampler='RandomSampler' does not fit"),
    (dict(numpoints=5), "has no 'numpoints'. Did you mean 'num_points'")])
def test_training_settings_are_checked(config, change, words):
    cfg = config('mask2former')
    with pytest.raises(ConfigError, match=words):
        MODELS.build(cfg | dict(train_cfg=cfg['train_cfg'] | change))


def test_a_decoder_must_predict_after_each_layer(config):
    cfg = config('mask2former')
    cfg['panoptic_head']['transformer_decoder']['return_intermediate'] = False
    with pytest.raises(ConfigError, match='return_intermediate=False is not supported'):
        MODELS.build(cfg)


def test_costs_that_are_not_finite_name_the_image(head):
    made = head()
    out = drawn(made, 1)
    out.logits[1, 0, 3] = float('nan')
    with pytest.raises(ValueError, match=r'a\.jpg: ClassificationCost is not finite'):
        made.loss(out, [truth(squares((0, 0, 4, 4)), [2])])


def test_masks_are_the_products_of_queries_and_cells(head):
    out = drawn(head(), 2)
    logits, masks = out.last()
    assert_close(masks, torch.einsum('nqc,nchw->nqhw', out.embeds[1], out.features))
    assert logits is not out.logits and torch.equal(logits, out.logits[1])


def test_masks_resized_are_masks_of_resized_features(head):
    out = drawn(head(), 2)
    small = F.interpolate(out.features, (3, 5), mode='bilinear', align_corners=False)
    resized = F.interpolate(out.last()[1], (3, 5), mode='bilinear', align_corners=False).flatten(2) >= 0
    assert torch.equal(module.where_masked(out.embeds[1], small)[:, 0], resized | ~resized.any(-1, keepdim=True))
