"""Draw boxes, masks and class names on an image with OpenCV; takes a few milliseconds per image."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detkit.opencv import cv2
from detkit.structures.rle_masks import RLEMasks
from detkit.visualization.colours import Colour, as_colour, class_colours, readable_on
from detkit.visualization.picture import Picture
from detkit.visualization.text import font_size, put_text_, text_size

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Objects:
    """The n objects that ``draw_instances`` draws, as numpy arrays, sorted by ascending score, so that the best is on top."""

    boxes: np.ndarray               # (n, 4) xyxy pixels
    labels: np.ndarray              # (n,) int
    scores: np.ndarray | None       # (n,), or None for ground truth
    masks: np.ndarray | RLEMasks | None   # (n, height, width) bool; RLE masks are decoded one by one when drawn


def draw_instances(image: np.ndarray, instances: Any, classes: Sequence[str] = (), *, palette: Any = None,
                   score_thr: float = 0., line_width: float | None = None, alpha: float = 0.5, text_color: Any = None,
                   mask_color: Any = None, zoom: float = 1.) -> Picture:
    """Return a copy of ``image`` with the objects drawn on it.

    Args:
        image: uint8, RGB (height, width, 3) or grey (height, width).
        instances: an InstanceData or mapping with ``bboxes`` (n, 4) xyxy pixels of ``image`` and ``labels`` (n,), and
            optionally ``scores`` (n,) and ``masks`` (n, height, width; a tensor, array or mask structure).
        classes: names of the labels; a label without a name is drawn as its number.
        palette: see ``class_colours``.
        score_thr: objects with a lower score are not drawn; objects without scores are all drawn.
        line_width: of boxes, in pixels. None: proportional to the image size.
        alpha: opacity of masks, 0 to 1.
        text_color: of the names. None: black or white, whichever has more contrast.
        mask_color: palette of the masks.
        zoom: scale factor of the output image: on small images, names would cover everything.
    """
    canvas = checked_image(image)
    objects = enlarged(visible(as_objects(instances), score_thr), zoom)
    if zoom != 1:
        canvas = cv2.resize(canvas, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    count = max([len(classes), *(objects.labels + 1)])
    colours = class_colours(palette, count)
    size = font_size(*canvas.shape[:2])
    thickness = max(1, round(size / 7 if line_width is None else line_width))
    if objects.masks is not None:
        mask_colours = colours if mask_color is None else class_colours(mask_color, count)
        for mask, label in zip(objects.masks, objects.labels, strict=True):
            draw_mask_(canvas, as_drawn(mask, zoom), mask_colours[label], alpha)
    corners = np.rint(objects.boxes).astype(int)
    for (x1, y1, x2, y2), label in zip(corners.tolist(), objects.labels, strict=True):
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colours[label], thickness)
    for i, (corner, label) in enumerate(zip(corners.tolist(), objects.labels, strict=True)):
        name = classes[label] if label < len(classes) else f'class {label}'
        text = name if objects.scores is None else f'{name} {objects.scores[i]:.2f}'
        ink = readable_on(colours[label]) if text_color is None else as_colour(text_color)
        place = label_corner(corner, text_size(text, size), canvas.shape[:2])
        put_text_(canvas, text, place, size, ink, colours[label])
    return Picture(canvas)


def checked_image(image: np.ndarray) -> np.ndarray:
    """Return a contiguous RGB copy to draw on.

    Raises:
        ValueError: the image is not uint8 with one or three channels, channels last.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f'an image to draw on is uint8 of shape (height, width, 3); this one is {image.dtype} '
                         f'{image.shape}.')
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB)
    return np.array(image, order='C')


def as_objects(instances: Any) -> Objects:
    """Convert an InstanceData or a mapping to Objects; tensors are moved to the CPU."""
    fields = dict(instances) if isinstance(instances, Mapping) else dict(instances.items())
    boxes, labels, scores = (as_array(fields.get(key)) for key in ('bboxes', 'labels', 'scores'))
    masks = fields.get('masks')
    if not isinstance(masks, RLEMasks):
        masks = as_array(masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks)
    labels = np.zeros(0, int) if labels is None else labels.astype(int)
    if boxes is None or (masks is not None and len(labels) and not boxes.any()):   # heads that predict only masks
        boxes = boxes_of(masks) if masks is not None else np.zeros((len(labels), 4))
    return Objects(boxes.reshape(-1, 4).astype(float), labels, scores, masks)


