"""Swin Transformer: a slow window by window reference, sizes of every kind, weights of the paper's program."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from detkit.config import load_config
from detkit.engine.checkpoint import load_weights
from detkit.models.backbones.swin import (
    APART,
    PatchMerging,
    ShiftedWindows,
    SwinTransformer,
    from_windows,
    relative_positions,
    shift_mask,
    to_windows,
)
from detkit.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, ConfigError

SMALL = dict(embed_dims=8, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1), window_size=4)
OPTIONS = dict(qkv_bias=True, qk_scale=None, attn_drop=0., proj_drop=0.)


def small(**changes: object) -> SwinTransformer:
    """With biases, tables and norms that do something."""
    torch.manual_seed(0)
    model = SwinTransformer(**{**SMALL, **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


# ------------------------------------------------------------------------------------------------------------- windows
def attention_by_windows(block: ShiftedWindows, x: Tensor) -> Tensor:
    """What Sec. 3.2 says, place by place: fill up, and let each place look at those of its window that are neighbours of it."""
    attention, size, shift = block.w_msa, block.size, block.shift
    n, height, width, c = x.shape
    rows, columns = -(-height // size) * size, -(-width // size) * size
    filled = x.new_zeros(n, rows, columns, c)
    filled[:, :height, :width] = x
    # windows of the shifted grid, cut where the map ends: their corners lie at shift + k * size, the first is narrower
    edges = [[0, *range(shift, length, size), length] if shift else list(range(0, length + 1, size)) for length in (rows, columns)]
    out = torch.zeros_like(filled)
    heads = attention.heads
    for top, bottom in zip(edges[0], edges[0][1:]):
        for left, right in zip(edges[1], edges[1][1:]):
            part = filled[:, top:bottom, left:right]
            places = [(y, z) for y in range(top, bottom) for z in range(left, right)]
            q, k, v = attention.qkv(part.reshape(n, -1, c)).view(n, len(places), 3, heads, c // heads).permute(2, 0, 3, 1, 4)
            logits = q @ k.transpose(-1, -2) * (c // heads)**-0.5
            for i, (y, z) in enumerate(places):
                for j, (y2, z2) in enumerate(places):
                    logits[:, :, i, j] += attention.relative_position_bias_table[(y - y2 + size - 1) * (2 * size - 1) + z - z2 + size - 1]
            seen = (logits.softmax(-1) @ v).transpose(1, 2).reshape(n, bottom - top, right - left, c)
            out[:, top:bottom, left:right] = attention.proj(seen)
    return out[:, :height, :width]


@pytest.mark.parametrize('shift', [False, True])
@pytest.mark.parametrize('size', [(8, 8), (5, 9), (1, 1), (3, 13), (4, 4)])
def test_attention_is_the_papers_place_by_place(size: tuple[int, int], shift: bool):
    torch.manual_seed(0)
    block = ShiftedWindows(6, 2, 4, shift, **OPTIONS)
    nn.init.normal_(block.w_msa.relative_position_bias_table)
    x = torch.randn(2, *size, 6)
    with torch.no_grad():
        assert_close(block(x, shift_mask(x, 4)), attention_by_windows(block, x), rtol=1e-4, atol=1e-5)


def test_windows_hold_their_places_column_by_column():
    x = torch.arange(24.).view(1, 4, 6, 1)
    windows = to_windows(x, 2)[..., 0]
    assert windows.tolist()[:4] == [[0, 6, 1, 7], [2, 8, 3, 9], [4, 10, 5, 11], [12, 18, 13, 19]]
    assert torch.equal(from_windows(windows[..., None], x.shape, 2), x)
    batch = torch.randn(3, 4, 8, 5)
    assert torch.equal(from_windows(to_windows(batch, 4), batch.shape, 4), batch)
    assert torch.equal(to_windows(batch, 4)[2:4], to_windows(batch[1:2], 4))      # the windows of an image lie together


def test_relative_positions_of_two_by_two_places():
    # (y - y' + 1) * 3 + (x - x' + 1); places (0, 0) (0, 1) (1, 0) (1, 1)
    assert relative_positions(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_what_a_shift_brought_together_stays_apart():
    # 4x4 places, windows of 2, shifted by 1: only the windows of the last row and column hold places that were no neighbours
    mask = shift_mask(torch.zeros(1, 4, 4, 1), 2)[:, 0]
    assert mask[0].eq(0).all()
    right = [[0, 0, APART, APART]] * 2 + [[APART, APART, 0, 0]] * 2            # places 00 10 01 11: columns apart
    below = [[0, APART, 0, APART], [APART, 0, APART, 0]] * 2                   # rows apart
    assert mask[1].tolist() == right and mask[2].tolist() == below
    assert mask[3].tolist() == [[0 if i == j else APART for j in range(4)] for i in range(4)]


def test_merging_is_nn_unfolds():
    torch.manual_seed(0)
    for height, width, stride in ((6, 8, 2), (5, 7, 2), (1, 1, 2), (4, 6, 1)):
        merge = PatchMerging(3, stride, dict(type='LN'))
        x = torch.randn(2, height, width, 3)
        out_h, out_w = -(-height // stride), -(-width // stride)
        filled = F.pad(x, (0, 0, 0, (out_w - 1) * stride + 2 - width, 0, (out_h - 1) * stride + 2 - height)).permute(0, 3, 1, 2)
        patches = F.unfold(filled, 2, stride=stride).transpose(1, 2)
        assert_close(merge(x), merge.reduction(merge.norm(patches)).view(2, out_h, out_w, 6))


# --------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(('size', 'maps'), [((64, 96), [(16, 24), (8, 12)]), ((61, 90), [(16, 23), (8, 12)]), ((1, 1), [(1, 1), (1, 1)]),
                                            ((3, 700), [(1, 175), (1, 88)])])
def test_maps_are_rounded_up_for_every_size(size: tuple[int, int], maps: list):
    outs = small()(torch.randn(2, 3, *size))
    assert [tuple(o.shape) for o in outs] == [(2, 8, *maps[0]), (2, 16, *maps[1])]
    assert all(o.isfinite().all() for o in outs)


def test_an_odd_size_is_filled_up_with_zeros():
    model, x = small(), torch.randn(1, 3, 61, 90)
    filled = F.pad(x, (0, 2, 0, 3))
    for a, b in zip(model(x), model(filled)):
        assert_close(a, b)


def test_a_batch_equals_its_images_one_by_one():
    model, x = small(), torch.randn(3, 3, 52, 68)
    with torch.no_grad():
        for i in range(3):
            for whole, single in zip(model(x), model(x[i:i + 1])):
                assert_close(whole[i:i + 1], single, rtol=1e-5, atol=1e-6)


def test_forward_keeps_nothing():
    model = small()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model(torch.randn(1, 3, 40, 40))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert set(model.state_dict()) == set(small().state_dict())


def test_stages_that_nobody_asks_for_are_not_run():
    model = small(out_indices=(0,))
    model.stages[1].forward = None
    assert len(model(torch.randn(1, 3, 32, 32))) == 1


def test_places_of_another_image_size_are_interpolated():
    model = small(use_abs_pos_embed=True, pretrain_img_size=(32, 48))
    assert model.absolute_pos_embed.shape == (1, 8 * 12, 8)
    x = torch.randn(1, 3, 32, 48)
    patches = []
    model.drop_after_pos.register_forward_hook(lambda module, args, out: patches.append(out))
    model(x)
    assert_close(patches[0], model.patch_embed(x) + model.absolute_pos_embed.view(1, 8, 12, 8))     # as it is where sizes agree
    assert model(torch.randn(1, 3, 64, 64))[0].shape == (1, 8, 16, 16)


# ----------------------------------------------------------------------------------------------------------- arguments
def test_the_tiny_one_has_mmdetections_keys_and_shapes(shared: Path):
    case = json.loads((shared / 'parity/cases/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.json').read_text())
    recorded = {key.removeprefix('backbone.'): tuple(shape) for key, shape in case['keys'] if key.startswith('backbone.')}
    with torch.device('meta'):
        model = SwinTransformer()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == recorded


def test_stochastic_depth_grows_from_zero():
    model = small(depths=(2, 3), drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_recomputing_blocks_changes_neither_outputs_nor_gradients():
    plain, again = (small(with_cp=with_cp, drop_path_rate=0.).train() for with_cp in (False, True))
    x = torch.randn(2, 3, 36, 36)
    for model in (plain, again):
        sum((o**2).mean() for o in model(x)).backward()
    for (name, p), q in zip(plain.named_parameters(), again.named_parameters()):
        assert p.grad is not None, name
        assert_close(p.grad, q[1].grad)


@pytest.mark.parametrize(('stages', 'parts'), [(-1, set()), (0, {'patch_embed'}), (1, {'patch_embed', 'stages.0', 'norm0'}),
                                               (2, {'patch_embed', 'stages.0', 'norm0', 'stages.1', 'norm1'})])
def test_frozen_stages_learn_nothing_from_the_start(stages: int, parts: set):
    model = small(frozen_stages=stages, use_abs_pos_embed=True, pretrain_img_size=32)
    for _ in range(2):
        found = {name for name in ('patch_embed', 'stages.0', 'norm0', 'stages.1', 'norm1')
                 if not any(p.requires_grad for p in model.get_submodule(name).parameters())}
        assert found == parts
        assert model.absolute_pos_embed.requires_grad is (stages < 0)
        model.train()
        assert not any(model.get_submodule(name).training for name in parts)


def test_options_reach_their_place():
    model = small(qkv_bias=False, qk_scale=0.5, patch_norm=False, mlp_ratio=2, drop_rate=0.1, attn_drop_rate=0.2, act_cfg=dict(type='ReLU'))
    block = model.stages[0].blocks[1]
    assert block.attn.w_msa.qkv.bias is None and block.attn.w_msa.scale == 0.5 and block.attn.w_msa.attn_drop == 0.2
    assert not any('patch_embed.norm' in key or 'downsample.norm' in key for key in model.state_dict())
    assert block.ffn.layers[0][0].out_features == 16 and isinstance(block.ffn.layers[0][1], nn.ReLU)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.1] * 13
    assert [block.attn.shift for stage in model.stages for block in stage.blocks] == [0, 2, 0, 2]


def test_init_weights_is_the_papers_where_the_config_names_no_file():
    model = SwinTransformer(**SMALL)
    model.init_weights()
    weights = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    assert abs(weights.std().item() - 0.02) < 1e-3 and weights.abs().max() <= 2
    assert all(m.bias.eq(0).all() for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None)
    tables = torch.cat([m.flatten() for n, m in model.named_parameters() if n.endswith('bias_table')])
    assert abs(tables.std().item() - 0.02) < 2e-3


@pytest.mark.parametrize(('cfg', 'said'), [
    (dict(depths=(2, 2, 6)), 'depths=(2, 2, 6), num_heads=(3, 6, 12, 24) and strides=(4, 2, 2, 2) need an entry for each stage'),
    (dict(patch_size=8), 'patch_size=8 must equal strides[0]=4'), (dict(out_indices=(0, 4)), 'out_indices=(0, 4) must lie in 0..3'),
    (dict(frozen_stages=5), 'frozen_stages=5 be at most 4'), (dict(num_heads=(5, 6, 12, 24)), 'num_heads[0]=5 does not divide the 96'),
    (dict(pretrained='x.pth', init_cfg=dict(type='Pretrained', checkpoint='y.pth')), "pretrained='x.pth' and init_cfg both say"),
    (dict(use_abs_pos_embed=True, pretrain_img_size=(1, 2, 3)), 'pretrain_img_size=(1, 2, 3) is no side'),
    (dict(window=7), "takes no argument 'window'. Did you mean 'window_size'")])
def test_wrong_settings_are_refused(cfg: dict, said: str):
    with pytest.raises(ConfigError) as caught, torch.device('meta'):
        MODELS.build(dict(type='SwinTransformer', **cfg))
    assert said in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- weights
def as_the_papers_program(model: SwinTransformer) -> dict[str, Tensor]:
    """The weights of ``model`` under the names and in the order that the paper's program writes."""
    theirs = {'head.weight': torch.zeros(10, 16), 'head.bias': torch.zeros(10), 'norm.weight': torch.zeros(16),
              'layers.0.blocks.1.attn_mask': torch.zeros(4, 16, 16)}
    for name, value in model.state_dict().items():
        if '.downsample.' in name:             # (..., C, row, column) -> (..., column, row, C)
            value = value.unflatten(-1, (-1, 2, 2)).movedim((-1, -2, -3), (-3, -2, -1)).flatten(-3)
        for ours, other in (('stages.', 'layers.'), ('.attn.w_msa.', '.attn.'), ('.ffn.layers.0.0.', '.mlp.fc1.'),
                            ('.ffn.layers.1.', '.mlp.fc2.'), ('patch_embed.projection', 'patch_embed.proj')):
            name = name.replace(ours, other)
        if not name.startswith(('norm0', 'norm1')):
            theirs[name] = value
    return theirs


