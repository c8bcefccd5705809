"""The visualizer that runners and hooks call."""
from __future__ import annotations

import os
from typing import Any

import numpy as np
from mmengine.dist import is_main_process, master_only
from mmengine.logging import print_log
from mmengine.visualization import Visualizer

from detkit.registry import VISUALIZERS
from detkit.structures.sample import DetDataSample
from detkit.visualization.draw import draw_instances, side_by_side
from detkit.visualization.picture import Picture

NO_WINDOW = ('show=True: this Python cannot open a window (no display, or no GUI toolkit for matplotlib). '
             'Give out_file to write the picture, or work in a notebook, which shows it inline.')


@VISUALIZERS.register_module()
class DetLocalVisualizer(Visualizer):
    """Draw ground truth and predictions of a sample (MMDetection's arguments; ``draw_instances`` draws).

    ``dataset_meta`` has the class names and, unless ``bbox_color`` is set, the palette. Images are RGB.

    Args:
        name, image, vis_backends, save_dir: mmengine's.
        bbox_color, mask_color: see ``class_colours``; masks have the colours of their boxes by default.
        text_color: None: black or white, whichever has more contrast.
        line_width: of boxes, in pixels; None: proportional to the image size.
        alpha: opacity of masks.
    """

    def __init__(self, name: str = 'visualizer', image: np.ndarray | None = None, vis_backends: Any = None,
                 save_dir: str | None = None, bbox_color: Any = None, text_color: Any = None, mask_color: Any = None,
                 line_width: float | None = None, alpha: float = 0.5) -> None:
        super().__init__(name=name, image=image, vis_backends=vis_backends, save_dir=save_dir)
        self.bbox_color, self.text_color, self.mask_color = bbox_color, text_color, mask_color
        self.line_width, self.alpha = line_width, alpha
        self.dataset_meta = {}

    def add_datasample(self, name: str, image: np.ndarray, data_sample: DetDataSample | None = None,
                       draw_gt: bool = True, draw_pred: bool = True, show: bool = False, wait_time: float = 0,
                       out_file: str | None = None, pred_score_thr: float = 0.3, step: int = 0) -> Picture | None:
        """Draw a sample on ``image``; ground truth and prediction side by side if both exist.

        Boxes are in pixels of ``image``. The drawn image is returned, stored for ``get_image``, and written to ``out_file`` or,
        without ``out_file``, passed to the backends as ``name`` at ``step``. In distributed training, each process writes its
        ``out_file``; only rank 0 shows images and calls the backends, and the other processes return None in that case.

        Args:
            show: display the image: inline in a notebook, else in a window for ``wait_time`` seconds (0: until a key is pressed).
            pred_score_thr: predictions with a lower score are not drawn.
        """
        if out_file is None and not is_main_process():
            return None
        parts = []
        for part, wanted, score_thr in (('gt_instances', draw_gt, 0.), ('pred_instances', draw_pred, pred_score_thr)):
            instances = data_sample.get(part) if wanted and data_sample is not None else None
            if instances is not None and instances.keys():   # no fields: the pipeline did not load annotations
                parts.append(self._draw(image, instances, score_thr))
        picture = side_by_side(*parts) if len(parts) == 2 else parts[0] if parts else Picture(np.array(image))
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            picture.save(out_file)
        else:
            self.add_image(name, np.asarray(picture), step)
        return picture

    def _draw(self, image: np.ndarray, instances: Any, score_thr: float) -> Picture:
        meta = self.dataset_meta or {}
        palette = meta.get('palette') if self.bbox_color is None else self.bbox_color
        return draw_instances(image, instances, meta.get('classes') or (), palette=palette, score_thr=score_thr,
                              line_width=self.line_width, alpha=self.alpha, text_color=self.text_color,
                              mask_color=self.mask_color)

    @master_only
    def show(self, drawn_img: np.ndarray | None = None, win_name: str = 'image', wait_time: float = 0.,
             continue_key: str = ' ', backend: str = 'matplotlib') -> None:
        """Display an image inline in a notebook, else in a window; log a message if neither is possible."""
        image = self.get_image() if drawn_img is None else drawn_img
        if in_notebook():
            from IPython.display import display
            display(Picture(np.asarray(image)))
        elif has_windows():
            super().show(image, win_name, wait_time, continue_key, backend)
        else:
            print_log(NO_WINDOW, logger='current')


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this; IPython in a terminal cannot display images."""
    import sys
    shell = sys.modules['IPython'].get_ipython() if 'IPython' in sys.modules else None
    return shell is not None and 'IPKernelApp' in getattr(shell, 'config', {})


def has_windows() -> bool:
    """Return whether matplotlib can open a window. (OpenCV's Qt aborts the process if there is no display.)"""
    if os.name == 'posix' and os.uname().sysname != 'Darwin' and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ):
        return False
    import matplotlib
    import matplotlib.pyplot as plt
    return plt.get_backend().lower() in {name.lower() for name in interactive_backends(matplotlib)}


def interactive_backends(matplotlib: Any) -> list[str]:
    try:   # since matplotlib 3.9
        from matplotlib.backends import BackendFilter, backend_registry
    except ImportError:
        return list(matplotlib.rcsetup.interactive_bk)
    return backend_registry.list_builtin(BackendFilter.INTERACTIVE)
