"""Draw ground truth and detections on images. All images here are RGB, uint8, (height, width, 3)."""
from typing import NoReturn

from detkit.mmdet_names import missing_attribute
from detkit.visualization.draw import draw_instances, side_by_side
from detkit.visualization.picture import Picture
from detkit.visualization.visualizer import DetLocalVisualizer

__all__ = ['DetLocalVisualizer', 'Picture', 'draw_instances', 'side_by_side']


def __getattr__(name: str) -> NoReturn:
    missing_attribute(__name__, name)
