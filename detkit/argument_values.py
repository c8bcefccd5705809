"""Check config values: types from annotations, ranges from argument names.

An int is accepted for a float; a bool or a str is not accepted as a number. Objects other than plain Python values (tensors, built
modules) are not checked here.
"""
from __future__ import annotations

import math
import numbers
import os
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

MAX_VALUE_TEXT = 80
PLAIN = (str, bytes, bool, int, float, complex, list, tuple, dict, set, frozenset, type(None))
SEQUENCES = (list, tuple, set, frozenset)
NAMES = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'text', dict: 'a dict', type(None): 'None'}


@dataclass(frozen=True)
class Fault:
    """An invalid value: ``keys`` lead to ``value``, the invalid part; ``expected`` completes "it should be ..."."""

    keys: tuple[str, ...]
    value: Any
    expected: str

    def __str__(self) -> str:
        text = repr(self.value)
        shown = text if len(text) <= MAX_VALUE_TEXT else f'{text[:MAX_VALUE_TEXT]}...'
        return f'is {shown}; it should be {self.expected}.'


# ------------------------------------------------------------------------------------------------------------------ types
@cache
def annotations_of(function: Any) -> dict[str, Any]:
    """Return the annotations of a constructor, a function, or a dataclass, as types, without those that cannot be resolved."""
    if hasattr(function, '__dataclass_fields__'):
        holder = function
    else:
        holder = function.__init__ if isinstance(function, type) else function
    try:
        return typing.get_type_hints(holder, include_extras=True)
    except Exception:                                  # an annotation names a type that exists only for type checkers
        return {name: kind for name, kind in getattr(holder, '__annotations__', {}).items() if not isinstance(kind, str)}


def type_fault(value: Any, kind: Any) -> Fault | None:
    """Return how ``value`` differs from the annotation ``kind``; None if it matches, or if ``kind`` does not describe plain values."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return union_fault(value, members)
    if origin is typing.Annotated:
        return type_fault(value, members[0])
    if origin is typing.Literal:
        fits = any(value == member and type(value) is type(member) for member in members)
        return None if fits else Fault((), value, expected(kind))
    kind = origin or kind
    if kind is None or kind is type(None):
        return None if value is None else Fault((), value, 'None')
    if kind in NAMES and not members:
        return None if is_instance(value, kind) else Fault((), value, expected(kind))
    if is_opaque(kind):
        return None
    if issubclass(kind, Mapping):
        if not isinstance(value, dict):
            return None if not isinstance(value, PLAIN) else Fault((), value, 'a dict')
        return first_fault(value.items(), members[1:] * len(value))
    if not isinstance(value, SEQUENCES):
        return None if not isinstance(value, PLAIN) else Fault((), value, expected(kind))
    return items_fault(value, kind, members)


def union_fault(value: Any, members: tuple) -> Fault | None:
    """Return the result of ``type_fault`` for a union; beside a plain type, a class is not checked (``float | Tensor``)."""
    plain = [member for member in members if not is_opaque(member)]
    if not isinstance(value, PLAIN) and not isinstance(value, numbers.Number) or not set(plain) - {type(None)}:
        return None
    faults = [type_fault(value, member) for member in plain]
    if None in faults:
        return None
    inner = max(faults, key=lambda fault: len(fault.keys))      # for nested lists, report the innermost error
    return inner if inner.keys else Fault((), value, ' or '.join(dict.fromkeys(fault.expected for fault in faults)))


def is_opaque(kind: Any) -> bool:
    """Return whether an annotation is a class without plain values as instances, such as a tensor or a module."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType, typing.Annotated, typing.Literal):
        return False
    kind = typing.get_origin(kind) or kind
    return not (kind in NAMES or isinstance(kind, type) and issubclass(kind, (*SEQUENCES, Mapping))
                or kind in (Sequence, Iterable, Collection))


def items_fault(value: Any, kind: type, members: tuple) -> Fault | None:
    """Return the result of ``type_fault`` for the entries of a list or tuple."""
    if issubclass(kind, tuple) and members and members[-1] is not Ellipsis:
        if len(value) != len(members):
            return Fault((), value, f'{len(members)} values')
        wanted = members
    else:
        wanted = members[:1] * len(value)
    return first_fault(((f'[{i}]', entry) for i, entry in enumerate(value)), wanted)


