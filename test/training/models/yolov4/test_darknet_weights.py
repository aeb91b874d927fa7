"""Darknet's `.weights`, on files that the tests write."""

import struct

import numpy as np
import pytest

pytest.importorskip('torch')

from training.errors import WeightsError
from training.models.yolov4.darknet_weights import load_darknet
from training.models.yolov4.network import YOLOv4


@pytest.fixture(scope='module')
def canonical():
    return YOLOv4(80)


@pytest.fixture(scope='module')
def values(canonical):
    count = sum(value.numel() for name, value in canonical.state_dict().items() if 'num_batches' not in name)
    return np.arange(count - canonical.anchors.numel(), dtype='<f4')


def write(path, values, version=(0, 2, 5), seen=32013312):
    path.write_bytes(struct.pack('<3iq', *version, seen) + values.tobytes())
    return path


def test_the_public_file_has_the_size_that_this_reader_expects(values):
    # yolov4.weights as published: 257,717,640 bytes
    assert 20 + 4 * len(values) == 257_717_640


def test_values_find_their_places(canonical, values, tmp_path):
    assert load_darknet(canonical, write(tmp_path / 'yolov4.weights', values)) == 32013312
    convolution, norm = canonical.backbone.stem[0], canonical.backbone.stem[1]
    # bias, scale, mean, variance, then the kernel
    assert [place[0].item() for place in (norm.bias, norm.weight, norm.running_mean, norm.running_var)] == [
        0,
        32,
        64,
        96,
    ]
    assert convolution.weight.flatten()[:2].tolist() == [128, 129]
    last = canonical.heads[2][1]
    assert last.weight.flatten()[-1].item() == values[-1]
    assert last.bias[0].item() == values[len(values) - last.weight.numel() - 255]
    # the way that passes by the residual blocks stands first in the file
    stage = canonical.backbone.stages[0]
    assert stage.beside[1].bias[0] < stage.before[1].bias[0] < stage.behind[1].bias[0] < stage.merge[1].bias[0]
    # the fine head stands before the way down
    assert canonical.heads[0][1].bias[0] < canonical.neck.fine_to_middle[1].bias[0] < canonical.heads[1][1].bias[0]


def test_an_old_header_is_four_bytes_shorter(canonical, values, tmp_path):
    file = tmp_path / 'old.weights'
    file.write_bytes(struct.pack('<4i', 0, 1, 0, 77) + values.tobytes())
    assert load_darknet(canonical, file) == 77


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda content: content[:-4], 'another network'),
        (lambda content: content[:-3], 'truncated'),
        (lambda content: content[:10], 'too short'),
        (lambda content: content[:-4] + struct.pack('<f', np.nan), 'not finite'),
    ],
)
def test_spoilt_files_are_refused(canonical, values, tmp_path, spoil, message):
    file = write(tmp_path / 'yolov4.weights', values)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(WeightsError, match=message):
        load_darknet(canonical, file)


def test_missing_files_and_other_networks_are_refused(canonical, tmp_path):
    with pytest.raises(WeightsError, match='cannot be read'):
        load_darknet(canonical, tmp_path / 'nowhere.weights')
    with pytest.raises(WeightsError, match='CSPDarknet53'):
        load_darknet(YOLOv4(80, 'mobilenet_v2'), tmp_path / 'nowhere.weights')
