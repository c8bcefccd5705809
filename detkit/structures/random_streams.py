"""The independent random streams of a run, numbered in one place."""
from __future__ import annotations

from enum import IntEnum


class RandomStream(IntEnum):
    """What random numbers are drawn for: part of the key from which a generator is seeded, beside seed, epoch and sample.

    Streams with different numbers are independent. The numbers decide what a run draws: never change one or give it to something else.
    """

    # of a sample in a head: ``detkit.structures.sample.generator_of``
    PRIOR_SAMPLING = 0             # which priors of a dense head are trained on
    ROI_SAMPLING = 1               # which proposals the RoI head is trained on
    DENOISING = 3                  # noise of denoising queries
    MASK_POINTS = 4                # points at which masks are compared
    MASK_PRIORS = 5                # priors whose masks are trained

    # of a data set, after (seed, epoch, index, attempt), where a pipeline has the position of a transform: larger than any position
    OTHER_SAMPLE = 1 << 31         # the sample in place of one that a pipeline refused
    MIXING = 1 << 32               # transforms of MultiImageMixDataset (plus their position), and the sample in place of one refused
