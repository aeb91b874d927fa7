"""Which folders and pictures a YOLO data set names as its splits: what data.yaml says is what is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kd_perception.bags.sources import IMAGE_SUFFIXES
from kd_perception.plain_yaml import plain_yaml
from training.data.picture import Level, Problems, images_below, read_text
from training.errors import DataError

_USUAL_NAME = re.compile(r'(train|val|test)(?:ing|id|idation|-?\d.*|-dev.*)?', re.IGNORECASE)


@dataclass(frozen=True)
class SplitPicture:
    """A picture of a split: its file, and its name, which is its own within the split."""

    file: Path
    name: str
    split: str


def read_yaml(folder: Path) -> Mapping[str, Any]:
    """The data set's data.yaml; empty where there is none. Numbers are texts.

    Raises:
        DataError: it is no such file.
    """
    file = yaml_of(folder)
    if file is None:
        return {}
    try:
        document = plain_yaml(read_text(file))
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f'{file} names no classes, for it cannot be read: {" ".join(str(error).split())}') from error
    return document if isinstance(document, dict) else {}


def yaml_of(folder: Path) -> Path | None:
    """The file itself."""
    return next((file for name in ('data.yaml', 'data.yml') if (file := folder / name).is_file()), None)


def pictures_of(folder: Path, document: Mapping[str, Any], problems: Problems) -> list[SplitPicture]:
    """The pictures of every split that data.yaml names; where it names none, those of the usual folders.

    Raises:
        DataError: a folder that it names is not there, or lies outside the data set.
    """
    keys = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test'}
    named = {key: _listed(document[key]) for key in keys if document.get(key)}
    if not named:
        return [picture for split, place in _usual(folder, problems) for picture in _below([place], split)]
    base = _base(folder, document, problems)
    found: list[SplitPicture] = []
    for key, entries in named.items():
        places = [place for entry in entries if (place := _place(folder, base, key, entry, problems)) is not None]
        lists = [place for place in places if place.is_file()]
        found += _below([place for place in places if place.is_dir()], keys[key])
        found += [picture for file in lists for picture in _of_list(file, folder, base, keys[key], problems)]
    _note_unnamed(folder, found, problems)
    return found


def label_file(folder: Path, picture: Path) -> Path:
    """Where the labels of a picture lie: in `labels` in the place of the last `images` of its path, else beside it."""
    parts = list(picture.relative_to(folder).with_suffix('.txt').parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == 'images':
            parts[at] = 'labels'
            break
    return folder.joinpath(*parts)


def _listed(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _base(folder: Path, document: Mapping[str, Any], problems: Problems) -> Path:
    """What the entries are relative to: `path`, where that folder is there; data sets are moved."""
    stated = document.get('path')
    if not stated or (folder / str(stated)).resolve() == folder.resolve():
        return folder
    place = _inside(folder, folder / str(stated))
    if place is not None and place.is_dir():
        return place
    text = f'path: {stated} is not here or another folder; taken as the folder of data.yaml'
    problems.add('data.yaml of another place', folder / 'data.yaml', text, Level.NOTE)
    return folder


def _place(folder: Path, base: Path, key: str, entry: str, problems: Problems) -> Path | None:
    """A folder or list that data.yaml names; None where only the test pictures were not delivered."""
    # Exports of Roboflow say ../train/images and mean train/images, as Ultralytics does.
    tried = [base / entry, *([base / entry[3:]] if entry.startswith('../') else []), folder / entry]
    inside = [own for place in tried if (own := _inside(folder, place)) is not None]
    place = next((place for place in inside if place.exists()), None)
    if place is not None:
        return place
    if key == 'test':
        problems.add('folder that is not there', 'data.yaml', f'test: {entry}', Level.NOTE)
        return None
    if not inside:
        raise DataError(
            f'data.yaml of {folder} names {key}: {entry}, which lies outside; give the folder that holds it all'
        )
    raise DataError(f'data.yaml of {folder} names {key}: {entry}, but there is no such folder or list')


def _below(places: list[Path], split: str) -> list[SplitPicture]:
    """The pictures of folders; with several folders, their names tell them apart."""
    if not places:
        return []
    common = Path(os.path.commonpath(places)) if len(set(places)) > 1 else places[0]
    return [
        SplitPicture(file, file.relative_to(common).as_posix(), split)
        for place in dict.fromkeys(places)
        for file in images_below(place)
    ]


def _of_list(file: Path, folder: Path, base: Path, split: str, problems: Problems) -> Iterator[SplitPicture]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        entry = line.strip()
        if not entry:
            continue
        tried = (file.parent / entry, base / entry, folder / entry)
        inside = [own for place in tried if (own := _inside(folder, place)) is not None]
        found = next((place for place in inside if place.is_file()), None)
        if found is None or found.suffix.lower() not in IMAGE_SUFFIXES:
            problems.add('picture that is listed and not there', f'{file.name}:{number}', entry[:200])
            continue
        yield SplitPicture(found, found.relative_to(folder).as_posix(), split)


def _inside(folder: Path, place: Path) -> Path | None:
    """The place below the folder, without dots; None where they lead out. Links are the user's own, and followed."""
    below = os.path.relpath(os.path.normpath(place.absolute()), os.path.normpath(folder.absolute()))
    return None if below.split(os.sep)[0] == os.pardir else folder / below


def _usual(folder: Path, problems: Problems) -> Iterator[tuple[str, Path]]:
    """Folders by their names, where nothing names them: images/train, train/images, images/validation, val2017 …"""
    places = [place for place in sorted((folder / 'images').glob('*')) if place.is_dir()]
    places += [place for place in sorted(folder.glob('*/images')) if place.is_dir()]
    for place in places:
        name = place.parent.name if place.name == 'images' else place.name
        match = _USUAL_NAME.fullmatch(name)
        if match is not None:
            yield match[1].lower(), place
        elif images_below(place):
            text = 'its name is that of no split: name it in data.yaml'
            problems.add('pictures that no split names', place.relative_to(folder), text, Level.FAULT)


def _note_unnamed(folder: Path, found: list[SplitPicture], problems: Problems) -> None:
    """Folders of pictures that data.yaml does not name: left out, but not without a word."""
    named = {picture.file.parent for picture in found}
    for place in [*(folder / 'images').glob('*'), *folder.glob('*/images')]:
        if place.is_dir() and not any(place == one or place in one.parents for one in named) and images_below(place):
            text = 'data.yaml does not name them; left out'
            problems.add('pictures that no split names', place.relative_to(folder), text, Level.NOTE)
