"""Model bundles: a folder with `bundle.yaml` and the files that it names, checked before anything of it is used."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd_perception.bundles import bundle_yaml
from kd_perception.bundles.regular_file import inside
from kd_perception.detection.network import InputSpec, OutputSpec
from kd_perception.detection.thresholds import Thresholds
from kd_perception.errors import BundleError
from kd_perception.regular_file import PATH_ERRORS, read_regular, shown, why

BUNDLE_FILE = 'bundle.yaml'
FLOAT = 'fp32'
"""Precision of a network that nothing was taken from."""
MAX_ARTIFACT_BYTES = 2 << 30
LEAST_STD = 1e-6


@dataclass(frozen=True)
class CompressionLoss:
    """What compression cost an artifact: its mAP50-95 and that of the float network that it was made from, on the same images.

    Attributes:
        float_map: of the float network, 0 … 1.
        difference: artifact minus float network, -1 … 1.
        low, high: 95 % interval of the difference, by resampling the images.
    """

    float_map: float
    difference: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """The loss as a share of the float network's mAP50-95, below 0 for a gain; 0 where that is 0."""
        return -self.difference / self.float_map if self.float_map else 0.0

    @property
    def is_shown(self) -> bool:
        """Whether the measurement can show that there is a loss: the whole interval lies below 0."""
        return self.high < 0.0


@dataclass(frozen=True)
class Artifact:
    """One file of the bundle: the network for one engine in one precision, with what was measured of it.

    Attributes:
        thresholds: its own `score` and `class_scores`, for a score of another precision means something else, and `iou`, where
            it is missing the bundle's. `rule` tells how they were chosen.
        amx: whether OpenVINO may use the processor's AMX tiles; convolutions of few channels are faster without.
    """

    engine: str
    precision: str
    file: str
    sha256: str
    metrics: dict[str, Any] = field(default_factory=dict)
    made_by: str = ''
    thresholds: dict[str, Any] = field(default_factory=dict)
    amx: bool = True

    @property
    def loss(self) -> CompressionLoss | None:
        """What compression cost; None for a float network, and where nobody measured it."""
        stated = self.metrics.get('compared_with_float')
        if stated is None or self.precision == FLOAT:
            return None
        return CompressionLoss(stated['map'], stated['difference'], *stated['interval'])

    @property
    def measured_map(self) -> float | None:
        """mAP50-95 as measured when the artifact was made; None where nobody measured."""
        value = self.metrics.get('map')
        return None if value is None else float(value)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Artifacts are in the author's order of preference.

    Attributes:
        covers: by class the finer names that it stands for, as ground truth may have them.
    """

    folder: Path
    name: str
    family: str
    description: str
    license: str
    attribution: tuple[str, ...]
    classes: tuple[str, ...]
    input: InputSpec
    output: OutputSpec
    thresholds: Thresholds
    artifacts: tuple[Artifact, ...]
    provenance: dict[str, Any]
    covers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def class_map(self) -> dict[str, str]:
        """Its class by each finer name that one covers."""
        return {finer: name for name, covered in self.covers.items() for finer in covered}

    def artifact(self, engine: str, precision: str = 'auto') -> Artifact:
        """The artifact for an engine; precision `auto` takes the author's first.

        Raises:
            BundleError: the bundle has none; the message lists what it has.
        """
        for artifact in self.artifacts:
            if artifact.engine == engine and precision in ('auto', artifact.precision):
                return artifact
        has = ', '.join(f'{a.engine}/{a.precision}' for a in self.artifacts)
        raise BundleError(f'bundle {self.name} has no artifact {engine}/{precision}; it has {has}')

    def thresholds_of(self, artifact: Artifact) -> Thresholds:
        """The operating point of an artifact: its own where it has one, else the bundle's."""
        own = artifact.thresholds
        if not own:
            return self.thresholds
        return replace(
            self.thresholds,
            score=own['score'],
            iou=own.get('iou', self.thresholds.iou),
            class_scores=own.get('class_scores', {}),
        )

    def operated_as(self, artifact: Artifact) -> Bundle:
        """The bundle with an artifact's operating point in place of its own: what whoever runs that artifact works with."""
        return replace(self, thresholds=self.thresholds_of(artifact))

    def read(self, artifact: Artifact) -> bytes:
        """The artifact's bytes, hashed as they were read, so that what runs is what was checked.

        Raises:
            BundleError: the file is missing, too large, outside the folder, or its hash differs.
        """
        path = inside(self.folder, artifact.file, BUNDLE_FILE)
        content = read_regular(path, MAX_ARTIFACT_BYTES)
        found = hashlib.sha256(content).hexdigest()
        if found != artifact.sha256:
            raise BundleError(
                f'{shown(path)} is not the file that the bundle was made with: sha256 {found[:12]}… instead of '
                f'{artifact.sha256[:12]}… ({len(content)} bytes). It is truncated or altered; copy the bundle again'
            )
        return content


def find_bundle(model: str) -> Path:
    """The folder of a bundle given as a path or as the name of one that is installed.

    A bare name is looked for in `share/kd_perception/models` of every prefix on AMENT_PREFIX_PATH, of this Python, and in the
    checkout that the package lies in.

    Raises:
        BundleError: there is no such folder; the message lists the bundles that were found.
    """
    try:
        given = Path(model).expanduser()
        if len(given.parts) > 1 or (given / BUNDLE_FILE).exists():
            return given
    except PATH_ERRORS as error:
        raise BundleError(f'there is no model bundle {shown(model)!r}: {why(error)}') from error
    installed = installed_bundles()
    for folder in installed:
        if model == folder.name:
            return folder
    known = sorted({shown(folder.name) for folder in installed})
    raise BundleError(
        f'there is no model bundle {shown(model)!r}: give the path of a folder with a {BUNDLE_FILE}, or one of the installed '
        f'bundles: {", ".join(known) or "none"}'
    )


