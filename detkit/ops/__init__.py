"""Operators without parameters: functions on tensors that use torchvision's kernels or plain torch."""
from detkit.ops.boxes import aligned_iou, clip_boxes, larger_than, pairwise_iou, scale_boxes
from detkit.ops.deform_conv import deform_conv
from detkit.ops.focal_loss import sigmoid_focal_loss
from detkit.ops.nms import batched_nms, nms, padded_nms, soft_nms
from detkit.ops.roi_align import roi_align

__all__ = ['aligned_iou', 'batched_nms', 'clip_boxes', 'deform_conv', 'larger_than', 'nms', 'padded_nms', 'pairwise_iou', 'roi_align',
           'scale_boxes', 'sigmoid_focal_loss', 'soft_nms']
