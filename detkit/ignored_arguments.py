"""Arguments of MMDetection configs that detkit accepts without effect, with reasons. Each is logged once."""
from __future__ import annotations

import logging
from typing import Any

# Class (``*``: any section of settings) -> argument -> why it is not used.
IGNORED: dict[str, dict[str, str]] = {
    '*': {'debug': 'MMDetection does not read it either'},
    'CocoMetric': {'sort_categories': 'categories are found by name, whatever their order in the file',
                   'use_mp_eval': 'the evaluator uses all cores'},
    'CocoPanopticMetric': {'nproc': 'images are evaluated in one process, as they are tested'},
    'FCNMaskHead': {'roi_feat_size': 'the head takes features of any size'},
    'LoadImageFromNDArray': dict.fromkeys(('color_type', 'imdecode_backend', 'backend_args', 'file_client_args', 'ignore_empty'),
                                          'an array is no file that would have to be read'),
    'MultiScaleDeformableAttention': {'im2col_step': "it belongs to mmcv's CUDA kernel, and any value gives the same numbers"},
    'RandomCenterCropPad': {'std': 'MMDetection does not read it either; what is padded has the value of mean'},
    'RoIAlign': {'use_torchvision': 'there is one kernel'},
}
named: set[tuple[str, str]] = set()      # (class, argument) pairs already logged in this process


def is_ignored(cls: str, name: str) -> bool:
    return name in IGNORED['*'] or name in IGNORED.get(cls, {})


def warn_if_ignored(cls: str, name: str, value: Any) -> None:
    """Log once per process that ``name`` of ``cls`` has no effect."""
    if is_ignored(cls, name) and (cls, name) not in named:
        named.add((cls, name))
        reason = IGNORED.get(cls, {}).get(name) or IGNORED['*'][name]
        logging.getLogger('detkit').warning('%s: %s=%r has no effect: %s.', cls, name, value, reason)
