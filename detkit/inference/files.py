"""Detection on files, to files: annotated pictures and one JSON of everything that was found."""
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
    """What ``infer_files`` did."""

    results: Path               # the JSON
    pictures: tuple[Path, ...]
    images: int                 # images and video frames looked at
    objects: int                # found in them, at or above the threshold
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
    """Detect in ``inputs`` and write OUT_DIR/vis/NAME (pictures, videos; see ``detkit.result_names``) and OUT_DIR/results.json.

    results.json holds ``classes``, ``score_thr``, ``images`` (each with ``file``, ``frame`` if of a video, ``width``,
    ``height``, ``picture``: the file below OUT_DIR if one is written, and ``objects``: ``box`` xyxy in pixels, ``label``,
    ``name``, ``score``, ``mask`` as RLE if predicted), ``skipped`` and ``complete``. It is written also when the run is
    interrupted, with what was done by then and ``complete`` false; the exception goes on. A second call with the same
    OUT_DIR replaces results.json and the pictures of inputs with the same names.

    Args:
        inputs: see ``list_sources``; results of an earlier run below it are left out.
        score_thr: objects with a lower score are neither drawn nor listed.
        on_unreadable: 'skip' and list such files, or 'fail'.

    Raises:
        ValueError: a score or batch size out of range, nothing at ``inputs``, or not one image that can be read.
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
