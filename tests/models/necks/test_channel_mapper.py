import pytest
import torch

from detkit.models.necks.channel_mapper import ChannelMapper
from detkit.registry import ConfigError


def test_extra_maps_start_from_the_last_input():
    neck = ChannelMapper([4, 6], 8, kernel_size=1, num_outs=4)
    outs = neck((torch.randn(1, 4, 16, 12), torch.randn(1, 6, 8, 6)))
    assert [tuple(x.shape[1:]) for x in outs] == [(8, 16, 12), (8, 8, 6), (8, 4, 3), (8, 2, 2)]
    assert (neck.extra_convs[0].conv.in_channels, neck.extra_convs[1].conv.in_channels) == (6, 8)


def test_numbers_that_do_not_fit():
    with pytest.raises(ConfigError, match='num_outs=1 is fewer than the 2 maps of in_channels'):
        ChannelMapper([4, 6], 8, num_outs=1)
    with pytest.raises(ConfigError, match='in_channels has 2 entries; the backbone gives 1 maps'):
        ChannelMapper([4, 6], 8)((torch.randn(1, 4, 8, 8),))
