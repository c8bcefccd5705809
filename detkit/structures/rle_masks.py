"""Predicted masks, stored as run-length encoding: a mask of a large image takes a few hundred bytes instead of megabytes."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from detkit.ops.masks import encode_masks


class RLEMasks:
    """The masks of one image: ``codes`` is a list with one compressed COCO RLE per mask, each of ``height`` x ``width`` pixels.

    An integer index returns one mask, bool (height, width); a slice, a list, an index or bool array or tensor returns RLEMasks. Common
    tensor methods (``flatten``, ``sum``, ``float``, ``numpy``, ...) decode all masks to a tensor (n, height, width): select a few masks
    first.
    """

    dtype, ndim = torch.bool, 3

    def __init__(self, codes: Sequence[dict], height: int, width: int) -> None:
        self.codes, self.height, self.width = list(codes), int(height), int(width)

    def __repr__(self) -> str:
        return f'RLEMasks(num_masks={len(self)}, height={self.height}, width={self.width})'

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.height, self.width))

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: object) -> RLEMasks | Tensor:
        if isinstance(index, slice):
            return RLEMasks(self.codes[index], self.height, self.width)
        if isinstance(index, tuple):
            return self.to_tensor()[index]
        index = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if index.ndim == 0:
            return torch.from_numpy(decoded(self.codes[int(index)]))
        chosen = np.arange(len(self))[index if index.size else index.astype(int)]
        return RLEMasks([self.codes[i] for i in chosen], self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each mask, (n,), computed without decoding."""
        from pycocotools import mask as coco
        return np.asarray(coco.area(self.codes), np.int64) if self.codes else np.zeros(0, np.int64)

    def get_bboxes(self) -> np.ndarray:
        """Return the tightest box around each mask, (n, 4) float32 xyxy, computed without decoding; zeros for an empty mask."""
        from pycocotools import mask as coco
        xywh = np.asarray(coco.toBbox(self.codes), np.float32).reshape(-1, 4) if self.codes else np.zeros((0, 4), np.float32)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)

    def to_ndarray(self) -> np.ndarray:
        """Decode to bool (n, height, width)."""
        return np.stack([decoded(c) for c in self.codes]) if self.codes else np.zeros(self.shape, bool)

    def to_tensor(self, dtype: torch.dtype = torch.bool, device: torch.device | str = 'cpu') -> Tensor:
        """Decode to a tensor (n, height, width)."""
        return torch.from_numpy(self.to_ndarray()).to(device, dtype)

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return self.to_ndarray().astype(dtype or bool, copy=False)

    numpy = to_ndarray

    def cpu(self) -> RLEMasks:
        return self

    detach = cpu

    def float(self) -> Tensor:
        return self.to_tensor(torch.float32)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        return self.to_tensor().flatten(start_dim, end_dim)

    def sum(self, *dims: object, **options: object) -> Tensor:
        return self.to_tensor().sum(*dims, **options)

    @classmethod
    def cat(cls, masks: Sequence[RLEMasks]) -> RLEMasks:
        """Concatenate masks.

        Raises:
            ValueError: there are no masks, or their sizes differ.
        """
        sizes = {(m.height, m.width) for m in masks}
        if len(sizes) != 1:
            raise ValueError(f'RLEMasks.cat needs masks of one (height, width), given {sizes or "none"}.')
        return cls([code for m in masks for code in m.codes], *sizes.pop())


def decoded(code: dict) -> np.ndarray:
    """Decode an RLE to bool (height, width)."""
    from pycocotools import mask as coco
    return np.ascontiguousarray(coco.decode(code)).view(bool)


def rle_codes(masks: Tensor | np.ndarray | RLEMasks | Sequence[dict]) -> list[dict]:
    """Return one compressed COCO RLE per mask, with its counts as text.

    ``masks``: (n, height, width), bool or 0 and 1; or masks that are encoded already, with counts as text or bytes.
    """
    if isinstance(masks, (Tensor, np.ndarray)):
        return encode_masks(masks)
    codes = masks.codes if isinstance(masks, RLEMasks) else masks
    return [dict(size=[int(side) for side in code['size']],
                 counts=code['counts'].decode() if isinstance(code['counts'], bytes) else code['counts']) for code in codes]
