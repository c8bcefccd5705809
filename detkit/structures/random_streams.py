"""The numbers of the independent random streams of a run."""
from __future__ import annotations

from enum import IntEnum


class RandomStream(IntEnum):
    """The purpose of random numbers: part of the key that seeds a generator, together with seed, epoch and sample.

    Streams with different numbers are independent. The numbers determine the results of a run: do not change a number or use it for another
    purpose.
    """

    # per sample, in heads: ``detkit.structures.sample.generator_of``
    PRIOR_SAMPLING = 0             # sampling of priors in dense heads
    ROI_SAMPLING = 1               # sampling of proposals in RoI heads
    DENOISING = 3                  # noise of denoising queries
    MASK_POINTS = 4                # points of mask losses and costs
    MASK_PRIORS = 5                # priors in mask losses

    # per data set, after (seed, epoch, index, attempt); larger than any position of a transform, which pipelines use here
    OTHER_SAMPLE = 1 << 31         # the sample that replaces one rejected by a pipeline
    MIXING = 1 << 32               # transforms of MultiImageMixDataset (plus their position), and its replacement of rejected samples
