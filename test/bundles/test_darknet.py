"""Darknet's networks, converted, give what OpenCV's reader gives; what is not translated is refused with its line."""

from __future__ import annotations

import contextlib

import cv2
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.bundles.bundle import load_bundle
from kd_perception.bundles.foreign.darknet import convert, read_sections
from kd_perception.cli.main import main
from kd_perception.errors import BundleError

SIDE, CLASSES = 96, 3
HEAD = 3 * (5 + CLASSES)

CONFIGURATION = f"""
[net]
width={SIDE}
height={SIDE}
channels=3

[convolutional]        # 0
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish

[convolutional]        # 1
batch_normalize=1
filters=8
groups=8
size=3
stride=1
pad=1
activation=leaky

[shortcut]
from=-2
activation=linear

[route]                # 3: the second half
layers=-1
groups=2
group_id=1

[maxpool]
size=2
stride=2

[maxpool]
size=5
stride=1

[convolutional]        # 6
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=swish

[dropout]
probability=.2

[upsample]
stride=2

[route]
layers=-1,5

[convolutional]        # 10
size=1
stride=1
pad=1
filters={HEAD}
activation=linear

[yolo]
mask=0,1,2
anchors=10,14, 23,27, 37,58, 81,82
classes={CLASSES}
num=4
scale_x_y=1.1

[route]
layers=6

[convolutional]
size=1
filters={HEAD}
activation=linear

[yolo]
mask=1,2,3
anchors=10,14, 23,27, 37,58, 81,82
classes={CLASSES}
num=4
"""
SCALED = CONFIGURATION.replace('activation=linear\n\n[yolo]', 'activation=logistic\n\n[yolo]').replace(
    'num=4', 'num=4\nnew_coords=1\nscale_x_y=2.0'
)
VALUES = (8 * 4 + 8 * 27) + (8 * 4 + 8 * 9) + (8 * 4 + 8 * 4 * 9) + (HEAD + HEAD * 12) + (HEAD + HEAD * 8)


def weights(count: int = VALUES, version: tuple[int, int] = (0, 2)) -> bytes:
    draw = np.random.default_rng(1)
    values = draw.uniform(0.05, 0.2, count).astype('<f4')
    return np.array([*version, 0], '<i4').tobytes() + bytes(8 if version >= (0, 2) else 4) + values.tobytes()


