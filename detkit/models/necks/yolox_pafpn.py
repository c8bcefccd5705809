"""YOLOX's neck: a path-aggregation pyramid (PANet, https://arxiv.org/abs/1803.01534) of CSP layers (https://arxiv.org/abs/2107.08430)."""
from __future__ import annotations

from detkit.nn.conv import ConvModule, DepthwiseSeparableConvModule
from detkit.nn.csp import INIT, CSPLayer, CSPPathAggregation, DarknetBottleneck
from detkit.registry import MODELS


@MODELS.register_module()
class YOLOXPAFPN(CSPPathAggregation):
    """Top-down, then bottom-up; each step concatenates two maps and applies a CSP layer without shortcuts.

    Args:
        in_channels: channels of the backbone's maps, fine to coarse.
        out_channels: channels of every returned map.
        num_csp_blocks: number of blocks in each CSP layer.
        upsample_cfg: arguments of ``torch.nn.functional.interpolate``.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_csp_blocks: int = 3, use_depthwise: bool = False,
                 upsample_cfg: dict = dict(scale_factor=2, mode='nearest'), conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN', momentum=0.03, eps=0.001), act_cfg: dict = dict(type='Swish'),
                 init_cfg: dict | None = INIT) -> None:
        options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        down = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        layer = dict(num_blocks=num_csp_blocks, add_identity=False, use_depthwise=use_depthwise, block=DarknetBottleneck, **options)
        super().__init__(
            in_channels, mix=lambda c_in, c_out: CSPLayer(c_in, c_out, **layer), down=lambda c: down(c, c, 3, 2, 1, **options),
            out=lambda c: ConvModule(c, out_channels, 1, **options), upsample_cfg=upsample_cfg, init_cfg=init_cfg, **options)
