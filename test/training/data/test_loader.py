"""Batches depend on seed and position alone; labels that are wrong are refused, those that reach too far are cut."""

import dataclasses
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import SIZE, write_pictures

torch = pytest.importorskip('torch')

from training.data.augment import AugmentSettings  # noqa: E402
from training.data.loader import Batches, BatchPlan, ImageSet  # noqa: E402
from training.data.picture_cache import InMemory  # noqa: E402
from training.data.yolo_labels import clip_boxes, label_file, read_yolo_labels  # noqa: E402
from training.errors import DataError  # noqa: E402

STILL = AugmentSettings(mosaic=0, scale=0, translate=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp('pictures'), 10)


def image_set(files, augment=None, **options):
    return ImageSet(files, 2, SIZE, augment or AugmentSettings(), **options)


def plans(first, last, batch=4, spare=0):
    return iter(
        [
            BatchPlan(range(step * batch, (step + 1) * batch), range(step * spare, (step + 1) * spare), True)
            for step in range(first, last)
        ]
    )


def same(first, second):
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ('images', 'image_ids', 'class_ids', 'boxes')
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_a_batch_does_not_depend_on_those_before_it(pictures, workers):
    images = image_set(pictures)
    whole = list(Batches(images, None, 3, 0).iterate(plans(0, 4)))
    rest = list(Batches(image_set(pictures), None, 3, workers).iterate(plans(2, 4)))
    assert len(rest) == 2
    assert all(same(*pair) for pair in zip(whole[2:], rest, strict=True))


def test_two_shares_of_a_batch_are_the_batch(pictures):
    batches = Batches(image_set(pictures), None, 3, 0)
    whole = next(batches.iterate(iter([BatchPlan(range(4), range(0), True)])))
    halves = list(batches.iterate(iter([BatchPlan(range(start, start + 2), range(0), True) for start in (0, 2)])))
    assert torch.equal(whole.images, torch.cat([half.images for half in halves]))


def test_another_seed_gives_other_batches(pictures):
    first, second = (next(Batches(image_set(pictures), None, seed, 0).iterate(plans(0, 1))) for seed in (3, 4))
    assert not torch.equal(first.images, second.images)


