"""Measuring: what is found does not depend on how many detectors work side by side."""

import numpy as np
import pytest

from kd_perception.bundles.bundle import load_bundle
from training.data.dataset import LabelledImage, ground_truth, write_split
from training.errors import DataError
from training.measure import detect_split

pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Seven pictures of noise and cars drawn as boxes."""
    folder = tmp_path_factory.mktemp('set')
    rng = np.random.default_rng(0)
    items = []
    for number in range(7):
        image = rng.integers(0, 255, (120 + 8 * number, 160, 3), dtype=np.uint8)
        image[40:60, 30 + number : 80 + number] = (30, 30, 200)
        items.append(LabelledImage(f'{number}', image, ground_truth([(30 + number, 40, 80 + number, 60)], [0])))
    write_split(folder, 'val', ('car',), items)
    return folder


def test_several_detectors_find_what_one_finds_in_the_same_order(dataset, repository):
    bundle = load_bundle(repository / 'models/aerial_traffic')
    artifact = bundle.artifact('onnxruntime', 'fp32')
    one, truth = detect_split(bundle, artifact, dataset, 'val', threads=1)
    three, again = detect_split(bundle, artifact, dataset, 'val', threads=3)
    assert len(one) == len(three) == 7
    assert sum(len(found) for found in one) > 0
    for first, second in zip(one, three, strict=True):
        assert np.array_equal(first.boxes, second.boxes)
        assert np.array_equal(first.scores, second.scores)
    assert [item.objects.boxes.tolist() for item in truth] == [item.objects.boxes.tolist() for item in again]


def test_a_picture_that_cannot_be_read_ends_it(dataset, repository, tmp_path):
    bundle = load_bundle(repository / 'models/aerial_traffic')
    with pytest.raises(DataError):
        detect_split(bundle, bundle.artifact('onnxruntime', 'fp32'), tmp_path, 'val', threads=3)
