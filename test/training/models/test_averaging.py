"""The mean of networks."""

import pytest
import torch
from tiny_detectors import CLASSES, architecture, detector

from training.errors import WeightsError
from training.models.averaging import averaged
from training.models.weights import build_network


def test_the_mean_lies_between_and_counters_stay():
    first, second = detector(seed=0), detector(seed=1)
    weights = [network.state_dict()['model.0.conv.weight'].clone() for network in (first, second)]
    counter = first.state_dict()['model.0.bn.num_batches_tracked'].clone()
    mean = averaged([first, second]).state_dict()
    torch.testing.assert_close(mean['model.0.conv.weight'], (weights[0] + weights[1]) / 2)
    assert mean['model.0.bn.num_batches_tracked'] == counter


def test_networks_of_other_widths_have_no_mean():
    wide = build_network(architecture(scales={'n': [0.33, 0.25, 512]}), CLASSES)
    with pytest.raises(WeightsError, match='same layers and channels'):
        averaged([detector(), wide])
