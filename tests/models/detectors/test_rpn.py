"""A region proposal network by itself: regions of one class, whatever the objects are called."""
from __future__ import annotations

import pytest
import torch
from kinds import make_batch, make_images, make_sample, small_config, small_detector

from detkit.registry import MODELS, ConfigError


def test_the_losses_do_not_depend_on_the_objects_classes():
    model = small_detector('rpn')
    first, other = (model(**make_batch(model, make_images(1), [make_sample([[4., 6., 40., 44.]], labels=[label])]), mode='loss')
                    for label in (0, 2))
    assert set(first) == {'loss_rpn_cls', 'loss_rpn_bbox'}
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in other.items()}


def test_regions_have_one_class():
    model = small_detector('rpn')
    with torch.no_grad():
        found = model(**make_batch(model, make_images(1), [make_sample([])], False), mode='predict')[0].pred_instances
    assert len(found) == 50 and found.labels.eq(0).all()
    assert (found.scores[:-1] >= found.scores[1:]).all()


def test_its_weights_are_those_of_a_proposal_head_under_the_name_of_a_dense_one():
    assert {key.partition('.')[0] for key in small_detector('rpn').state_dict()} == {'backbone', 'neck', 'bbox_head'}   # as MMDetection's


@pytest.mark.parametrize(('changes', 'said'), [
    (dict(test_cfg=dict(rcnn={})), 'test_cfg of an RPN has the key rpn, not rcnn.'),
    (dict(train_cfg={}), 'train_cfg of an RPN has the key rpn, not nothing.'), (dict(roi_head={}), "rpn takes no argument 'roi_head'")])
def test_wrong_settings_are_refused(changes: dict, said: str):
    with pytest.raises(ConfigError) as caught:
        MODELS.build(small_config('rpn') | changes)
    assert said in str(caught.value)
