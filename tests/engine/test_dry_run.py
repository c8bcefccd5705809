"""A run on fake tensors: layers that do not fit each other and models that cannot be exported are found, and the model stays as it is."""
from __future__ import annotations

import copy
import os
import subprocess
import sys
from textwrap import dedent
from typing import Any

import pytest
import torch
from kinds import DETECTORS, small_config, small_detector
from mmengine.config import Config
from torch import Tensor, nn

from detkit.engine.dry_run import DryRun, dry_run
from detkit.models.dense_heads.retina_head import RetinaHead
from detkit.registry import MODELS


def dry(kind: str, **changes: Any) -> DryRun:
    """Run a small detector; ``changes`` are dotted keys of its config with '__' for '.'."""
    cfg = Config(small_config(kind))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    described = cfg.to_dict()
    with torch.device('meta'):
        model = MODELS.build(described)
    return dry_run(model, described)


@pytest.mark.parametrize('kind', list(DETECTORS))
def test_every_kind_can_be_exported(kind):
    assert dry(kind) == DryRun(error=None, export_problem='')


@pytest.mark.parametrize('kind, changes, message', [
    ('retinanet', dict(neck__in_channels=[8, 16, 33, 64]),
     'model.neck: its layer lateral_convs.1.conv (Conv2d) takes 33 channels and gets 32 (backbone gives 4 maps of 8, 16, 32, 64 channels). '
     'Make these equal.'),
    ('retinanet', dict(bbox_head__in_channels=17),
     'model.bbox_head: its layer cls_convs.0.conv (Conv2d) takes 17 channels and gets 16 (neck gives 5 maps of 16, 16, 16, 16, 16 '
     'channels). Make these equal.'),
    ('retinanet', dict(neck__in_channels=[8, 16, 32]),
     'model.neck: FPN in_channels has 3 entries; the backbone gives 4 maps (its out_indices).'),
    ('fcos', dict(neck__num_outs=6), 'model.bbox_head: MlvlPointGenerator has strides for 5 levels; the head was given 6 feature maps.'),
    ('tood', dict(neck__num_outs=4), 'model.bbox_head: AnchorGenerator has strides for 5 levels; the head was given 4 feature maps.'),
    ('faster_rcnn', dict(neck__num_outs=4), 'model.rpn_head: AnchorGenerator has strides for 5 levels; the head was given 4 feature maps.'),
    ('faster_rcnn', dict(roi_head__bbox_head__roi_feat_size=4),
     'model.roi_head.bbox_head: its layer shared_fcs.0 (Linear) takes 256 channels and gets 144 (neck gives 5 maps of 16, 16, 16, 16, 16 '
     'channels). Make these equal.'),
    ('yolox', dict(bbox_head__strides=[8, 16]),
     'model.bbox_head: YOLOXHead cannot use its input (neck gives 3 maps of 16, 16, 16 channels): IndexError: index 2 is out of range.'),
    ('dino', dict(neck__out_channels=16, neck__norm_cfg__num_groups=4),
     'model.encoder: its layer layers.0.self_attn.value_proj (Linear) takes 32 channels and gets 16 (neck gives 4 maps of 16, 16, 16, 16 '
     'channels). Make these equal.')])
def test_layers_that_do_not_fit_are_told_with_key_and_channels(kind, changes, message, capfd):
    run = dry(kind, **changes)
    assert str(run.error) == message and run.export_problem == ''
    assert capfd.readouterr().err == ''


class HeadWithoutDecode(nn.Module):
    loss = predict = None

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        return feats[0]


class NumpyHead(RetinaHead):
    def decode(self, outputs: Any, *size: Any) -> Any:
        return outputs.cls[0].numpy()


class SizedResNet(MODELS.get('ResNet')):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.shape[-1] != 224:
            raise ValueError(f'images of {images.shape[-1]} pixels, not of 224')
        return super().forward(images)


def test_a_model_without_exportable_or_decode_is_told():
    assert dry_run(nn.Linear(2, 2)).export_problem == 'Linear has no exportable()'
    model = small_detector('retinanet')
    model.bbox_head = HeadWithoutDecode()
    assert dry_run(model) == DryRun(export_problem='HeadWithoutDecode has no decode()')


def test_a_setting_that_export_cannot_follow_is_no_error():
    run = dry('retinanet', test_cfg=dict(nms=dict(_delete_=True, type='soft_nms')))
    assert run.error is None and run.export_problem.endswith("nms type 'soft_nms' cannot be exported")


def test_a_decode_that_leaves_torch_is_told_in_one_short_line():
    cfg = small_config('retinanet')
    cfg['bbox_head']['type'] = NumpyHead
    run = dry_run(MODELS.build(cfg), cfg)
    assert run.error is None and run.export_problem.startswith('model.bbox_head (NumpyHead): ')
    assert '\n' not in run.export_problem and len(run.export_problem) < 250


def test_a_network_for_one_size_of_images_is_no_error():
    cfg = small_config('retinanet')
    cfg['backbone']['type'] = SizedResNet
    assert dry_run(MODELS.build(cfg), cfg) == DryRun()


def test_weights_modes_hooks_and_random_numbers_stay():
    model = small_detector('rtmdet')
    model.train()
    model.neck.eval()
    weights, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random, parameters = torch.random.get_rng_state(), [id(p) for p in model.parameters()]
    assert dry_run(model) == DryRun()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and [id(p) for p in model.parameters()] == parameters
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_forked_process_can_train_afterwards():
    code = """
        import os, torch
        from kinds import small_detector
        from detkit.engine.dry_run import dry_run
        assert dry_run(small_detector('retinanet')).error is None
        torch.ones(3, requires_grad=True).sum().backward()
        child = os.fork()
        if not child:
            torch.ones(3, requires_grad=True).sum().backward()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7"""
    subprocess.run([sys.executable, '-c', dedent(code)], check=True, timeout=300,
                   env={**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)})