def same_weights(a: nn.Module, b: nn.Module) -> list[str]:
    """Names of weights that are equal, but for the norms that the paper's program does not have."""
    theirs = b.state_dict()
    return [k for k, v in a.state_dict().items() if torch.equal(v, theirs[k]) and not k.startswith(('norm0', 'norm1'))]


@pytest.mark.parametrize('wrapped', [lambda w: dict(model=w), lambda w: dict(state_dict={f'backbone.{k}': v for k, v in w.items()})])
def test_weights_of_the_papers_program_are_converted(wrapped: object, tmp_path: Path):
    source, count = small(), len(small().state_dict()) - 4
    torch.save(wrapped(as_the_papers_program(source)), tmp_path / 'official.pth')
    for cfg in (dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'official.pth'))),
                dict(pretrained=str(tmp_path / 'official.pth'))):
        model = SwinTransformer(**SMALL, convert_weights=True, **cfg)
        assert len(same_weights(source, model)) < count / 2
        model.init_weights()
        assert len(same_weights(source, model)) == count
        assert model.norm0.weight.eq(1).all()


def test_the_names_of_the_papers_program_ask_for_convert_weights():
    with pytest.raises(ConfigError, match='set convert_weights=True'):
        load_weights(SwinTransformer(**SMALL), as_the_papers_program(small()))


