"""train_cfg and test_cfg: honoured or refused."""
from __future__ import annotations

import pytest
from mmengine.config import ConfigDict

from detkit.models.settings import DensePostprocess, DenseTraining, RoIPostprocess, RoITraining, settings
from detkit.registry import ConfigError


def refusal(kind: type, cfg: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(kind, cfg, 'model.test_cfg')
    return str(caught.value)


def test_none_stays_none():
    assert settings(DenseTraining, None, 'model.train_cfg') is None


@pytest.mark.parametrize('kind', [dict, ConfigDict])
def test_values_are_kept_and_the_rest_are_defaults(kind: type):
    cfg = settings(DensePostprocess, kind(score_thr=.05, nms=kind(type='nms', iou_threshold=.5), debug=False), 'model.test_cfg')
    assert (cfg.score_thr, cfg.nms['iou_threshold'], cfg.nms_pre, cfg.min_bbox_size, cfg.max_per_img) == (.05, .5, -1, -1, 100)
    assert settings(DenseTraining, dict(assigner=1), 'model.train_cfg').sampler == dict(type='PseudoSampler')


def test_an_unknown_key_names_the_nearest_and_all():
    assert refusal(DensePostprocess, dict(score_thresh=.3)) == \
        "model.test_cfg has no 'score_thresh'. Did you mean 'score_thr'? It has: nms, nms_pre, score_thr, min_bbox_size, max_per_img."


def test_a_missing_key_is_named():
    assert refusal(RoITraining, dict(assigner=1)) == "model.test_cfg needs 'sampler'."
    assert refusal(RoIPostprocess, dict(score_thr=.1)) == "model.test_cfg needs 'nms'."


@pytest.mark.parametrize('kind', [DensePostprocess, RoIPostprocess])
def test_wrong_nms_is_refused_before_the_first_evaluation(kind: type):
    assert "nms type 'nsm' is unknown. Did you mean 'nms'?" in refusal(kind, dict(nms=dict(type='nsm', iou_threshold=.5)))
    assert "nms type 'nms' has no 'iou_tresh'" in refusal(kind, dict(nms=dict(type='nms', iou_tresh=.5)))
    assert settings(kind, dict(nms=None), 'model.test_cfg').nms is None


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        settings(DensePostprocess, {}, 'model.test_cfg').score_thr = 1.


@pytest.mark.parametrize('key, value', [('score_thr', 'abc'), ('nms_pre', '1000'), ('max_per_img', True), ('min_bbox_size', None)])
def test_a_value_that_is_no_number_is_refused(key: str, value: object):
    with pytest.raises(ConfigError, match=rf'test_cfg\.{key} is {value!r}; it should be a number'):
        settings(DensePostprocess, {key: value}, 'test_cfg')
