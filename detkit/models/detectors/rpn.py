"""A region proposal network as a detector (https://arxiv.org/abs/1506.01497, Sec. 3.1)."""
from __future__ import annotations

from detkit.models.detectors.single_stage import SingleStageDetector
from detkit.registry import MODELS, ConfigError


@MODELS.register_module(name='RPN')
def rpn(backbone: dict, rpn_head: dict, test_cfg: dict, train_cfg: dict | None = None, neck: dict | list[dict] | None = None,
        data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> SingleStageDetector:
    """Return a class-agnostic detector with ``rpn_head`` as its head; ``train_cfg`` and ``test_cfg`` hold only the key ``rpn``."""
    for name, cfg in (('train_cfg', train_cfg), ('test_cfg', test_cfg)):
        if cfg is not None and set(cfg) != {'rpn'}:
            raise ConfigError(f"{name} of an RPN has the key rpn, not {', '.join(sorted(cfg)) or 'nothing'}.", cfg)
    return SingleStageDetector(backbone, rpn_head, neck, train_cfg and train_cfg['rpn'], test_cfg['rpn'], data_preprocessor, init_cfg)