def first_fault(entries: Iterable[tuple[str, Any]], kinds: Sequence) -> Fault | None:
    """Return the first error among (key, value) pairs, each with its annotation."""
    for (key, entry), kind in zip(entries, kinds):
        fault = type_fault(entry, kind)
        if fault:
            return Fault((str(key), *fault.keys), fault.value, fault.expected)
    return None


def is_instance(value: Any, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool) or not isinstance(value, PLAIN) and not isinstance(value, numbers.Number)
    if kind in (int, float) and isinstance(value, numbers.Number):
        return not isinstance(value, bool) and isinstance(value, numbers.Integral if kind is int else numbers.Real)
    if kind is str and isinstance(value, os.PathLike):
        return True
    return isinstance(value, kind) or not isinstance(value, PLAIN)


def expected(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        *most, last = map(repr, typing.get_args(kind))
        return f'{", ".join(most)} or {last}' if most else last
    return NAMES.get(kind, 'a list')


# ----------------------------------------------------------------------------------------------------------------- ranges
@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; with ``above``, ``low`` is excluded."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, number: float) -> bool:
        return (self.low < number if self.above else self.low <= number) and number <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f'in {"(" if self.above else "["}{self.low:g}, {self.high:g}]'
        return f'above {self.low:g}' if self.above else f'at least {self.low:g}'


COUNT, INDEX, LIMIT = Range(1), Range(0), Range(-1)         # LIMIT: in MMDetection -1 means "no limit", "none" or "the last"
SHARE, NON_NEGATIVE, POSITIVE = Range(0, 1), Range(0), Range(0, above=True)
SHARE_OR_NONE, POSITIVE_SHARE = Range(-1, 1), Range(0, 1, above=True)
PIXEL_VALUE = Range(0, 255)

# Valid numbers by argument name, for all classes; for a sequence, of each entry. ``Class.argument`` has priority. A name without an
# entry may have any number.
RANGES: dict[str, Range] = {name: range_ for range_, names in (
    (COUNT, '''in_channels out_channels feat_channels num_classes stem_channels base_channels num_stages depth depths groups base_width
        strides dilations stride dilation kernel_size conv_kernel_size conv_out_channels fc_out_channels num_heads embed_dims num_feats
        num_outs num_levels num_queries num_feature_levels num_points feedforward_channels num_fcs num_layers num_pred_layer
        num_transformer_feat_level row_num_embed col_num_embed temperature scales_per_octave featmap_strides finest_scale roi_feat_size
        patch_size window_size pretrain_img_size pad_size_divisor size_divisor num_groups num_csp_blocks deform_groups deformable_groups
        num_deconv_filters num_deconv_kernels num_prototypes dyconv_channels num_dyconvs mask_loss_stride pred_kernel_size reg_max
        num_buckets candidate_topk topk local_maximum_kernel num num_bins spp_kernel_sizes spp_kernal_sizes num_things_classes
        im2col_step mask_size output_size deform_fc_channels output_channels max_epochs max_iters val_interval batch_size
        accumulative_counts times num_sample_class num_channels num_features nproc proposal_nums slices step severity T_max total_steps
        step_size max_refetch max_num_pasted img_scale scale scales max_size size more_pos_topk oversample_ratio num_dn_queries
        reduction_ratio num_parameters crop_size random_size_range num_digits'''),
    (INDEX, '''stacked_convs num_convs num_dcn num_cls_convs num_cls_fcs num_reg_convs num_reg_fcs num_shared_convs num_shared_fcs
        num_stuff_classes refine_level offset_topk sampling_ratio begin end begin_epoch begin_iter val_begin save_begin initial_epoch
        switch_epoch num_last_epochs patience cooldown tolerance milestones max_cached_images out_indices hm_min_radius seed padding
        output_padding start_level mask_occluded_thr bbox_occluded_thr filter_thr_px test_pad_add_pix max_shift_px min_gt_bbox_wh
        min_gt_mask_area stage dynamic_intervals min_size bbox_min_size test_pad_mode split_thr hue_delta saturation_delta value_delta
        brightness_delta aug_num n_patches'''),
    (LIMIT, '''nms_pre max_per_img max_per_image max_num max_keep_ckpts interval end_level frozen_stages num_cp max_masks_to_train
        gpu_assign_thr min_bbox_size allowed_border neg_pos_ub last_step pos_weight'''),
    (SHARE, '''score_thr score_threshold iou_threshold iou_thr min_score mask_thr object_mask_thr dropout attn_drop proj_drop ffn_drop
        drop_rate attn_drop_rate drop_path_rate prob flip_ratio pos_iou_thr neg_iou_thr min_pos_iou pos_fraction floor_fraction
        importance_sample_ratio hm_min_overlap betas label_noise_scale pct_start bbox_erased_thr reversal_prob min_ious min_crop_size
        iou_thrs momentum max_translate_ratio saturation oversample_thr'''),
    (SHARE_OR_NONE, 'ignore_iof_thr floor_thr'),
    (POSITIVE_SHARE, 'mask_thr_binary'),
    (NON_NEGATIVE, '''alpha beta loss_weight weight cls_weight iou_weight gamma neg_weight lr weight_decay eps min_delta box_noise_scale
        class_weight stage_loss_weights more_pos_thresh offset_upperbound mlp_ratio negative_slope factor start_factor end_factor power
        eta_min eta_max max_rotate_degree max_shear_degree threshold wait_time timeout max_norm clip_value soft_center_radius
        ratio_range scaling_ratio_range center_ratio_range contrast_range saturation_range bias_lr_mult bias_decay_mult norm_decay_mult
        flat_decay_mult dwconv_decay_mult dcn_offset_lr_mult lr_mult decay_mult line_width dampening center_sample_radius bg_cls_weight'''),
    (POSITIVE, '''sigma std target_stds octave_base_scale ratios base_sizes widen_factor deepen_factor expand_ratio value_proj_ratio
        scale_factor center_radius div_factor final_div_factor wh_ratio_clip ctr_clamp norm_type'''),
    (PIXEL_VALUE, 'seg_pad_value seg_ignore_label border_val pad_val img_border_value'),
) for name in names.split()} | {
    'MlvlPointGenerator.offset': SHARE, 'AnchorGenerator.center_offset': SHARE, 'AnchorGenerator.scales': POSITIVE,
    'HeatmapPostprocess.max_per_img': COUNT, 'SinePositionalEncoding.scale': POSITIVE,
    'BboxOverlaps2D.scale': POSITIVE, 'RandomCrop.crop_size': POSITIVE,
    'SmoothL1Loss.beta': POSITIVE, 'BalancedL1Loss.alpha': POSITIVE, 'BalancedL1Loss.beta': POSITIVE, 'BoundedIoULoss.beta': POSITIVE,
    'NormalInit.std': NON_NEGATIVE, 'TruncNormalInit.std': NON_NEGATIVE, 'IoUBalancedNegSampler.num_bins': INDEX,
    'LoadImageFromFile.depth': Range(), 'EarlyStoppingHook.patience': COUNT,
    'RandomCenterCropPad.border': INDEX, 'FocalLossCost.alpha': SHARE, 'FocalLoss.alpha': SHARE}


def range_fault(value: Any, name: str, cls: str = '') -> Fault | None:
    """Return the part of ``value`` outside the range of argument ``name`` of class ``cls``; NaN is always outside."""
    return number_fault(value, RANGES.get(f'{cls}.{name}', RANGES.get(name)))


def number_fault(value: Any, allowed: Range | None) -> Fault | None:
    if isinstance(value, SEQUENCES) or isinstance(value, dict) and allowed is not None:
        entries = value.items() if isinstance(value, dict) else ((f'[{i}]', entry) for i, entry in enumerate(value))
        for key, entry in entries:
            fault = number_fault(entry, allowed)
            if fault:
                return Fault((str(key), *fault.keys), fault.value, fault.expected)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if math.isnan(value):
        return Fault((), value, 'a number')
    return None if allowed is None or value in allowed else Fault((), value, str(allowed))


# Annotations of mmengine that its own examples contradict.
CORRECTED = {'Visualizer.vis_backends': list | dict | None}
# Types of arguments of mmengine's initializers, which have no annotations.
UNANNOTATED = {'checkpoint': str, 'layer': str | list[str], 'bias_prob': float, 'val': float, 'a': float, 'b': float, 'gain': float,
               'std': float, 'distribution': Literal['normal', 'uniform'], 'mode': Literal['fan_in', 'fan_out'], 'nonlinearity': str}


def value_fault(value: Any, kind: Any, name: str, cls: str = '') -> Fault | None:
    """Return the result of ``type_fault``, then of ``range_fault``."""
    return type_fault(value, CORRECTED.get(f'{cls}.{name}', kind)) or range_fault(value, name, cls)
