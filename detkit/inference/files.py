"""Run a detector on files; write annotated images and one JSON file with all detections."""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit import __version__
from detkit.files import check_out_dir, write_json
from detkit.inference.inferencer import DetInferencer, check_score
from detkit.inference.results import PictureWriter, as_record
from detkit.inference.sources import PICTURES


@dataclass(frozen=True)
class Summary:
    """The results of ``infer_files``."""

    results: Path               # the JSON file
    pictures: tuple[Path, ...]
    images: int                 # number of images and video frames
    objects: int                # number of objects with a score of at least the threshold
    skipped: tuple[tuple[str, str], ...]   # (file, reason)

    def __str__(self) -> str:
        lines = [f'{self.objects} objects in {self.images} images: {self.results}']
        if not self.objects:
            lines.append('no object reaches the score threshold; a lower --score-thr (score_thr) shows weaker ones')
        if self.pictures:
            lines.append(f'pictures: {os.path.commonpath([p.parent for p in self.pictures])}')
        if self.skipped:
            lines.append(f'skipped: {len(self.skipped)} files that cannot be read, listed in {self.results.name}')
        return '\n'.join(lines)


def infer_files(inferencer: DetInferencer, inputs: Any, out_dir: str | os.PathLike = 'outputs', score_thr: float = 0.3,
                batch_size: int = 1, pictures: bool = True, on_unreadable: str = 'skip') -> Summary:
    """Detect objects in ``inputs``; write OUT_DIR/vis/NAME (images, videos; see ``detkit.result_names``) and OUT_DIR/results.json.

    results.json has ``classes``, ``score_thr``, ``images`` (each with ``file``, ``frame`` for a video, ``width``,
    ``height``, ``picture``: the output file relative to OUT_DIR if one is written, and ``objects``: ``box`` xyxy in pixels, ``label``,
    ``name``, ``score``, ``mask`` as RLE if predicted), ``skipped`` and ``complete``. If the run is interrupted, it is written
    with the results so far and ``complete`` false, and the exception is raised. A second call with the same OUT_DIR replaces
    results.json and the images of inputs with the same names.

    Args:
        inputs: see ``list_sources``; results of an earlier run in OUT_DIR are left out.
        score_thr: objects with a lower score are neither drawn nor listed.
        on_unreadable: 'skip' and list such files, or 'fail'.

    Raises:
        ValueError: a score or batch size is out of range, ``inputs`` is empty, or no image can be read.
    """
    check_score(score_thr, 'score_thr')
    check_out_dir(out_dir)
    out_dir = Path(out_dir)
    writer = PictureWriter(out_dir / PICTURES) if pictures else None
    records: list[dict] = []
    complete = False
    try:
        for found in inferencer.stream(inputs, batch_size, on_unreadable, exclude=out_dir):
            if writer:
                writer.write(found.frame, inferencer.draw(found, score_thr))
            record = as_record(found.frame, found.sample, inferencer.classes, score_thr)
            if writer:
                record['picture'] = f'{PICTURES}/{found.frame.source.result_name.picture}'
            records.append(record)
        complete = True
    finally:
        if writer:
            writer.close()
        if complete or records:
            write_json(out_dir / 'results.json', {
                'detkit': __version__, 'config': str(inferencer.model.cfg.filename or ''),
                'classes': list(inferencer.classes), 'score_thr': score_thr, 'complete': complete, 'images': records,
                'skipped': [{'file': name, 'reason': reason} for name, reason in inferencer.skipped]}, indent=1)
    if not records and not inferencer.skipped:
        raise ValueError('inputs is an empty list: there is no image to detect in.')
    if not records:
        raise ValueError(f'none of the {len(inferencer.skipped)} files can be read. The first: '
                         f'{inferencer.skipped[0][1]}')
    return Summary(out_dir / 'results.json', tuple(writer.written if writer else ()), len(records),
                   sum(len(r['objects']) for r in records), tuple(inferencer.skipped))
