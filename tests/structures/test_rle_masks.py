"""Run-length coded masks behave as the tensor that they stand for."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from detkit.ops.masks import encode_masks
from detkit.structures.rle_masks import RLEMasks, rle_codes


@pytest.fixture
def dense():
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    masks[2] = False
    return masks


@pytest.fixture
def masks(dense):
    return RLEMasks(encode_masks(dense), 5, 6)


def test_dense_forms(masks, dense):
    assert masks.shape == (4, 5, 6)
    assert len(masks) == 4
    torch.testing.assert_close(masks.to_tensor(), dense)
    np.testing.assert_array_equal(np.asarray(masks), dense.numpy())
    torch.testing.assert_close(masks.flatten(1).sum(1), dense.flatten(1).sum(1))
    torch.testing.assert_close(masks.sum((1, 2)), dense.sum((1, 2)))
    torch.testing.assert_close(masks.float(), dense.float())
    assert masks.cpu().numpy().dtype == bool


def test_indexing(masks, dense):
    assert masks[1].dtype == torch.bool
    torch.testing.assert_close(masks[1], dense[1])
    torch.testing.assert_close(masks[-1], dense[-1])
    torch.testing.assert_close(masks[torch.tensor(3)], dense[3])
    for index in (slice(1, 3), [3, 0], torch.tensor([3, 0]), torch.tensor([True, False, False, True]), np.array([], int), []):
        chosen = dense[torch.as_tensor(index, dtype=torch.long) if isinstance(index, (list, np.ndarray)) else index]
        torch.testing.assert_close(masks[index].to_tensor(), chosen)
    torch.testing.assert_close(masks[1, 2:4], dense[1, 2:4])
    with pytest.raises(IndexError):
        masks[4]
    assert [m.tolist() for m in masks] == dense.tolist()


def test_areas_and_boxes(masks, dense):
    assert masks.areas.tolist() == dense.flatten(1).sum(1).tolist()
    box = masks.get_bboxes()
    ys, xs = dense[0].nonzero(as_tuple=True)
    assert box[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert box[2].tolist() == [0, 0, 0, 0]


def test_no_masks():
    none = RLEMasks([], 5, 6)
    assert none.shape == (0, 5, 6)
    assert none.to_tensor().shape == (0, 5, 6)
    assert none.areas.shape == (0,)
    assert none.get_bboxes().shape == (0, 4)


def test_cat(masks, dense):
    torch.testing.assert_close(RLEMasks.cat([masks, masks[:1]]).to_tensor(), torch.cat([dense, dense[:1]]))
    with pytest.raises(ValueError, match='one .height, width., given'):
        RLEMasks.cat([masks, RLEMasks([], 5, 7)])


def test_is_a_field_of_instances(masks, dense):
    found = InstanceData(scores=torch.tensor([.4, .3, .2, .1]), masks=masks)
    torch.testing.assert_close(found[found.scores > 0.25].masks.to_tensor(), dense[:2])
    torch.testing.assert_close(found[torch.tensor([2, 0])].masks.to_tensor(), dense[[2, 0]])
    assert len(found[found.scores > 1].masks) == 0
    torch.testing.assert_close(found[:3].masks.to_tensor(), dense[:3])
    torch.testing.assert_close(found.to('cpu').masks.to_tensor(), dense)


def test_codes_of_any_kind_of_masks_are_equal():
    from pycocotools import mask as coco
    masks = torch.zeros(3, 5, 6, dtype=torch.bool)
    masks[0, 1:3, 2:] = masks[1, -1, -1] = True
    expected = [dict(size=[5, 6], counts=coco.encode(np.asfortranarray(m, np.uint8))['counts'].decode()) for m in masks.numpy()]
    as_bytes = [dict(code, counts=code['counts'].encode()) for code in expected]
    upside_down = masks.flip(1).numpy().copy()[:, ::-1]                # a view with a negative stride
    for given in (masks, masks.float(), masks.numpy(), masks.numpy().astype(np.uint8), upside_down, RLEMasks(expected, 5, 6), as_bytes):
        assert rle_codes(given) == expected
    assert rle_codes(torch.zeros(0, 5, 6)) == rle_codes([]) == []
