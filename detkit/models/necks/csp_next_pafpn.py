"""RTMDet's neck: a path-aggregation pyramid of CSPNeXt layers (https://arxiv.org/abs/2212.07784, Sec. 3.2)."""
from __future__ import annotations

from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule
from detkit.nn.csp import INIT, CSPLayer, CSPPathAggregation
from detkit.registry import MODELS


@MODELS.register_module()
class CSPNeXtPAFPN(CSPPathAggregation):
    """Top-down, then bottom-up; each step concatenates two maps and applies a CSP layer without shortcuts.

    Args:
        in_channels: channels of the backbone's maps, fine to coarse.
        out_channels: channels of every returned map.
        num_csp_blocks: number of blocks in each CSP layer.
        upsample_cfg: arguments of ``torch.nn.functional.interpolate``.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_csp_blocks: int = 3, use_depthwise: bool = False,
                 expand_ratio: float = 0.5, upsample_cfg: dict = dict(scale_factor=2, mode='nearest'),
                 conv_cfg: dict | None = None, norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001),
                 act_cfg: dict = dict(type='SiLU'), init_cfg: dict | None = INIT) -> None:
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        layer = dict(expand_ratio=expand_ratio, num_blocks=num_csp_blocks, add_identity=False, use_depthwise=use_depthwise, **options)
        super().__init__(
            in_channels, mix=lambda c_in, c_out: CSPLayer(c_in, c_out, **layer),
            down=lambda c: conv(c, c, 3, 2, 1, **options), out=lambda c: conv(c, out_channels, 3, padding=1, **options),
            upsample_cfg=upsample_cfg, init_cfg=init_cfg, **options)
