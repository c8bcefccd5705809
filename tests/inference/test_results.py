"""What is written of a detection."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as rle

from detkit.inference.results import PictureWriter, as_dict, as_record
from detkit.inference.sources import Frame, Source, frames, list_sources
from detkit.structures.sample import DetDataSample

RED = np.full((24, 32, 3), (255, 0, 0), np.uint8)


def sample(masks: bool = False) -> DetDataSample:
    found = DetDataSample(metainfo={'ori_shape': (24, 32)})
    found.pred_instances = InstanceData(bboxes=torch.tensor([[1., 2., 11., 12.], [0., 0., 4., 4.]]),
                                        scores=torch.tensor([0.75, 0.25]), labels=torch.tensor([1, 5]))
    if masks:
        found.pred_instances.masks = torch.ones(2, 24, 32, dtype=torch.bool)
    return found


def test_a_prediction_as_mmdetection_gives_it():
    assert as_dict(sample()) == {'labels': [1, 5], 'scores': [0.75, 0.25],
                                 'bboxes': [[1., 2., 11., 12.], [0., 0., 4., 4.]]}
    mask = as_dict(sample(masks=True))['masks'][0]
    assert mask['size'] == [24, 32] and rle.area({**mask, 'counts': mask['counts'].encode()}) == 24 * 32


def test_a_record_names_file_frame_classes_and_drops_low_scores(tmp_path):
    frame = Frame(Source('clip.mp4', path=tmp_path / 'clip.mp4'), index=3)
    record = as_record(frame, sample(), ('cat', 'dog'), 0.5)
    assert record == {'file': str(tmp_path / 'clip.mp4'), 'frame': 3, 'width': 32, 'height': 24,
                      'objects': [{'box': [1., 2., 11., 12.], 'label': 1, 'name': 'dog', 'score': 0.75}]}
    both = as_record(Frame(Source('00000000.jpg', image=RED)), sample(masks=True), ('cat', 'dog'), 0.)
    assert [o['name'] for o in both['objects']] == ['dog', 'class 5'] and 'mask' in both['objects'][1]
    assert both['file'] == '00000000.jpg' and 'frame' not in both


def test_pictures_keep_their_names_and_pictures_of_other_formats_become_png(tmp_path):
    writer = PictureWriter(tmp_path)
    for name in ('a.jpg', 'sub/b.PNG', 'c.tif'):
        writer.write(Frame(Source(name)), RED)
    writer.close()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in writer.written) == ['a.jpg', 'c.tif.png', 'sub/b.PNG']
    assert cv2.imread(str(tmp_path / 'c.tif.png'))[0, 0].tolist() == [0, 0, 255]


@pytest.fixture
def clip(tmp_path) -> Source:
    path = tmp_path / 'in' / 'clip.avi'
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (32, 24))
    for _ in range(6):
        writer.write(RED[..., ::-1].copy())
    writer.release()
    return list_sources(path)[0]


def test_a_videos_frames_become_one_video_that_is_there_when_it_is_done(clip, tmp_path):
    writer = PictureWriter(tmp_path / 'out')
    for frame in frames(clip):
        writer.write(frame, RED)
    assert not (tmp_path / 'out' / 'clip.mp4').exists()
    writer.write(Frame(Source('next.png')), RED)           # another source: the video is finished
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['clip.mp4', 'next.png']
    written, = list_sources(tmp_path / 'out' / 'clip.mp4')
    seen = [f.image for f in frames(written)]
    assert len(seen) == 6 and seen[0].shape == (24, 32, 3)
    assert seen[0][12, 16, 2] > 200 > 60 > seen[0][12, 16, 0]     # still red, in OpenCV's BGR


def test_what_was_done_of_an_interrupted_video_can_be_watched(clip, tmp_path):
    writer = PictureWriter(tmp_path / 'out')
    for frame in list(frames(clip))[:3]:
        writer.write(frame, RED)
    writer.close()
    assert [p.name for p in (tmp_path / 'out').iterdir()] == ['clip.mp4']
    assert len(list(frames(list_sources(tmp_path / 'out' / 'clip.mp4')[0]))) == 3