def installed_bundles() -> list[Path]:
    """Folders of all bundles on the shelves that `find_bundle` names, in its order; a name may be there twice."""
    prefixes = [*filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)), sys.prefix]
    shelves = [Path(prefix) / 'share' / 'kd_perception' / 'models' for prefix in prefixes]
    shelves.append(Path(__file__).resolve().parents[2] / 'models')
    return list(dict.fromkeys(folder for shelf in shelves for folder in bundles_on(shelf)))


def bundles_on(shelf: Path) -> list[Path]:
    """Folders with a `bundle.yaml` in a folder, by name; none where it cannot be read."""
    try:
        return sorted(folder for folder in shelf.iterdir() if os.path.lexists(folder / BUNDLE_FILE))
    except PATH_ERRORS:
        return []


def load_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle. No artifact is read yet: `Bundle.read` does that, with its hash.

    Raises:
        BundleError: no such folder or `bundle.yaml`, not valid by the schema, or a path leaving the folder.
    """
    folder = _existing(folder)
    document = bundle_yaml.read(inside(folder, BUNDLE_FILE, BUNDLE_FILE))
    return _bundle(folder, document)


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder of a bundle, which must be one."""
    try:
        path = Path(folder).expanduser()
        is_folder, holds = path.is_dir(), os.path.lexists(path / BUNDLE_FILE)
    except PATH_ERRORS as error:
        raise BundleError(f'no model bundle at {shown(folder)}: {why(error)}') from error
    if not is_folder:
        raise BundleError(f'no model bundle at {shown(path)}: the folder does not exist')
    if not holds:
        raise BundleError(f'no model bundle at {shown(path)}: it holds no {BUNDLE_FILE} that can be read')
    return path


def _bundle(folder: Path, checked: bundle_yaml.Document) -> Bundle:
    document = checked.values
    artifacts = tuple(Artifact(**a) for a in document['artifacts'])
    for number, artifact in enumerate(artifacts):
        try:
            inside(folder, artifact.file, BUNDLE_FILE)
        except BundleError as error:
            raise checked.error(('artifacts', number, 'file'), str(error)) from error
        _check_class_scores(checked, ('artifacts', number, 'thresholds'), artifact.thresholds)
    _check_class_scores(checked, ('thresholds',), document['thresholds'])
    spec = dict(document['input'])
    for key in ('mean', 'std'):
        if key in spec:
            spec[key] = tuple(float(v) for v in spec[key])
    if any(abs(value) < LEAST_STD for value in spec.get('std', ())):
        raise checked.error(('input', 'std'), 'a 0, or nearly so, by which pixels would be divided')
    return Bundle(
        folder=folder,
        name=document['name'],
        family=document.get('family', document['name']),
        description=document['description'],
        license=document['license'],
        attribution=tuple(document.get('attribution', ())),
        classes=tuple(document['classes']),
        input=InputSpec(**spec),
        output=OutputSpec(**document['output']),
        thresholds=Thresholds(**document['thresholds']),
        artifacts=artifacts,
        provenance=document.get('provenance', {}),
        covers=_covers(checked),
    )


def _covers(checked: bundle_yaml.Document) -> dict[str, tuple[str, ...]]:
    """What the classes cover. Raises BundleError where a name would mean two classes."""
    covers = {name: tuple(covered) for name, covered in checked.values.get('covers', {}).items()}
    taken = [name.casefold() for name in checked.values['classes']]
    for name, covered in covers.items():
        if name not in checked.values['classes']:
            has = ', '.join(checked.values['classes'])
            raise checked.error(('covers', name), f'there is no such class; the bundle has {has}')
        for finer in covered:
            if finer.casefold() in taken:
                raise checked.error(('covers', name), f'{finer} is a class, or covered twice')
            taken.append(finer.casefold())
    return covers


def _check_class_scores(checked: bundle_yaml.Document, place: bundle_yaml.Place, thresholds: dict[str, Any]) -> None:
    """Raise BundleError where a threshold is that of a class that the bundle does not have."""
    for name in thresholds.get('class_scores', {}):
        if name not in checked.values['classes']:
            has = ', '.join(checked.values['classes'])
            raise checked.error((*place, 'class_scores', name), f'there is no such class; the bundle has {has}')


def write_bundle(folder: str | os.PathLike[str], document: dict[str, Any]) -> Bundle:
    """Check `document`, write it as the folder's `bundle.yaml`, and load it back.

    Raises:
        BundleError: the document is not valid, or a file that it names is missing or has another hash. Nothing is written then.
    """
    folder = Path(folder)
    target = folder / BUNDLE_FILE
    text = bundle_yaml.text_of(document)
    checked = bundle_yaml.parse(text.encode(), target)
    bundle_yaml.check(checked)
    bundle = _bundle(folder, checked)
    for artifact in bundle.artifacts:
        try:
            bundle.read(artifact)
        except BundleError as error:
            raise BundleError(f'{shown(target)} is not written: {error}') from error
    scratch = target.with_suffix('.yaml.part')
    scratch.write_text(bundle_yaml.text_of(checked.values), encoding='utf-8')
    scratch.replace(target)
    return load_bundle(folder)
