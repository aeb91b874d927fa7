"""FashionScenes: IDX files in, scenes with exact boxes out."""

import gzip
import struct

import numpy as np
import pytest

from training.__main__ import main
from training.data import idx
from training.data.dataset import read_classes, read_split
from training.data.fashion_scenes import CLASSES, FashionSceneSettings, prepare, read_items, scenes
from training.data.idx import read_idx
from training.errors import DataError

SMALL = FashionSceneSettings(count=4, val_count=2, size=64)


def idx_bytes(array, kind=0x08):
    return struct.pack(f'>BBBB{array.ndim}I', 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


def write_idx(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(idx_bytes(array)))


def squares(count, brightness):
    """Garments that are squares of 16 pixels in the middle of their pictures."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 6:22, 6:22] = brightness
    return images


@pytest.fixture
def garments(tmp_path):
    """A Fashion-MNIST of two pictures a class."""
    folder = tmp_path / 'garments'
    for part, brightness in (('train', 250), ('t10k', 200)):
        write_idx(folder / f'{part}-images-idx3-ubyte.gz', squares(20, brightness))
        write_idx(folder / f'{part}-labels-idx1-ubyte.gz', (np.arange(20) % 10).astype(np.uint8))
    return folder


def test_scenes_come_back_from_disk_with_their_boxes(garments, tmp_path):
    assert prepare(garments, tmp_path / 'set', SMALL) == {'train': 4, 'val': 2}
    assert read_classes(tmp_path / 'set') == CLASSES
    drawn = list(scenes(*read_items(garments, 'train'), 'train', SMALL))
    for item, original in zip(read_split(tmp_path / 'set', 'train'), drawn, strict=True):
        assert item.image.shape == (64, 64, 3)
        assert np.array_equal(item.objects.class_ids, original.objects.class_ids)
        assert np.allclose(item.objects.boxes, original.objects.boxes, atol=1e-3)


def test_a_scene_depends_on_seed_split_and_number_alone():
    images, labels = squares(20, 250), (np.arange(20) % 10).astype(np.uint8)

    def drawn(split='train', **changes):
        settings = FashionSceneSettings(**{'count': 2, 'val_count': 2, 'size': 64, **changes})
        return [item.image for item in scenes(images, labels, split, settings)]

    assert np.array_equal(drawn(), drawn())
    assert np.array_equal(drawn(), drawn(count=5)[:2])
    for other in (drawn(seed=1), drawn(split='val'), drawn()[::-1]):
        assert all(not np.array_equal(*pair) for pair in zip(drawn(), other, strict=True))


def test_boxes_are_drawn_around_what_is_seen():
    """A square of 16 in 28 pixels stays a square of 16/28 of its picture, inside the scene and nearly free of others."""
    settings = FashionSceneSettings(count=30, size=128, item_px=(28, 28), distractors=(0, 0))
    for item in scenes(squares(10, 250), np.arange(10, dtype=np.uint8), 'train', settings):
        boxes = item.objects.boxes
        assert 1 <= len(boxes) <= 7
        assert np.array_equal(boxes[:, 2:] - boxes[:, :2], np.full((len(boxes), 2), 16))
        assert boxes.min() >= 0
        assert boxes.max() <= 128
        for number, box in enumerate(boxes):
            others = np.delete(boxes, number, axis=0)
            shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
            assert np.all(shared.min(axis=1) <= settings.overlap_px)


def test_validation_shows_garments_of_the_test_part_alone(garments, tmp_path, monkeypatch):
    write_idx(garments / 't10k-labels-idx1-ubyte.gz', np.full(20, 3, np.uint8))
    prepare(garments, tmp_path / 'set', SMALL)
    seen = {
        split: {int(c) for i in read_split(tmp_path / 'set', split) for c in i.objects.class_ids}
        for split in ('train', 'val')
    }
    assert seen['val'] == {3}
    assert len(seen['train']) > 3


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'count': 0}, 'count must be at least 1'),
        ({'size': 16}, 'size must be from 32 to 1024'),
        ({'items': (5, 3)}, 'items must be the smallest and the largest'),
        ({'item_px': (18, 200)}, 'the largest of item_px must be from 8 to 128'),
        ({'distractors': (-1, 3)}, 'the smallest of distractors must be from 0 to 64'),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        FashionSceneSettings(**changes)


@pytest.mark.parametrize('word', ['run', 'prepare'])
def test_without_the_garments_it_says_what_to_install(tmp_path, capsys, word):
    nowhere = tmp_path / 'nowhere'
    if word == 'prepare':
        words = ['prepare', str(nowhere), '--format', 'fashion_scenes', '--out', str(tmp_path / 'set')]
    else:
        words = ['run', 'training/recipes/s2_fashion.yaml', '--set', f'data.fashion.path={nowhere}']
        words += ['--out', str(tmp_path / 'out'), '--target', str(tmp_path / 'bundle'), '--data', str(tmp_path)]
    assert main(words) == 1
    assert 'apt install dataset-fashion-mnist' in capsys.readouterr().err


def test_prepare_writes_as_many_as_asked_for(garments, tmp_path, capsys):
    out = tmp_path / 'set'
    words = ['prepare', str(garments), '--format', 'fashion_scenes', '--out', str(out)]
    assert main([*words, '--count', '3', '--val-count', '1', '--size', '64', '--seed', '5']) == 0
    assert '{"train": 3, "val": 1}' in capsys.readouterr().out


def test_labels_and_pictures_must_belong_together(garments):
    for labels in (np.zeros(19, np.uint8), np.full(20, 10, np.uint8)):
        write_idx(garments / 'train-labels-idx1-ubyte.gz', labels)
        with pytest.raises(DataError, match='a class from 0 to 9 for each of 20 pictures'):
            read_items(garments, 'train')
    write_idx(garments / 'train-images-idx3-ubyte.gz', np.zeros((20, 32, 32), np.uint8))
    with pytest.raises(DataError, match=r'not \(N, 28, 28\)'):
        read_items(garments, 'train')


def test_an_idx_file_is_read(tmp_path):
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / 'a.gz', array)
    assert np.array_equal(read_idx(tmp_path / 'a.gz', 3), array)


GOOD = idx_bytes(np.arange(6, dtype=np.uint8))


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (GOOD, 'no gzip file'),
        (b'', 'ends too early'),
        (gzip.compress(GOOD)[:-9], 'ends too early'),
        (gzip.compress(GOOD)[:-8] + bytes(8), 'damaged'),
        (gzip.compress(b''), 'no IDX file'),
        (gzip.compress(GOOD[:6]), 'no IDX file'),
        (gzip.compress(idx_bytes(np.zeros((2, 3), np.uint8))), 'no IDX file of bytes in 1 dimensions'),
        (gzip.compress(idx_bytes(np.arange(6, dtype=np.uint8), kind=0x0D)), 'no IDX file'),
        (gzip.compress(GOOD[:-1]), 'says 6 bytes and holds 5'),
        (gzip.compress(GOOD + b'x'), 'says 6 bytes and holds 7'),
        (gzip.compress(struct.pack('>BBBBI', 0, 0, 8, 1, 2**32 - 1)), 'says 4294967295 bytes and holds 0'),
    ],
    ids=[
        'unpacked',
        'empty',
        'cut',
        'checksum',
        'nothing',
        'short head',
        'dimensions',
        'floats',
        'less',
        'more',
        'huge',
    ],
)
def test_a_file_that_is_no_idx_file_is_refused(tmp_path, content, said):
    (tmp_path / 'a.gz').write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_idx(tmp_path / 'a.gz', 1)


def test_sizes_are_limited(tmp_path, monkeypatch):
    write_idx(tmp_path / 'a.gz', np.zeros(5000, np.uint8))
    monkeypatch.setattr(idx, 'MAX_UNPACKED', 5000)
    with pytest.raises(DataError, match='unpacks to more than 5000 bytes'):
        read_idx(tmp_path / 'a.gz', 1)
    monkeypatch.setattr(idx, 'MAX_PACKED', 20)
    with pytest.raises(DataError, match='larger than 20 bytes'):
        read_idx(tmp_path / 'a.gz', 1)