def test_every_epoch_shows_every_image_once_in_another_order(pictures):
    images = image_set(pictures, STILL)
    batches = list(Batches(images, None, 3, 0).iterate(plans(0, 4, batch=5)))
    shown = torch.cat([batch.images for batch in batches]).flatten(1)
    originals = [images._image(index)[..., ::-1].transpose(2, 0, 1) for index in range(len(images))]
    wanted = torch.stack([torch.from_numpy(image.copy()) for image in originals]).flatten(1)
    orders = [[int((wanted == row).all(1).nonzero()) for row in part] for part in shown.split(10)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 2
    assert orders[0] != orders[1]


def test_global_random_numbers_are_left_alone(pictures):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    list(Batches(image_set(pictures), None, 3, 0).iterate(plans(0, 2)))
    drawn = random.random(), np.random.random(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert drawn == (random.random(), np.random.random(), torch.rand(1))


def test_boxes_lie_on_their_rectangles_after_augmentation(pictures):
    """The rectangles are the only strongly coloured pixels: their mean place is the mean of the boxes."""
    augment = AugmentSettings(mosaic=0, scale=0.2, translate=0.1, fliplr=0.5, flipud=0.5, hsv_h=0, hsv_s=0, hsv_v=0)
    for batch in Batches(image_set(pictures, augment), None, 3, 0).iterate(plans(0, 3)):
        for number, image in enumerate(batch.images.int()):
            boxes = batch.boxes[batch.image_ids == number] * SIZE
            colored = (image.max(0).values - image.min(0).values > 150).nonzero().float()
            if len(boxes) == 1 and len(colored) > 100:
                center = (colored.min(0).values + colored.max(0).values + 1) / 2
                assert boxes[0, :2].tolist() == pytest.approx(center.flip(0).tolist(), abs=1.5)


def test_mosaics_do_not_mix_labelled_and_unlabelled_images(pictures, tmp_path):
    """All unlabelled pictures are white: no batch may show white beside a rectangle."""
    (tmp_path / 'images').mkdir()
    white = [tmp_path / 'images' / f'{number}.png' for number in range(4)]
    for file in white:
        cv2.imwrite(str(file), np.full((SIZE, SIZE, 3), 255, np.uint8))
    augment = AugmentSettings(mosaic=1, scale=0, translate=0, hsv_h=0, hsv_s=0, hsv_v=0)
    batches = Batches(image_set(pictures, augment), image_set(white, augment, labelled=False), 3, 0)
    for batch in batches.iterate(plans(0, 4, spare=2)):
        assert batch.labelled == 4
        assert len(batch.images) == 6
        assert (batch.image_ids < 4).all()
        is_white = (batch.images == 255).all(1).flatten(1).any(1)
        assert is_white.tolist() == [False] * 4 + [True] * 2


def test_mosaics_end(pictures):
    images = image_set(pictures, AugmentSettings(mosaic=1, scale=0, translate=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0))
    ended = BatchPlan(range(4), range(0), False)
    batch = next(Batches(images, None, 3, 0).iterate(iter([ended])))
    assert batch.image_ids.tolist() == [0, 1, 2, 3]
    assert batch.boxes[:, 2:].prod(1) * SIZE**2 == pytest.approx(16 * 32, abs=1)


def test_large_sets_are_decoded_as_they_are_needed(pictures):
    kept = image_set(pictures)
    read = image_set(pictures, cache=InMemory(1000))
    for position in range(5):
        first, second = (images.sample(position, (3, position), mosaic=True) for images in (kept, read))
        assert torch.equal(first['img'], second['img'])


def test_oblong_images_are_scaled_to_their_longer_side(tmp_path):
    files = write_pictures(tmp_path, 1)
    cv2.imwrite(str(files[0]), np.full((32, 128, 3), 200, np.uint8))
    sample = image_set(files, STILL).sample(0, (1,), mosaic=False)
    rows = (sample['img'] == 200).all(0).any(1).nonzero()
    assert len(rows) == SIZE // 4


def test_unreadable_images_are_left_out_and_counted(tmp_path, caplog):
    files = write_pictures(tmp_path, 3)
    files[1].write_bytes(b'no image')
    images = image_set(files)
    assert images.files == [files[0], files[2]]
    assert '1 of 3 images cannot be read and are left out' in caplog.text
    for file in files:
        file.write_bytes(b'')
    with pytest.raises(DataError, match='none of 3 images can be read'):
        image_set(files)


def test_an_image_that_breaks_off_inside_is_named(tmp_path):
    files = write_pictures(tmp_path, 2)
    files[0].write_bytes(files[0].read_bytes()[:60])
    images = image_set(files)
    with pytest.raises(DataError, match=r'0\.png: .*; remove it, or write it anew'):
        images.sample(0, (1,), mosaic=False)


def test_no_label_at_all_names_the_place_where_they_are_expected(tmp_path):
    files = write_pictures(tmp_path, 2)
    for file in (tmp_path / 'labels').iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r'none of 2 images has a labelled object; .*labels.0\.txt'):
        image_set(files)


def test_an_empty_list_of_images():
    with pytest.raises(DataError, match='no image to train on'):
        image_set([])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('0 0.5 0.5 0.1', 'every line must be "class cx cy w h"'),
        ('car 0.5 0.5 0.1 0.1', 'every line must be "class cx cy w h"'),
        ('0 0.5 0.5 0.1 0.1 0.1\n' * 5, 'every line must be "class cx cy w h"'),
        ('0 0.5 nan 0.1 0.1', 'not finite or has a negative size'),
        ('0 0.5 0.5 -0.1 0.1', 'not finite or has a negative size'),
        ('2 0.5 0.5 0.1 0.1', 'class 2, but there are 2 classes, 0 to 1'),
        ('-1 0.5 0.5 0.1 0.1', 'class -1, but there are 2 classes'),
        ('0.5 0.5 0.5 0.1 0.1', 'class 0.5, but there are 2 classes'),
    ],
)
def test_wrong_labels_are_refused(tmp_path, text, message):
    file = tmp_path / 'labels.txt'
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo_labels(file, 2)


