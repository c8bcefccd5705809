"""DETR, Conditional DETR, Deformable DETR and DINO: what sets them apart from other kinds."""
import pytest
import torch
from kinds import make_batch, make_images, make_sample, small_config, small_detector
from torch import nn

from detkit.registry import MODELS, ConfigError

KINDS = ['detr', 'conditional_detr', 'deformable_detr_plain', 'deformable_detr', 'dino']
BOXES = [[4., 6., 40., 44.], [20., 10., 60., 30.]]


def changed(kind: str, part: str, **changes: object) -> dict:
    cfg = small_config(kind)
    return cfg | {part: cfg[part] | changes}


def loss_names(model: nn.Module, boxes: list) -> list[str]:
    return list(model(**make_batch(model, make_images(1), [make_sample(boxes)]), mode='loss'))


def terms(*prefixes: str) -> list[str]:
    return [f'{prefix}loss_{term}' for prefix in prefixes for term in ('cls', 'bbox', 'iou')]


@pytest.mark.parametrize('kind, prefixes', [
    ('detr', ['d0.', '']), ('conditional_detr', ['d0.', '']), ('deformable_detr_plain', ['d0.', '']),
    ('deformable_detr', ['d0.', '', 'enc_']), ('dino', ['d0.', '', 'enc_', 'd0.dn_', 'dn_'])])
def test_loss_terms_have_mmdetections_names_with_objects_or_without(kind: str, prefixes: list[str]):
    model = small_detector(kind).train()
    assert loss_names(model, BOXES) == loss_names(model, []) == terms(*prefixes)


def test_the_last_layer_alone_predicts_when_told():
    model = MODELS.build(changed('dino', 'decoder', return_intermediate=False))
    assert loss_names(model, BOXES) == terms('', 'enc_', 'dn_')


@pytest.mark.parametrize('kind', KINDS)
def test_more_detections_than_the_queries_give(kind: str):
    with pytest.raises(ConfigError, match='max_per_img=61 asks for more detections than the [26]0 that num_queries=20 can give'):
        MODELS.build(small_config(kind) | dict(test_cfg=dict(max_per_img=61)))


@pytest.mark.parametrize('kind', ['deformable_detr', 'dino'])
def test_an_input_with_fewer_tokens_than_queries(kind: str):
    model = MODELS.build(small_config(kind) | dict(num_queries=100)).eval()
    with pytest.raises(ValueError, match='num_queries=100 queries .* this input has only 85. Lower model.num_queries'):
        model.network(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize('kind', KINDS)
def test_a_cost_that_is_not_finite_names_the_image(kind: str):
    model = small_detector(kind)
    model.bbox_head.assigner.match_costs[0].weight = float('inf')
    data = make_batch(model, make_images(1), [make_sample(BOXES, img_path='street.jpg')])
    with pytest.raises(ValueError, match='street.jpg: (ClassificationCost|FocalLossCost) is not finite'):
        model(**data, mode='loss')


@pytest.mark.parametrize('kind', ['deformable_detr', 'dino'])
def test_a_deformable_decoder_has_no_post_norm(kind: str):
    with pytest.raises(ConfigError, match='decoder.post_norm_cfg: a deformable decoder has no post_norm'):
        MODELS.build(changed(kind, 'decoder', post_norm_cfg=dict(type='LN')))


def test_dino_refines_and_has_two_stages():
    with pytest.raises(ConfigError, match='with_box_refine=False and as_two_stage=True; both must be True'):
        MODELS.build(small_config('dino') | dict(with_box_refine=False))
    cfg = small_config('dino')
    del cfg['dn_cfg']
    with pytest.raises(ConfigError, match="DINO needs 'dn_cfg'"):
        MODELS.build(cfg)


def test_conditional_attention_must_know_which_it_is():
    cfg = small_config('conditional_detr')
    cfg['decoder']['layer_cfg']['cross_attn_cfg']['cross_attn'] = False
    with pytest.raises(ConfigError, match='cross_attn must be True in layer_cfg.cross_attn_cfg'):
        MODELS.build(cfg)


def test_levels_must_agree():
    model = MODELS.build(changed('dino', 'neck', num_outs=3)).eval()
    with pytest.raises(ConfigError, match='num_levels=4, but is given 3 feature maps'):
        model.network(torch.zeros(1, 3, 64, 64))


def test_recomputed_encoder_layers_give_the_same_losses_and_gradients():
    results = []
    for num_cp in (-1, 2):
        model = small_detector('deformable_detr', encoder=small_config('deformable_detr')['encoder'] | dict(num_cp=num_cp))
        total, _ = model.parse_losses(model(**make_batch(model, make_images(1), [make_sample(BOXES)]), mode='loss'))
        total.backward()
        results.append([total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_denoising_queries_do_not_change_the_matched_ones():
    model = small_detector('dino')
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone, beside = model.network(images), model.network(images, **model.context([make_sample(BOXES)], True))
    added = beside.logits.shape[2] - 20
    assert added == beside.denoised.shape[1] == 2 * 2 * 5           # two objects, five groups, positives and negatives
    torch.testing.assert_close(beside.boxes[:, :, added:], alone.boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(beside.logits[:, :, added:], alone.logits, atol=1e-4, rtol=1e-4)


def test_refinement_starts_each_layer_from_the_boxes_before():
    """With branches that add nothing, all layers predict the encoder's proposals."""
    model = small_detector('deformable_detr')
    for branch in model.bbox_head.reg_branches:
        nn.init.zeros_(branch[-1].weight)
        nn.init.zeros_(branch[-1].bias)
    with torch.no_grad():
        out = model.network(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(out.boxes[0], out.boxes[1], atol=1e-4, rtol=0)
    assert (torch.cdist(out.boxes[0, 0], out.proposal_boxes[0]).amin(1) < 1e-4).all()


def test_initial_weights():
    """Matrices of encoder and decoder are Xavier's; deformable attention looks around itself."""
    torch.manual_seed(0)
    model = MODELS.build(small_config('dino'))
    model.init_weights()
    ffn = model.encoder.layers[0].ffn.layers[0][0].weight
    bound = (6 / (ffn.shape[0] + ffn.shape[1]))**.5
    assert ffn.abs().max() <= bound and ffn.std().item() == pytest.approx(bound / 3**.5, rel=0.1)
    for layer in (*model.encoder.layers, *(layer.cross_attn for layer in model.decoder.layers)):
        attention = getattr(layer, 'self_attn', layer)
        assert attention.sampling_offsets.weight.abs().max() == attention.attention_weights.weight.abs().max() == 0
    assert model.level_embed.std().item() == pytest.approx(1., rel=0.2)
    assert model.query_embedding.weight.abs().max() <= (6 / (20 + 32))**.5
