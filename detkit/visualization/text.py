"""Draw text on an image, readable at any size and with any OpenCV version.

OpenCV's own text is ASCII only and looks different in versions 4 and 5. Therefore Pillow draws the text, in matplotlib's
font. The environment variable DETKIT_FONT sets another .ttf file, for scripts that this font does not have.
"""
from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from detkit.visualization.colours import Colour


def font_size(height: int, width: int) -> int:
    """Return the font size in pixels: 2 % of the image's side, between 11 and 64."""
    return int(min(max(0.02 * (height * width) ** 0.5, 11), 64))


@lru_cache(maxsize=8)
def font(size: int, path: str | None) -> Any:
    from PIL import ImageFont
    if path is None:
        import matplotlib
        path = str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf')
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=4096)
def rendered(text: str, size: int, path: str | None) -> np.ndarray:
    """Return the text's coverage of each pixel: float32 (height, width, 1) in [0, 1]; the height is the same for every text."""
    from PIL import Image, ImageDraw
    letters = font(size, path)
    ascent, descent = letters.getmetrics()
    pad = max(1, size // 6)
    canvas = Image.new('L', (int(letters.getlength(text) + 0.99) + 2 * pad, ascent + descent))
    ImageDraw.Draw(canvas).text((pad, 0), text, fill=255, font=letters)
    return np.asarray(canvas, np.float32)[..., None] / 255


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return height and width in pixels of the text that ``put_text_`` draws."""
    return rendered(text, size, os.environ.get('DETKIT_FONT')).shape[:2]


def put_text_(image: np.ndarray, text: str, corner: tuple[int, int], size: int, ink: Colour, paper: Colour) -> None:
    """Draw ``text`` on a filled rectangle with the top left corner ``corner`` (x, y); parts outside of the image are cut off."""
    cover = rendered(text, size, os.environ.get('DETKIT_FONT'))
    x, y = max(corner[0], 0), max(corner[1], 0)
    patch = image[y:y + cover.shape[0], x:x + cover.shape[1]]
    cover = cover[:patch.shape[0], :patch.shape[1]]
    front, back = (np.asarray(colour, np.float32) for colour in (ink, paper))
    patch[:] = np.rint(cover * front + (1 - cover) * back).astype(np.uint8)
