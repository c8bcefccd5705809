"""Random streams: their numbers decide what a run draws, so they stay."""
from __future__ import annotations

import numpy as np
import torch

from detkit.structures import DetDataSample
from detkit.structures.random_streams import RandomStream
from detkit.structures.sample import generator_of


def test_the_numbers_stay():
    assert {stream.name: int(stream) for stream in RandomStream} == {
        'PRIOR_SAMPLING': 0, 'ROI_SAMPLING': 1, 'DENOISING': 3, 'MASK_POINTS': 4, 'MASK_PRIORS': 5, 'OTHER_SAMPLE': 2**31, 'MIXING': 2**32}


def test_a_stream_draws_what_its_number_draws():
    sample = DetDataSample(metainfo=dict(seed=7))
    assert generator_of(sample, RandomStream.MASK_POINTS).initial_seed() == 7 * 1_000_003 + 4
    assert torch.randperm(10, generator=generator_of(sample, RandomStream.DENOISING)).tolist() == \
        torch.randperm(10, generator=torch.Generator().manual_seed(7 * 1_000_003 + 3)).tolist()
    assert np.random.default_rng([1, RandomStream.MIXING + 2]).integers(1000) == np.random.default_rng([1, 2**32 + 2]).integers(1000)
