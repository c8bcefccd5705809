"""AutoAugment and RandAugment: operations drawn at random from a table."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detkit.data.transforms.base import BaseTransform
from detkit.data.transforms.choose import RandomChoice, run_all
from detkit.registry import TRANSFORMS, ConfigError

# ImageNet policies of Learned Data Augmentation for detection (https://arxiv.org/abs/1805.09501), MMDetection's default for
# AutoAugment: operation, probability, level; each policy applies two operations in sequence.
POLICIES_V0 = """
Equalize .8 1, ShearY .8 4; Color .4 9, Equalize .6 3; Color .4 1, Rotate .6 8; Solarize .8 3, Equalize .4 7; Solarize .4 2, Solarize .6 2;
Color .2 0, Equalize .8 8; Equalize .4 8, SolarizeAdd .8 3; ShearX .2 9, Rotate .6 8; Color .6 1, Equalize 1. 2; Invert .4 9, Rotate .6 0;
Equalize 1. 9, ShearY .6 3; Color .4 7, Equalize .6 0; Posterize .4 6, AutoContrast .4 7; Solarize .6 8, Color .6 9;
Solarize .2 4, Rotate .8 9; Rotate 1. 7, TranslateY .8 9; ShearX .0 0, Solarize .8 4; ShearY .8 0, Color .6 4; Color 1. 0, Rotate .6 2;
Equalize .8 4, Equalize .0 8; Equalize 1. 4, AutoContrast .6 2; ShearY .4 7, SolarizeAdd .6 7; Posterize .8 2, Solarize .6 10;
Solarize .6 8, Equalize .6 1; Color .8 6, Rotate .4 5"""
OPERATIONS = ('AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness ShearX ShearY '
              'TranslateX TranslateY')


def policies_v0() -> list[list[dict]]:
    rows = [[step.split() for step in policy.split(',')] for policy in POLICIES_V0.split(';')]
    return [[dict(type=name, prob=float(prob), level=int(level)) for name, prob, level in row] for row in rows]


@TRANSFORMS.register_module()
class AutoAugment(BaseTransform):
    """Apply one of ``policies``, drawn by ``prob``; each policy is a pipeline (https://arxiv.org/abs/1805.09501)."""

    random = True

    def __init__(self, policies: Sequence[Sequence[dict]] | None = None, prob: Sequence[float] | None = None) -> None:
        self.choice = RandomChoice(policies_v0() if policies is None else policies, prob)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return self.choice(results)


@TRANSFORMS.register_module()
class RandAugment(BaseTransform):
    """Apply ``aug_num`` different pipelines of ``aug_space`` in sequence (https://arxiv.org/abs/1909.13719).

    Raises:
        ConfigError: ``aug_num`` exceeds the number of pipelines, or ``prob`` does not give one probability for each.
    """

    random = True

    def __init__(self, aug_space: Sequence[Sequence[dict]] | None = None, aug_num: int = 2, prob: Sequence[float] | None = None) -> None:
        space = [[dict(type=name)] for name in OPERATIONS.split()] if aug_space is None else aug_space
        if not 0 < aug_num <= len(space) or prob is not None and len(prob) != len(space):
            raise ConfigError(f'RandAugment aug_num={aug_num}, prob={prob} do not fit aug_space with {len(space)} entries: at most as many '
                              f'operations, one probability each.')
        self.pipelines = [[TRANSFORMS.build(t) for t in ([p] if isinstance(p, dict) else p)] for p in space]
        self.aug_num, self.prob = aug_num, prob and list(prob)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        chosen = results['rng'].choice(len(self.pipelines), self.aug_num, replace=False, p=self.prob)
        return run_all([t for i in chosen for t in self.pipelines[i]], results)
