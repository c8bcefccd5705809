"""MaskFormer's losses against a slow formula, its padding, its pixel decoders."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from torch.testing import assert_close

from detkit.models.query_heads.mask_queries import MaskQueries, true_segments
from detkit.registry import MODELS, ConfigError
from detkit.structures import BitmapMasks, DetDataSample


@pytest.fixture
def head(config):
    cfg = config('maskformer')
    return lambda **changes: MODELS.build(cfg['panoptic_head'] | changes, train_cfg=cfg['train_cfg'])


def truth(labels: list[int]) -> DetDataSample:
    """Two rectangles of things at most, on 8x8 pixels whose upper rows are stuff."""
    sample = DetDataSample(metainfo=dict(img_shape=(8, 8), batch_input_shape=(8, 8), img_id=7))
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[0, 1:4, 2:7] = masks[1, 3:8, 0:5] = 1
    sample.gt_instances = InstanceData(labels=torch.tensor(labels, dtype=torch.long),
                                       masks=BitmapMasks(masks[:len(labels)].numpy(), 8, 8))
    seg = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    seg[:, :2] = 3
    sample.gt_sem_seg = PixelData(sem_seg=seg)
    return sample


@pytest.mark.parametrize('second', [[], [1]])
def test_losses_are_the_papers(head, second):
    """A query at a time: cross entropy with 0.1 for no object, 20 times the focal loss of all pixels, Dice; masks at the truth's size."""
    made, g = head(), torch.Generator().manual_seed(0)
    out = MaskQueries(torch.randn(2, 2, 12, 5, generator=g), torch.randn(2, 2, 12, 16, generator=g),
                      torch.randn(2, 16, 4, 4, generator=g) / 4)
    samples = [truth([2, 0]), truth(second)]
    want = {}
    for d, prefix in enumerate(('d0.', '')):
        cls = weight = focal = dice = torch.zeros(())
        count = 0
        for i, sample in enumerate(samples):
            gt = true_segments(sample, 3, 4)
            index = made.match(MaskQueries(out.logits[:, i], out.embeds[:, i], out.features[i]), gt, sample)[d]
            for q, k in enumerate(index.tolist()):
                w = 0.1 if k < 0 else 1.
                cls, weight = cls - w * out.logits[d, i, q].log_softmax(-1)[4 if k < 0 else gt.labels[k]], weight + w
                if k >= 0:
                    small = torch.einsum('c,chw->hw', out.embeds[d, i, q], out.features[i])
                    p = F.interpolate(small[None, None], (8, 8), mode='bilinear', align_corners=False)[0, 0].sigmoid()
                    t = gt.masks[k].float()
                    focal = focal - (0.25 * t * (1 - p)**2 * p.log() + 0.75 * (1 - t) * p**2 * (1 - p).log()).mean()
                    dice = dice + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                    count += 1
        want |= {f'{prefix}loss_cls': cls / weight, f'{prefix}loss_mask': 20 * focal / count, f'{prefix}loss_dice': dice / count}
    made.loss_dice.eps = 1.0
    assert_close(made.loss(out, samples), want)


def test_padding_is_not_looked_at(detector, sample, images, batch):
    model = detector('maskformer')
    pictures = images(1, (64, 96))
    alone = batch(model, pictures, [sample([], size=(64, 96))], training=False)
    wide = batch(model, [pictures[0], images(1, (96, 128))[0]], [sample([], size=(64, 96)), sample([], size=(96, 128))], training=False)
    assert model.context(alone['data_samples'], False)['sizes'] is None
    assert model.context(wide['data_samples'], False)['sizes'].tolist() == [[64, 96], [96, 128]]
    feats = [torch.randn(2, c, 96 // s, 128 // s) for c, s in zip((8, 16, 32, 64), (4, 8, 16, 32))]
    changed = [f.clone() for f in feats]
    changed[3][0, :, 2:] = 5                                 # below the first image: its third row of cells
    context = dict(model.context(wide['data_samples'], False), input_size=(96, 128))
    with torch.no_grad():
        one, two = (model.panoptic_head(tuple(f), **context) for f in (feats, changed))
        plain = model.panoptic_head(tuple(changed))
    assert_close(one.logits[:, 0], two.logits[:, 0])
    assert not torch.allclose(plain.logits[:, 0], two.logits[:, 0], atol=1e-4)


def test_an_image_without_anything_trains_every_parameter(detector, sample, images, batch):
    model = detector('maskformer').train()
    data = batch(model, images(1), [sample([])])
    data['data_samples'][0].gt_sem_seg.sem_seg.fill_(255)
    losses = model(**data, mode='loss')
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(v == 0 for k, v in losses.items() if 'cls' not in k) and losses['loss_cls'] > 0


def test_without_an_encoder_queries_look_at_the_backbones_coarsest_map(head):
    made = head(pixel_decoder=dict(type='PixelDecoder', norm_cfg=dict(type='GN', num_groups=4)), enforce_decoder_input_project=True)
    assert made.decoder_input_proj.in_channels == 64
    out = made(tuple(torch.randn(1, c, 32 // s, 64 // s) for c, s in zip((8, 16, 32, 64), (1, 2, 4, 8))))
    assert out.features.shape == (1, 16, 32, 64) and out.logits.shape == (3, 1, 12, 5)


def test_channels_that_do_not_fit_are_refused(head, config):
    decoder = config('maskformer')['panoptic_head']['pixel_decoder']
    decoder['encoder']['layer_cfg'] = dict(self_attn_cfg=dict(embed_dims=8, num_heads=2), ffn_cfg=dict(embed_dims=8))
    with pytest.raises(ConfigError, match='embed_dims=8 of the encoder and feat_channels=16 must agree'):
        head(pixel_decoder=decoder)