def test_weights_of_a_detector_lose_their_prefix_and_heads():
    source, model = small(), SwinTransformer(**SMALL)
    weights = {f'backbone.{k}': v for k, v in source.state_dict().items()} | {'bbox_head.weight': torch.zeros(3)}
    report = load_weights(model, dict(state_dict=weights))
    assert report.complete and not report.unexpected
    assert len(same_weights(source, model)) == len(source.state_dict()) - 4


def test_a_detector_resumes_with_convert_weights_set():
    """Its own checkpoint has our names; nothing is converted twice."""
    source = nn.ModuleDict(dict(backbone=small(convert_weights=True)))
    model = nn.ModuleDict(dict(backbone=SwinTransformer(**SMALL, convert_weights=True)))
    model.load_state_dict(source.state_dict())
    assert len(same_weights(source, model)) == len(source.state_dict())


def test_tables_of_other_windows_are_resized():
    source, model = small(window_size=4), small(window_size=6, convert_weights=True)
    model.load_state_dict(as_the_papers_program(source), strict=False)
    table, theirs = (m.stages[0].blocks[0].attn.w_msa.relative_position_bias_table for m in (model, source))
    assert table.shape == (121, 2)
    want = F.interpolate(theirs.T.view(1, 2, 7, 7), size=(11, 11), mode='bicubic').view(2, 121).T
    assert_close(table, want)
    assert torch.equal(model.stages[0].blocks[0].attn.w_msa.relative_position_index, relative_positions(6))


