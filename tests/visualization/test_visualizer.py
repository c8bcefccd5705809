"""DetLocalVisualizer as a hook or an inferencer calls it."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from detkit.registry import VISUALIZERS
from detkit.structures.sample import DetDataSample
from detkit.visualization import visualizer as module

IMAGE = np.full((120, 160, 3), 90, np.uint8)


@pytest.fixture
def visualizer(request, tmp_path):
    built = VISUALIZERS.build({'type': 'DetLocalVisualizer', 'name': request.node.name, 'save_dir': str(tmp_path),
                               'vis_backends': [{'type': 'LocalVisBackend'}], 'line_width': 1})
    built.dataset_meta = {'classes': ('cat', 'dog'), 'palette': [(255, 0, 0), (0, 0, 255)]}
    return built


def sample() -> DetDataSample:
    data_sample = DetDataSample()
    data_sample.gt_instances = InstanceData(bboxes=torch.tensor([[20., 40., 80., 100.]]), labels=torch.tensor([0]))
    data_sample.pred_instances = InstanceData(bboxes=torch.tensor([[20., 40., 80., 100.], [90., 40., 100., 50.]]),
                                              labels=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.2]))
    return data_sample


def test_truth_and_prediction_stand_side_by_side(visualizer):
    picture = visualizer.add_datasample('a', IMAGE, sample(), out_file=None)
    bar = picture.shape[0] - 120
    assert picture.shape[1] == 160 + 8 + 160
    assert picture[bar + 99, 50].tolist() == [255, 0, 0]          # the cat of the truth, in its palette's red
    assert picture[bar + 99, 168 + 50].tolist() == [0, 0, 255]    # predicted a dog
    assert picture[bar + 49, 168 + 95].tolist() == [90, 90, 90]   # below the threshold of 0.3


def test_only_what_is_asked_for_is_drawn(visualizer):
    assert visualizer.add_datasample('a', IMAGE, sample(), draw_gt=False).shape == IMAGE.shape
    assert (visualizer.add_datasample('a', IMAGE, None) == IMAGE).all()
    strict = visualizer.add_datasample('a', IMAGE, sample(), draw_gt=False, pred_score_thr=0.95)
    assert (strict == IMAGE).all()


def test_a_sample_without_annotations_is_not_an_empty_truth(visualizer):
    bare = sample()
    bare.gt_instances = InstanceData()
    assert visualizer.add_datasample('a', IMAGE, bare).shape == IMAGE.shape


def test_the_picture_goes_to_out_file_or_to_the_backends(visualizer, tmp_path):
    visualizer.add_datasample('a', IMAGE, sample(), draw_gt=False, out_file=str(tmp_path / 'vis' / 'a.png'))
    assert cv2.imread(str(tmp_path / 'vis' / 'a.png'))[99, 50].tolist() == [255, 0, 0]    # blue, as OpenCV reads it
    assert not list(tmp_path.rglob('b_*'))
    visualizer.add_datasample('b', IMAGE, sample(), draw_gt=False, step=3)
    assert len(list(tmp_path.rglob('b_3.png'))) == 1


def test_each_process_writes_its_own_files_and_the_first_the_rest(visualizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'is_main_process', lambda: False)
    assert visualizer.add_datasample('a', IMAGE, sample(), out_file=str(tmp_path / 'vis' / 'a.png')) is not None
    assert (tmp_path / 'vis' / 'a.png').is_file()
    assert visualizer.add_datasample('b', IMAGE, sample(), step=3) is None and not list(tmp_path.rglob('b_*'))


def test_the_last_picture_is_kept(visualizer):
    picture = visualizer.add_datasample('a', IMAGE, sample(), draw_gt=False)
    assert visualizer.get_image().shape == IMAGE.shape
    assert np.abs(visualizer.get_image().astype(int) - np.asarray(picture)).mean() < 2


def test_show_without_a_display_says_what_to_do(visualizer, monkeypatch):
    said = []
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.setattr(module, 'print_log', lambda text, logger: said.append(text))
    visualizer.add_datasample('a', IMAGE, sample(), show=True)
    assert len(said) == 1 and 'out_file' in said[0] and '\n' not in said[0]


def test_bbox_color_comes_before_the_data_sets_palette(tmp_path, request):
    built = VISUALIZERS.build({'type': 'DetLocalVisualizer', 'name': request.node.name, 'bbox_color': 'lime',
                               'line_width': 1})
    built.dataset_meta = {'classes': ('cat', 'dog'), 'palette': [(255, 0, 0), (0, 0, 255)]}
    assert built.add_datasample('a', IMAGE, sample(), draw_gt=False)[99, 50].tolist() == [0, 255, 0]
