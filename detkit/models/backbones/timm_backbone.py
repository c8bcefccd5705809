"""Any timm model (https://github.com/huggingface/pytorch-image-models) as a backbone, with mmpretrain's argument names."""
from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch.nn as nn
from mmengine.model import BaseModule, initialize
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from detkit.nn.conv import NORMS
from detkit.registry import MODELS, ConfigError, did_you_mean


def timm_package() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"TIMMBackbone needs timm ({error}): pip install 'detkit[timm]'") from error
    return timm


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A timm model that returns one feature map per stage.

    ``channels`` and ``strides`` describe the returned maps.

    Args:
        model_name: a name from ``timm.list_models()``, with or without the tag of its weights.
        features_only: return the maps of stages; otherwise return only the last map, before timm's pooling.
        pretrained: load timm's weights, downloaded if they are not in the cache. As for every backbone, this happens in ``init_weights``: a
            model that loads its own checkpoint needs no network connection.
        checkpoint_path: a file with the weights of the whole timm model, also loaded in ``init_weights``.
        out_indices: indices of the returned maps, with ``features_only``; None: all.
        model_options: further arguments of the timm model (``drop_path_rate``, ``output_stride``, ``img_size``, ...). ``norm_layer``
            can be the type of a ``norm_cfg``.
    """

    def __init__(self, model_name: str, features_only: bool = False, pretrained: bool = False, checkpoint_path: str = '',
                 in_channels: int = 3, out_indices: Sequence[int] | None = None, init_cfg: dict | list | None = None,
                 **model_options: object) -> None:
        super().__init__(init_cfg)
        if out_indices is not None and not features_only:
            raise ConfigError(f'TIMMBackbone out_indices={tuple(out_indices)} are maps of stages: set features_only=True.')
        if model_options.get('norm_layer') in NORMS:
            model_options['norm_layer'] = NORMS[model_options['norm_layer']]
        self.model_name, self.features_only, self.pretrained, self.checkpoint_path = model_name, features_only, pretrained, checkpoint_path
        self.options = dict(model_options, in_chans=in_channels, features_only=features_only)
        if out_indices is not None:
            self.options['out_indices'] = tuple(out_indices)
        self.timm_model = create(model_name, self.options)
        if not features_only:
            self.timm_model.reset_classifier(0, '')
        info = self.timm_model.feature_info
        self.channels = tuple(info.channels()) if features_only else (self.timm_model.num_features,)
        self.strides = tuple(info.reduction()) if features_only else tuple(stage['reduction'] for stage in info[-1:])
        self.channels_last = 'NHWC' in str(getattr(self.timm_model, 'output_fmt', ''))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return maps (N, C, H / stride, W / stride), fine to coarse, of images (N, 3, H, W)."""
        maps = tuple(self.timm_model(x)) if self.features_only else (self.timm_model.forward_features(x),)
        if any(m.dim() != 4 for m in maps):
            raise ValueError(f"timm's '{self.model_name}' gives {tuple(maps[-1].shape)} and no map. Set features_only=True.")
        return tuple(m.permute(0, 3, 1, 2) for m in maps) if self.channels_last else maps

    def fetch_weights(self) -> dict[str, Tensor]:
        """Return the weights that ``init_weights`` loads, downloaded if they are not in the cache.

        Raises:
            ConfigError: the weights cannot be loaded.
        """
        return fetched(self.model_name, self.options, self.checkpoint_path)

    def init_weights(self) -> None:
        if self.pretrained or self.checkpoint_path:
            self.timm_model.load_state_dict(self.fetch_weights())
        if self.init_cfg:
            initialize(self, self.init_cfg)
        self.is_init = True              # the parent class would initialise timm's layers again


def create(name: str, options: dict, **weights: object) -> nn.Module:
    """Call ``timm.create_model``; raise ConfigError if it fails."""
    timm = timm_package()
    try:
        return timm.create_model(name, **weights, **options)
    except Exception as error:                  # timm models raise many types of errors
        if not timm.is_model(name.split('.')[0]) and ':' not in name:
            raise ConfigError(f"timm {timm.__version__} has no model '{name}'.{did_you_mean(name, timm.list_models())}") from error
        said = ' '.join(f'{type(error).__name__}: {error}'.split())
        if weights:
            raise ConfigError(f"TIMMBackbone: the weights of '{name}' cannot be had ({said[:300]}). Without network, give a file as "
                              f'checkpoint_path=..., or set pretrained=False.') from error
        given = ', '.join(f'{key}={value!r}' for key, value in options.items())
        raise ConfigError(f"TIMMBackbone: timm does not build '{name}' with {given} ({said}).") from error


def fetched(name: str, options: dict, path: str) -> dict[str, Tensor]:
    """Return the weights of a model that timm built and loaded; timm maps the weights of the whole network to its feature extractor.

    If ``path`` is set, the file replaces timm's weights. (``create_model(checkpoint_path=...)`` would expect the names of the features.)
    """
    overlay = None
    if path:
        content = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        overlay = dict(state_dict=content.get('state_dict', content))
    model = create(name, options, pretrained=True, pretrained_cfg_overlay=overlay)
    if not options['features_only']:
        model.reset_classifier(0, '')
    return model.state_dict()
