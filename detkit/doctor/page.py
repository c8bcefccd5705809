"""The report as one HTML file with embedded images."""
from __future__ import annotations

import base64
import html
import json
from typing import Any

import numpy as np

from detkit.data.transforms.loading import UnreadableImage, read_image
from detkit.doctor.findings import Report
from detkit.doctor.pictures import MOST_PIXELS
from detkit.opencv import cv2

SIDE = 320           # image side on the page, pixels
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #1a1a1a; background: #fff }
section { border-left: 6px solid; padding: .4em 1em; margin: 1em 0; background: #f6f6f6 }
section.fault { border-color: #c62828 } section.warning { border-color: #ef8f00 } section.note { border-color: #5c7cfa }
h2 { margin: .2em 0; font-size: 1.05em } .remedy { color: #14521b } .shots { display: flex; flex-wrap: wrap; gap: .6em }
figure { margin: 0 } figcaption { font-size: .8em; max-width: 320px; overflow-wrap: anywhere } img { max-width: 320px; display: block }
ul { margin: .3em 0 .3em 1em; padding: 0 } li { overflow-wrap: anywhere }
pre { background: #f6f6f6; padding: .6em; overflow-x: auto }
@media (prefers-color-scheme: dark) {
    body { background: #16181c; color: #e6e6e6 } section, pre { background: #22252b } .remedy { color: #8fd19e }
}
"""


def page(report: Report, places: int = 20) -> str:
    """Return the HTML of the whole page."""
    counts = ' '.join(f'{sum(f.level == level for f in report.findings)} {level}s' + ('' if level == 'note' else ',')
                      for level in ('fault', 'warning', 'note'))
    body = [f'<h1>{html.escape(report.config or "data set")}</h1><p>{counts}</p>']
    for f in report.findings:
        title = f'{f.split}: ' if f.split else ''
        items = ''.join(f'<li>{html.escape(p)}</li>' for p in f.places[:places])
        more = f'<p>and {f.count - places} more, in the JSON</p>' if f.count > places else ''
        body.append(f'<section class="{f.level}"><h2>{f.level}: {html.escape(title + f.kind)} ({f.count})</h2><ul>{items}</ul>{more}'
                    f'<p class="remedy">{html.escape(f.remedy)}</p><div class="shots">{"".join(map(figure, f.pictures))}</div></section>')
    if report.samples:
        body.append(f'<h1>Some images with their objects</h1><div class="shots">{"".join(map(figure, report.samples))}</div>')
    body.append(f'<h1>Numbers</h1><pre>{html.escape(json.dumps(report.facts, indent=1))}</pre>')
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>detkit doctor</title><style>{STYLE}</style></head><body>{"".join(body)}</body></html>')


def figure(picture: dict[str, Any]) -> str:
    """Return the HTML of an image with its boxes; '' if it cannot be read, which has its own finding."""
    data = drawn(picture['path'], picture.get('boxes') or [])
    caption = html.escape(picture.get('caption') or picture['path'])
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>' if data else ''


def drawn(path: str, boxes: list[list[float]]) -> str:
    from detkit.data.formats.faults import UnreadablePicture
    from detkit.data.formats.pictures import picture_size
    try:
        width, height = picture_size(path)
        if width * height > MOST_PIXELS or path.lower().endswith('.dcm'):
            return ''
        image = read_image(path)
    except (UnreadablePicture, UnreadableImage):
        return ''
    factor = min(SIDE / max(image.shape[:2]), 4.)
    size = tuple(max(round(s * factor), 1) for s in image.shape[1::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    limit = 4 * SIDE
    for box in boxes:
        x1, y1, x2, y2 = (int(np.clip(v * factor, -limit, limit)) for v in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 0, 0), 3)
        cv2.rectangle(image, (x1, y1), (x2, y2), (60, 220, 255), 1)
    return base64.b64encode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()).decode()
