"""Colours of classes."""
from __future__ import annotations

import colorsys
from collections.abc import Sequence

from detkit.registry import DATASETS

Colour = tuple[int, int, int]   # red, green, blue, 0 to 255
OF_DATASETS = {'coco': 'CocoDataset', 'voc': 'VOCDataset', 'citys': 'CityscapesDataset'}


def class_colours(palette: str | Sequence | None, num_classes: int) -> list[Colour]:
    """Return ``num_classes`` colours.

    ``palette``: None, 'none' or 'random': distinct colours, the same in every run; 'coco', 'voc', 'citys': the colours of
    that dataset; a colour (name, '#rrggbb' or a triple): this colour for all classes; a list of colours: one per class.

    Raises:
            ValueError: an unknown name, or a list that is too short.
    """
    if palette is None or (isinstance(palette, str) and palette in ('none', 'random')):
        return [distinct_colour(k) for k in range(num_classes)]
    if isinstance(palette, str) and palette in OF_DATASETS:
        palette = DATASETS.get(OF_DATASETS[palette]).METAINFO['palette']
    elif isinstance(palette, str) or (len(palette) == 3 and not hasattr(palette[0], '__len__')):
        return [as_colour(palette)] * num_classes
    if len(palette) < num_classes:
        raise ValueError(f'the palette has {len(palette)} colours for {num_classes} classes. Leave it out for colours '
                         f'made to measure.')
    return [as_colour(c) for c in palette[:num_classes]]


def distinct_colour(index: int) -> Colour:
    """Return the ``index``-th colour of an infinite sequence: hues differ by the golden ratio, in three tones."""
    saturation, value = ((0.85, 0.95), (0.55, 1.0), (0.95, 0.65))[index % 3]
    rgb = colorsys.hsv_to_rgb((0.02 + index * 0.61803398875) % 1, saturation, value)
    return tuple(round(255 * c) for c in rgb)


def as_colour(colour: str | Sequence[float]) -> Colour:
    """Convert a colour's name, '#rrggbb', or a triple of 0 to 255 to a triple of int."""
    if not isinstance(colour, str):
        return tuple(int(c) for c in colour)
    from matplotlib.colors import to_rgb
    try:
        return tuple(round(255 * c) for c in to_rgb(colour))
    except ValueError:
        raise ValueError(f"no palette or colour '{colour}'. Palettes: {', '.join(OF_DATASETS)}, random; colours: "
                         f"'red', '#ff8800', (255, 136, 0).") from None


def readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever has more contrast to ``colour`` (luma of ITU-R BT.601)."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
