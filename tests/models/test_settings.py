"""train_cfg and test_cfg: honoured or refused."""
from __future__ import annotations

import pytest
from mmengine.config import ConfigDict

from detkit.ignored_arguments import named
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
    assert settings(DenseTraining, dict(assigner={}), 'model.train_cfg').sampler == dict(type='PseudoSampler')


def test_an_unknown_key_names_the_nearest_and_all():
    assert refusal(DensePostprocess, dict(score_thresh=.3)) == \
        "model.test_cfg has no 'score_thresh'. Did you mean 'score_thr'? It has: nms, nms_pre, score_thr, min_bbox_size, max_per_img."


def test_a_missing_key_is_named():
    assert refusal(RoITraining, dict(assigner={})) == "model.test_cfg needs 'sampler'."
    assert refusal(RoIPostprocess, dict(score_thr=.1)) == "model.test_cfg needs 'nms'."


@pytest.mark.parametrize('kind', [DensePostprocess, RoIPostprocess])
def test_wrong_nms_is_refused_before_the_first_evaluation(kind: type):
    assert "nms type 'nsm' is unknown. Did you mean 'nms'?" in refusal(kind, dict(nms=dict(type='nsm', iou_threshold=.5)))
    assert "nms type 'nms' has no 'iou_tresh'" in refusal(kind, dict(nms=dict(type='nms', iou_tresh=.5)))
    assert settings(kind, dict(nms=None), 'model.test_cfg').nms is None


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        settings(DensePostprocess, {}, 'model.test_cfg').score_thr = 1.


@pytest.mark.parametrize('key, value, what', [
    ('score_thr', 'abc', 'a number'), ('score_thr', '0.3', 'a number'), ('score_thr', True, 'a number'), ('score_thr', 5., r'in \[0, 1\]'),
    ('score_thr', float('nan'), 'a number'), ('nms_pre', '1000', 'a whole number'), ('nms_pre', 2.5, 'a whole number'),
    ('max_per_img', True, 'a whole number'), ('max_per_img', -5, 'at least -1'), ('min_bbox_size', None, 'a number'),
    ('nms', 'nms', 'a dict or None')])
def test_a_value_of_a_wrong_type_or_out_of_range_is_refused(key: str, value: object, what: str):
    with pytest.raises(ConfigError, match=rf"^test_cfg\.{key}: is '?{value}'?; it should be {what}\.$"):
        settings(DensePostprocess, {key: value}, 'test_cfg')


def test_an_int_is_a_number_and_minus_one_means_no_limit():
    cfg = settings(DensePostprocess, dict(score_thr=1, max_per_img=-1, nms_pre=-1), 'test_cfg')
    assert (cfg.score_thr, cfg.max_per_img, cfg.nms_pre) == (1, -1, -1)


@pytest.mark.parametrize('nms, fault', [
    (dict(type='nms', iou_threshold=5), r'nms\.iou_threshold: is 5; it should be in \[0, 1\]'),
    (dict(type='nms', iou_thr='0.5'), r"nms\.iou_thr: is '0\.5'; it should be a number"),
    (dict(type='soft_nms', sigma=0.), r'nms\.sigma: is 0\.0; it should be above 0'),
    (dict(type='nms', iou_threshold=0.5, class_agnostic=1), r'nms\.class_agnostic: is 1; it should be True or False')])
def test_values_of_nms_are_looked_at(nms: dict, fault: str):
    with pytest.raises(ConfigError, match=rf'^model\.test_cfg\.{fault}'):
        settings(RoIPostprocess, dict(nms=nms), 'model.test_cfg')


def test_a_key_that_nothing_reads_is_named_once(caplog: pytest.LogCaptureFixture):
    named.clear()
    for _ in range(2):
        settings(DenseTraining, dict(assigner={}, debug=False), 'model.train_cfg')
    assert [record.message for record in caplog.records] == [
        'DenseTraining: debug=False has no effect: MMDetection does not read it either.']
