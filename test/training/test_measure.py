"""Measuring: what is found does not depend on how many detectors work side by side."""

import numpy as np
import pytest
from networks import image_with_cells, make_bundle

from kd_perception.bundles.bundle import load_bundle
from training.__main__ import main
from training.data.dataset import LabeledImage, ground_truth, read_split, write_split
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
        items.append(LabeledImage(f'{number}', image, ground_truth([(30 + number, 40, 80 + number, 60)], [0])))
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


def test_visdrones_rules_leave_ignored_regions_out_and_count_500(dataset, repository, tmp_path, capsys):
    """The left half of every picture is an ignored region: what is found there counts neither way."""
    image = next(iter(read_split(dataset, 'val'))).image
    height, width = image.shape[:2]
    half = np.array([[0, 0, width * 0.6, height]], np.float32)
    objects = ground_truth([(30, 40, 80, 60), (100, 10, 140, 30)], [0, 0])
    write_split(tmp_path / 'set', 'val', ('car',), [LabeledImage('0', image, objects, ignored=half)])
    bundle = load_bundle(repository / 'models/aerial_traffic')
    artifact = bundle.artifact('onnxruntime', 'fp32')
    plain, _ = detect_split(bundle, artifact, tmp_path / 'set', 'val')
    found, truth = detect_split(bundle, artifact, tmp_path / 'set', 'val', protocol='visdrone')
    assert truth[0].objects.boxes.round(2).tolist() == [[100, 10, 140, 30]]
    assert len(truth[0].ignored) == 0
    assert (found[0].boxes[:, 0] + found[0].boxes[:, 2]).min(initial=width) / 2 > 0.3 * width
    assert len(plain[0]) > len(found[0])
    with pytest.raises(DataError, match="did you mean 'visdrone'"):
        detect_split(bundle, artifact, tmp_path / 'set', 'val', protocol='visdron')
    command = ['measure', str(repository / 'models/aerial_traffic'), str(tmp_path / 'set'), '--precision', 'fp32']
    assert main([*command, '--protocol', 'visdrone', '--threads', '1']) == 0
    assert '(1 images)' in capsys.readouterr().out


def test_finer_names_of_a_data_set_are_those_that_the_bundle_covers(dataset, tmp_path):
    """The data set counts its classes otherwise than the bundle: names decide, not numbers."""
    image = image_with_cells(3)
    write_split(
        tmp_path / 'set',
        'val',
        ('navy', 'bright'),
        [LabeledImage('0', image, ground_truth([(0, 0, 9, 9)] * 2, [0, 1]))],
    )
    covering = make_bundle(tmp_path / 'covering', covers={'blue': ['navy']})
    _, truth = detect_split(covering, covering.artifacts[0], tmp_path / 'set', 'val')
    assert [covering.classes[number] for number in truth[0].objects.class_ids] == ['blue', 'bright']
    # A folder in Ultralytics' layout says its names in data.yaml alone.
    (tmp_path / 'set' / 'classes.txt').unlink()
    (tmp_path / 'set' / 'data.yaml').write_text('names: [navy, bright]')
    _, truth = detect_split(covering, covering.artifacts[0], tmp_path / 'set', 'val')
    assert [covering.classes[number] for number in truth[0].objects.class_ids] == ['blue', 'bright']
    plain = make_bundle(tmp_path / 'plain')
    with pytest.raises(DataError, match='navy, which bright_cells neither has nor covers'):
        detect_split(plain, plain.artifacts[0], tmp_path / 'set', 'val')
