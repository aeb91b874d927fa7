"""What a recipe needs, before anything is done."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip('torch')

from training.run.estimate import data_needed
from training.run.recipe import load_recipe

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ('folders', 'says'),
    [
        ({'images/train': 3, 'images/val': 2}, 'there, about 3 training images'),
        ({'train/images': 4, 'valid/images': 1}, 'there, about 4 training images'),
        ({'images': 5}, 'there, about 5 training images'),
        ({}, 'MISSING, about 1,000 training images'),
    ],
)
def test_pictures_of_the_train_split_are_counted(folders, says, tmp_path):
    for folder, count in folders.items():
        (tmp_path / 'photos' / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / 'photos' / folder / f'{number}.jpg').touch()
    document = yaml.safe_load((REPOSITORY / 'training/recipes/s2_fashion.yaml').read_text())
    document['data']['photos'] = {'format': 'yolo', 'path': 'photos', 'classes': ['car']}
    document['unlabelled'] = {'flight': {'path': 'flight'}}
    file = tmp_path / 'recipe.yaml'
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    needed = {data.name: str(data) for data in data_needed(load_recipe(file), tmp_path)}
    assert needed['photos'].endswith(says)
    assert needed['fashion'].endswith('about 2,000 training images')
    assert needed['flight'].endswith('flight: MISSING')