# --------------------------------------------------------------------------------------------------------------- export
@pytest.mark.slow
def test_it_exports_for_every_batch_and_size_even_where_a_window_is_larger_than_the_map():
    model = small()
    batch, height, width = (torch.export.Dim(name, min=1, max=64) for name in ('batch', 'height', 'width'))
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 96, 160),), dynamic_shapes=({0: batch, 2: 8 * height, 3: 8 * width},))
        for size in ((1, 3, 16, 200), (3, 3, 64, 64)):
            x = torch.randn(size)
            for got, want in zip(program.module()(x), model(x)):
                assert_close(got, want)


# ------------------------------------------------------------------------------------------------------------- learning
def test_the_recipe_lets_norms_and_tables_of_places_keep_their_size():
    cfg = load_config('mask-rcnn_swin-t-p4-w7_fpn_1x_coco').optim_wrapper
    model = small(use_abs_pos_embed=True, pretrain_img_size=32)
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(
        type='DefaultOptimWrapperConstructor', optim_wrapper_cfg=dict(type=cfg.type, optimizer=cfg.optimizer),
        paramwise_cfg=cfg.paramwise_cfg))(model)
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(p)]: group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    assert set(decay.values()) == {0., 0.05}
    kept = {name for name, value in decay.items() if value == 0}
    assert kept == {name for name in decay if 'norm' in name or 'absolute_pos_embed' in name or 'relative_position_bias_table' in name}
    assert {'norm1.weight', 'absolute_pos_embed', 'stages.0.blocks.1.attn.w_msa.relative_position_bias_table'} <= kept
