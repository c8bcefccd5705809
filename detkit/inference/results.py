"""Convert detections to plain Python objects and write them to files."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.inference.sources import Frame, video_rate
from detkit.opencv import cv2
from detkit.structures.rle_masks import rle_codes
from detkit.structures.sample import DetDataSample
from detkit.visualization.picture import Picture


def as_dict(sample: DetDataSample) -> dict[str, list]:
    """Return MMDetection's dict, best first: ``labels``, ``scores``, ``bboxes`` (xyxy pixels) and, if predicted, ``masks``."""
    found = sample.pred_instances
    result = {key: found[key].detach().cpu().tolist() for key in ('labels', 'scores', 'bboxes')}
    if 'masks' in found:
        result['masks'] = rle_codes(found.masks)
    return result


def as_record(frame: Frame, sample: DetDataSample, classes: Sequence[str], score_thr: float) -> dict[str, Any]:
    """Return one entry of results.json: the file (and frame), the image's size, and each object with score >= ``score_thr``."""
    height, width = (int(v) for v in sample.ori_shape[:2])
    record: dict[str, Any] = {'file': str(frame.source.path) if frame.source.path else frame.source.name}
    if frame.index is not None:
        record['frame'] = frame.index
    found = as_dict(sample)
    objects = []
    for i, (label, score) in enumerate(zip(found['labels'], found['scores'], strict=True)):
        if score >= score_thr:
            name = classes[label] if label < len(classes) else f'class {label}'
            objects.append({'box': [round(v, 3) for v in found['bboxes'][i]], 'label': label, 'name': name,
                            'score': round(score, 5), **({'mask': found['masks'][i]} if 'masks' in found else {})})
    return {**record, 'width': width, 'height': height, 'objects': objects}


class PictureWriter:
    """Write annotated images to a folder, named by ``detkit.result_names``; the frames of a video become one video.

    A video has a temporary name until it is finished or ``close`` is called, so that the part written before an
    interruption can be played.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.written: list[Path] = []
        self._target: Path | None = None
        self._video: cv2.VideoWriter | None = None
        self._size: tuple[int, int] = (0, 0)

    def write(self, frame: Frame, picture: np.ndarray) -> None:
        """``picture`` is RGB."""
        if frame.index is None:
            self.close()
            path = self.folder / frame.source.result_name.picture
            Picture(picture).save(path)
            self.written.append(path)
            return
        if self._target != self.folder / frame.source.result_name.picture:
            self.close()
            self._open(frame, picture)
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size)
        self._video.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))

    def _open(self, frame: Frame, picture: np.ndarray) -> None:
        target = self.folder / frame.source.result_name.picture
        target.parent.mkdir(parents=True, exist_ok=True)
        self._size = picture.shape[1::-1]
        video = cv2.VideoWriter(str(self._temporary(target)), cv2.VideoWriter_fourcc(*'mp4v'), video_rate(frame.source),
                                self._size)
        if not video.isOpened():
            raise ValueError(f"this OpenCV cannot write the video '{target}' (mp4v). Install the wheel "
                             f'opencv-python-headless, which brings the encoder, or leave the pictures out.')
        self._target, self._video = target, video

    @staticmethod
    def _temporary(target: Path) -> Path:
        return target.with_name(f'.{target.stem}.part.mp4')

    def close(self) -> None:
        """Finish the current video, if there is one."""
        if self._video is None:
            return
        self._video.release()
        os.replace(self._temporary(self._target), self._target)
        self.written.append(self._target)
        self._video = self._target = None