def as_array(value: Any) -> np.ndarray | None:
    if value is None or isinstance(value, np.ndarray):
        return value
    value = getattr(value, 'tensor', value)   # for box structures
    return value.detach().cpu().numpy() if hasattr(value, 'detach') else np.asarray(value)


def boxes_of(masks: np.ndarray | RLEMasks) -> np.ndarray:
    """Return the bounding box of each mask, (n, 4) xyxy. ``masks``: (n, height, width)."""
    if isinstance(masks, RLEMasks):
        return masks.get_bboxes()
    corners = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    return np.array([(x, y, x + w, y + h) for x, y, w, h in corners], float).reshape(-1, 4)


def visible(objects: Objects, score_thr: float) -> Objects:
    """Return the objects whose score is at least ``score_thr``, sorted by ascending score."""
    if objects.scores is None:
        return objects
    order = np.argsort(objects.scores, kind='stable')
    order = order[objects.scores[order] >= score_thr]
    masks = None if objects.masks is None else objects.masks[order]
    return Objects(objects.boxes[order], objects.labels[order], objects.scores[order], masks)


def enlarged(objects: Objects, zoom: float) -> Objects:
    """Scale the boxes by ``zoom``; masks are scaled when they are drawn."""
    return Objects(objects.boxes * zoom, objects.labels, objects.scores, objects.masks)


def as_drawn(mask: np.ndarray | torch.Tensor, zoom: float) -> np.ndarray:
    """Return one mask, bool (height, width), scaled by ``zoom``."""
    mask = np.asarray(mask).astype(bool)
    if zoom == 1:
        return mask
    return cv2.resize(mask.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST).astype(bool)


def draw_mask_(canvas: np.ndarray, mask: np.ndarray, colour: Colour, alpha: float) -> None:
    """Blend the mask's pixels with the colour and draw its outline, in place."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return
    inside = mask[y:y + height, x:x + width]
    patch = canvas[y:y + height, x:x + width]
    patch[inside] = np.rint(patch[inside] * (1 - alpha) + np.asarray(colour) * alpha).astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, colour, 1)


def label_corner(box: Sequence[int], extent: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the top left corner (x, y) of a name: above its box, or inside the box if there is no space, always within the image."""
    x1, y1, _, _ = box
    height, width = extent
    y = y1 - height if y1 >= height else y1
    return min(max(x1, 0), max(size[1] - width, 0)), min(max(y, 0), max(size[0] - height, 0))


def side_by_side(*images: np.ndarray, titles: Sequence[str] = ('ground truth', 'prediction'), gap: int = 8) -> Picture:
    """Return images side by side, each with a title above it, scaled to the height of the first.

    Raises:
        ValueError: there are more images than titles.
    """
    if len(images) > len(titles):
        raise ValueError(f'{len(images)} images and {len(titles)} titles; give each its title (it may be empty).')
    height = images[0].shape[0]
    columns = []
    for image, title in zip(images, titles, strict=False):
        body = checked_image(image)
        if body.shape[0] != height:
            body = cv2.resize(body, (max(1, round(body.shape[1] * height / body.shape[0])), height))
        size = max(font_size(*body.shape[:2]), 14)
        bar = np.full((text_size(title, size)[0] + 4, body.shape[1], 3), 255, np.uint8)
        put_text_(bar, title, (0, 2), size, (0, 0, 0), (255, 255, 255))
        columns.append(np.vstack([bar, body]))
    tall = max(c.shape[0] for c in columns)
    columns = [np.vstack([np.full((tall - c.shape[0], c.shape[1], 3), 255, np.uint8), c]) for c in columns]
    space = np.full((tall, gap, 3), 255, np.uint8)
    return Picture(np.hstack([part for c in columns for part in (c, space)][:-1]))