def converted(configuration: bytes, content: bytes, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(convert(configuration, content), providers=['CPUExecutionProvider'])
    boxes, scores = session.run(['boxes', 'scores'], {'image': image})
    return boxes[0], scores[0]


def by_opencv(configuration: bytes, content: bytes, image: np.ndarray) -> np.ndarray:
    """Rows of center, size, objectness and scores, in shares."""
    network = cv2.dnn.readNetFromDarknet(np.frombuffer(configuration, np.uint8), np.frombuffer(content, np.uint8))
    network.setInput(image)
    return np.concatenate(network.forward(network.getUnconnectedOutLayersNames()))


@pytest.mark.parametrize('configuration', [CONFIGURATION, SCALED], ids=['YOLOv4', 'scaled'])
def test_every_layer_gives_what_opencv_gives(configuration):
    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    boxes, scores = converted(configuration.encode(), weights(), image)
    wanted = by_opencv(configuration.encode(), weights(), image)
    half = wanted[:, 2:4] / 2
    corners = np.concatenate([wanted[:, :2] - half, wanted[:, :2] + half], axis=1) * SIDE
    np.testing.assert_allclose(boxes, corners, atol=0.05, rtol=1e-3)
    sure = wanted[:, 5:] > 0  # what is below OpenCV's own threshold is zero there
    assert sure.any()
    np.testing.assert_allclose(scores[sure], wanted[:, 5:][sure], atol=1e-3)


def test_a_public_network_gives_what_opencv_gives(shared_data):
    folder = shared_data.parent / 'models'
    if not (folder / 'yolo-fastest-1.1-xl.cfg').is_file():
        pytest.skip('no yolo-fastest-1.1-xl beside the data')
    configuration, content = ((folder / f'yolo-fastest-1.1-xl.{end}').read_bytes() for end in ('cfg', 'weights'))
    photograph = cv2.imread(str(next((shared_data / 'coco_sample/images/val').glob('*.jpg'))))
    image = cv2.dnn.blobFromImage(photograph, 1 / 255, (320, 320), swapRB=True)
    boxes, scores = converted(configuration, content, image)
    wanted = by_opencv(configuration, content, image)
    best = wanted[:, 5:].max(axis=1).argmax()
    mine = scores.max(axis=1).argmax()
    assert scores[mine].max() == pytest.approx(wanted[best, 5:].max(), abs=1e-3)
    assert scores[mine].argmax() == wanted[best, 5:].argmax()
    x, y, width, height = wanted[best, :4] * 320
    assert boxes[mine].tolist() == pytest.approx(
        [x - width / 2, y - height / 2, x + width / 2, y + height / 2], abs=0.1
    )


def test_one_command_makes_a_bundle(tmp_path, capsys):
    (tmp_path / 'net.cfg').write_text(CONFIGURATION)
    (tmp_path / 'net.weights').write_bytes(weights())
    command = ['bundle', 'create', str(tmp_path / 'net.cfg'), '--classes', 'a,b,c', '--out', str(tmp_path / 'made')]
    assert main(command) == 0
    spec = load_bundle(tmp_path / 'made').input
    assert (spec.width, spec.color, spec.resize, spec.std) == (SIDE, 'rgb', 'letterbox', (255.0,) * 3)
    assert 'Darknet' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('before', 'after', 'says'),
    [
        ('[dropout]', '[sam]', 'line 49, .sam.: a layer that is not translated'),
        ('activation=swish', 'activation=selu', r"\[convolutional\]: the activation 'selu'"),
        ('layers=-1,5', 'layers=-1,99', 'no layer 99'),
        ('layers=-1,5', 'layers=-1,0', 'different sizes'),
        ('from=-2', 'from=x', 'no list of numbers'),
        ('filters=8', 'filters=999999999', 'not from 1 to'),
        ('filters=8', 'filters=nan', 'not from 1 to'),
        ('[upsample]\nstride=2', '[upsample]\nstride=8\n' * 6, 'larger than any detector'),
        ('filters=8', 'filters=8.5', 'whole number'),
        ('groups=8', 'groups=3', 'do not divide'),
        ('channels=3', 'channels=1', '1 channels'),
        ('mask=0,1,2', 'mask=0,1,9', 'anchors that are not there'),
        ('mask=0,1,2', 'mask=0,1', 'do not hold 2 anchors'),
        ('[yolo]', '[dropout]', 'no .yolo. layer'),
        ('[net]', '[route]', 'begins with .net.'),
        ('width=96', 'width', 'neither .section. nor key=value'),
    ],
)
def test_what_is_not_translated_is_refused_with_its_line(before, after, says):
    with pytest.raises(BundleError, match=says):
        convert(CONFIGURATION.replace(before, after).encode(), weights())


@pytest.mark.parametrize(
    ('content', 'says'),
    [(weights(VALUES - 1), 'takes more'), (weights(VALUES + 1), f'takes {VALUES}'), (b'', 'too short')],
)
def test_weights_of_another_network(content, says):
    with pytest.raises(BundleError, match=says):
        convert(CONFIGURATION.encode(), content)


def test_old_weights_have_a_shorter_header():
    new, old = (convert(CONFIGURATION.encode(), weights(version=version)) for version in ((0, 2), (0, 1)))
    assert new == old


@given(st.binary(max_size=200))
def test_no_bytes_are_fatal(content):
    with contextlib.suppress(BundleError):
        read_sections(content)
    with pytest.raises(BundleError):
        convert(CONFIGURATION.encode(), content)
