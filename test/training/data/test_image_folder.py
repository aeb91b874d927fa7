"""Classification sets: one folder a class; batches that depend on seed and step alone."""

import cv2
import numpy as np
import pytest

pytest.importorskip('torch')
import torch

from training.data.image_folder import Augmentation, ImageFolder, augmented, batch_indices, read_image_folder
from training.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name, color in (('car', (255, 0, 0)), ('bus', (0, 0, 255))):
        (tmp_path / name).mkdir()
        for number in range(2):
            image = np.full((20 + 40 * number, 30, 3), color, np.uint8)
            cv2.imwrite(str(tmp_path / name / f'{number}.png'), image)
    return tmp_path


def test_pictures_are_read_in_rgb_at_one_size(folder):
    data = read_image_folder(folder, 32)
    assert data.classes == ('bus', 'car')
    assert data.images.shape == (4, 3, 32, 32)
    assert data.class_ids.tolist() == [0, 0, 1, 1]
    assert data.images[0, :, 16, 16].tolist() == [255, 0, 0]  # OpenCV wrote blue, green, red
    assert data.images[2, :, 16, 16].tolist() == [0, 0, 255]


def test_classes_of_the_training_split_give_the_ids(folder):
    data = read_image_folder(folder, 32, ('van', 'car', 'bus'))
    assert data.class_ids.tolist() == [1, 1, 2, 2]


def test_a_picture_that_cannot_be_read_is_left_out(folder):
    broken = folder / 'car' / '5.jpg'
    broken.write_bytes(b'\xff\xd8\xff no picture')
    (folder / 'car' / 'notes.txt').write_text('not asked for')
    data = read_image_folder(folder, 32)
    assert len(data) == 4
    assert data.left_out == (broken,)


def test_what_is_no_classification_set_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match='no class folders'):
        read_image_folder(tmp_path / 'nowhere', 32)
    with pytest.raises(DataError, match='has the classes bus'):
        read_image_folder(folder, 32, ('car',))
    for file in folder.rglob('*.png'):
        file.unlink()
    with pytest.raises(DataError, match='no picture'):
        read_image_folder(folder, 32)


def test_each_epoch_shows_every_picture_at_most_once():
    drawn = [batch_indices(10, 3, step, seed=4).tolist() for step in range(6)]
    for epoch in (drawn[:3], drawn[3:]):
        assert len({index for batch in epoch for index in batch}) == 9
    assert drawn[:3] != drawn[3:]
    assert drawn == [batch_indices(10, 3, step, seed=4).tolist() for step in range(6)]
    with pytest.raises(DataError, match='smaller batch'):
        batch_indices(2, 3, 0, 0)


def show(images, settings, seed, step):
    """What a batch of all these pictures becomes."""
    data = ImageFolder(('any',), images, torch.zeros(len(images), dtype=torch.long))
    return augmented(data, torch.arange(len(images)), settings, seed, step)[0]


def test_augmentation_depends_on_seed_and_step_alone():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    first = show(images, Augmentation(), 1, 5)
    torch.manual_seed(99)
    assert torch.equal(first, show(images, Augmentation(), 1, 5))
    assert not torch.equal(first, show(images, Augmentation(), 1, 6))
    assert first.min() >= 0
    assert first.max() <= 1


def test_without_augmentation_a_picture_is_itself():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    nothing = Augmentation(shift=0, fliplr=0, brightness=0, contrast=0)
    torch.testing.assert_close(show(images, nothing, 0, 0), images.float() / 255)
    flipped = show(images, Augmentation(shift=0, fliplr=1, brightness=0, contrast=0), 0, 0)
    torch.testing.assert_close(flipped, images.flip(3).float() / 255)
