"""An image that shows itself in a notebook."""
from __future__ import annotations

import os

import numpy as np

from detkit.files import atomic_path
from detkit.opencv import cv2


class Picture(np.ndarray):
    """A numpy image, RGB uint8 (height, width, 3), that a notebook shows when it is a cell's last line.

    ``Picture(array)`` makes one without copying.
    """

    def __new__(cls, image: np.ndarray) -> Picture:
        return np.asarray(image).view(cls)

    def _repr_png_(self) -> bytes | None:
        """PNG bytes for IPython; None (so that the numbers are shown) for a part that is no image any more."""
        return encoded(self, '.png') if self.ndim == 3 and self.shape[2] == 3 and self.dtype == np.uint8 else None

    def save(self, path: str | os.PathLike) -> None:
        """Write the picture, whole or not at all, in the format that ``path`` ends with.

        Raises:
            ValueError: OpenCV knows no format for that ending.
        """
        data = encoded(self, os.path.splitext(path)[1])
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    """``image`` (RGB) as the bytes of a file that ends with ``suffix``."""
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"no picture format for the ending '{suffix}'. Use .png or .jpg.")
    return data.tobytes()