def test_labels_that_are_read(tmp_path):
    file = tmp_path / 'labels.txt'
    file.write_text('1 0.5 0.25 0.1 0.2\n\n')
    assert read_yolo_labels(file, 2).tolist() == [pytest.approx([1, 0.5, 0.25, 0.1, 0.2])]
    file.write_text('')
    assert read_yolo_labels(file, 2).shape == (0, 5)
    assert read_yolo_labels(tmp_path / 'none.txt', 2).shape == (0, 5)


@pytest.mark.parametrize(
    ('image', 'labels'),
    [
        ('/data/images/train/a.jpg', '/data/labels/train/a.txt'),
        ('/images/set/images/a.b.png', '/images/set/labels/a.b.txt'),
        ('/data/a.jpg', '/data/a.txt'),
    ],
)
def test_where_labels_are(image, labels):
    assert label_file(Path(image)) == Path(labels)


def test_boxes_out_of_the_image(tmp_path, caplog):
    rows = np.array([[0, 0.0, 0.5, 0.4, 0.2], [1, 1.5, 0.5, 0.4, 0.2], [0, 0.5, 0.5, 0.2, 0.2]], np.float32)
    kept, cut, gone = clip_boxes(rows)
    assert kept.tolist() == [pytest.approx([0, 0.1, 0.5, 0.2, 0.2]), pytest.approx([0, 0.5, 0.5, 0.2, 0.2])]
    assert (cut, gone) == (1, 1)
    files = write_pictures(tmp_path, 1)
    (tmp_path / 'labels' / '0.txt').write_text('0 0 0.5 0.4 0.2\n1 1.5 0.5 0.4 0.2\n')
    image_set(files)
    assert '1 boxes reached out of their images and are cut, 1 lay outside and are gone' in caplog.text


number = st.floats(-2, 3, width=32)
size = st.floats(0, 3, width=32)


@given(st.lists(st.tuples(st.just(0.0), number, number, size, size), max_size=5))
def test_cut_boxes_lie_inside_and_none_is_invented(rows):
    rows = np.array(rows, np.float32).reshape(-1, 5)
    kept, cut, gone = clip_boxes(rows)
    assert len(kept) + gone == len(rows)
    assert cut <= len(kept)
    first, last = kept[:, 1:3] - kept[:, 3:] / 2, kept[:, 1:3] + kept[:, 3:] / 2
    assert (first >= -1e-6).all()
    assert (last <= 1 + 1e-6).all()
    assert (kept[:, 3:] > 0).all()


def test_a_broken_image_is_left_out_where_the_settings_say_so(tmp_path, caplog):
    files = write_pictures(tmp_path, 3)
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(DataError, match=r'1\.png.*remove it'):
        ImageSet(files, 2, SIZE, AugmentSettings()).picture(1)
    images = ImageSet(files, 2, SIZE, AugmentSettings(), skip_broken=True)
    for _ in range(2):
        assert (images.picture(1)[0] == images.picture(2)[0]).all()
    assert caplog.text.count('left out') == 1
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match='none of 3 images can be read'):
        ImageSet(files, 2, SIZE, AugmentSettings(), skip_broken=True).picture(0)


def test_mixup_shows_the_objects_of_two_pictures_until_mosaics_end(pictures):
    def objects(**augment):
        images = image_set(pictures, dataclasses.replace(STILL, **augment))
        plan = [BatchPlan(range(4), range(0), mosaic) for mosaic in (True, False)]
        return [len(batch.boxes) for batch in Batches(images, None, 3, 0).iterate(iter(plan))]

    assert objects() == [4, 4]
    assert objects(mixup=1.0) == [8, 4]
