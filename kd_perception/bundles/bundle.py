"""Model bundles: a folder with `bundle.yaml` and the files that it names, checked before anything of it is used."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import yaml

from kd_perception.detection.network import InputSpec, OutputSpec, Thresholds
from kd_perception.errors import BundleError

BUNDLE_FILE = 'bundle.yaml'
SCHEMA_FILE = Path(__file__).with_name('bundle.schema.json')
MAX_BUNDLE_YAML_BYTES = 1 << 20
MAX_ARTIFACT_BYTES = 2 << 30


@dataclass(frozen=True)
class Artifact:
    """One file of the bundle: the network for one engine in one precision, with what was measured of it.

    Attributes:
        thresholds: its own `score` and `iou`, for a score of another precision means something else; what is missing is the
            bundle's. `rule` tells how they were chosen.
    """

    engine: str
    precision: str
    file: str
    sha256: str
    metrics: dict[str, Any] = field(default_factory=dict)
    made_by: str = ''
    thresholds: dict[str, Any] = field(default_factory=dict)

    @property
    def measured_map(self) -> float | None:
        """mAP50-95 as measured when the artifact was made; None where nobody measured."""
        value = self.metrics.get('map')
        return None if value is None else float(value)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Artifacts are in the author's order of preference."""

    folder: Path
    name: str
    family: str
    description: str
    licence: str
    attribution: tuple[str, ...]
    classes: tuple[str, ...]
    input: InputSpec
    output: OutputSpec
    thresholds: Thresholds
    artifacts: tuple[Artifact, ...]
    provenance: dict[str, Any]

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
        return Thresholds(own.get('score', self.thresholds.score), own.get('iou', self.thresholds.iou))

    def operated_as(self, artifact: Artifact) -> Bundle:
        """The bundle with an artifact's operating point in place of its own: what whoever runs that artifact works with."""
        return replace(self, thresholds=self.thresholds_of(artifact))

    def map_drop(self, artifact: Artifact) -> float | None:
        """Relative loss of mAP50-95 against the bundle's best artifact, 0 … 1; None where either was not measured."""
        measured = [a.measured_map for a in self.artifacts if a.measured_map is not None]
        if artifact.measured_map is None or not measured or max(measured) == 0:
            return None
        return 1.0 - artifact.measured_map / max(measured)

    def read(self, artifact: Artifact) -> bytes:
        """The artifact's bytes, hashed as they were read, so that what runs is what was checked.

        Raises:
            BundleError: the file is missing, too large, outside the folder, or its hash differs.
        """
        path = _inside(self.folder, artifact.file)
        try:
            size = path.stat().st_size
            if size > MAX_ARTIFACT_BYTES:
                raise BundleError(f'{path} is {size} bytes; the limit is {MAX_ARTIFACT_BYTES}')
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f'{path} of bundle {self.name} cannot be read: {error.strerror}') from error
        found = hashlib.sha256(content).hexdigest()
        if found != artifact.sha256:
            raise BundleError(
                f'{path} is not the file that the bundle was made with: sha256 {found[:12]}… instead of '
                f'{artifact.sha256[:12]}… ({size} bytes). It is truncated or altered; copy the bundle again'
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
        if (given / BUNDLE_FILE).is_file() or len(given.parts) > 1:
            return given
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, a zero byte
        raise BundleError(f'model {model[:60]!r} cannot be the path of a bundle: {error}') from error
    installed = installed_bundles()
    for folder in installed:
        if model == folder.name:
            return folder
    known = sorted({folder.name for folder in installed})
    raise BundleError(
        f'there is no model bundle {model!r}: give the path of a folder with a {BUNDLE_FILE}, or one of the installed bundles: '
        f'{", ".join(known) or "none"}'
    )


def installed_bundles() -> list[Path]:
    """Folders of all bundles on the shelves that `find_bundle` names, in its order; a name may be there twice."""
    prefixes = [*filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)), sys.prefix]
    shelves = [Path(prefix) / 'share' / 'kd_perception' / 'models' for prefix in prefixes]
    shelves.append(Path(__file__).resolve().parents[2] / 'models')
    found = [path.parent for shelf in shelves for path in sorted(shelf.glob(f'*/{BUNDLE_FILE}'))]
    return list(dict.fromkeys(found))


def load_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle. No artifact is read yet: `Bundle.read` does that, with its hash.

    Raises:
        BundleError: no such folder or `bundle.yaml`, not valid by the schema, or a path leaving the folder.
    """
    folder = Path(folder).expanduser()
    document = _read_document(folder)
    _validate(document, folder / BUNDLE_FILE)
    artifacts = tuple(Artifact(**a) for a in document['artifacts'])
    for artifact in artifacts:
        _inside(folder, artifact.file)
    spec = dict(document['input'])
    for key in ('mean', 'std'):
        if key in spec:
            spec[key] = tuple(float(v) for v in spec[key])
    if 0.0 in spec.get('std', ()):
        raise BundleError(f'{folder / BUNDLE_FILE}: input.std holds a 0; pixels would be divided by it')
    return Bundle(
        folder=folder,
        name=document['name'],
        family=document.get('family', document['name']),
        description=document['description'],
        licence=document['licence'],
        attribution=tuple(document.get('attribution', ())),
        classes=tuple(document['classes']),
        input=InputSpec(**spec),
        output=OutputSpec(**document['output']),
        thresholds=Thresholds(**document['thresholds']),
        artifacts=artifacts,
        provenance=document.get('provenance', {}),
    )


def write_bundle(folder: str | os.PathLike[str], document: dict[str, Any]) -> Bundle:
    """Check `document`, write it as the folder's `bundle.yaml`, and load it back.

    Raises:
        BundleError: the document is not valid, or a file that it names is missing or has another hash. Nothing is written then.
    """
    folder = Path(folder)
    target = folder / BUNDLE_FILE
    _validate(document, target)
    for entry in document['artifacts']:
        path = _inside(folder, entry['file'])
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry['sha256']:
            raise BundleError(f'{path} is missing or does not have the hash that the bundle states')
    scratch = target.with_suffix('.yaml.part')
    scratch.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), encoding='utf-8')
    scratch.replace(target)
    return load_bundle(folder)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases: a few lines of nested aliases can otherwise expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError('YAML aliases are not allowed')
        return super().compose_node(parent, index)


# A date stays the text that it is: JSON schema knows no dates.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != 'tag:yaml.org,2002:timestamp']
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / BUNDLE_FILE
    if not folder.is_dir():
        raise BundleError(f'no model bundle at {folder}: the folder does not exist')
    try:
        if path.stat().st_size > MAX_BUNDLE_YAML_BYTES:
            raise BundleError(f'{path} is larger than {MAX_BUNDLE_YAML_BYTES} bytes; that is no bundle.yaml')
        document = yaml.load(path.read_text(encoding='utf-8'), Loader=_PlainLoader)
    except FileNotFoundError as error:
        raise BundleError(f'no model bundle at {folder}: it holds no {BUNDLE_FILE}') from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BundleError(f'{path} cannot be read: {" ".join(str(error).split())}') from error
    if not isinstance(document, dict):
        raise BundleError(f'{path} is not a mapping of keys to values')
    return document


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding='utf-8')))


def _validate(document: dict[str, Any], path: Path) -> None:
    try:
        json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f'{path} holds a value that is neither text, finite number, list nor mapping: {error}'
        ) from error
    fault = jsonschema.exceptions.best_match(_validator().iter_errors(document))
    if fault is not None:
        raise BundleError(f'{path}: {fault.json_path.removeprefix("$.") or "document"}: {fault.message}')


def _inside(folder: Path, file: str) -> Path:
    """The path of `file`, which must lie in `folder` also after links were followed."""
    relative = PurePosixPath(file)
    path = folder / relative
    leaves = relative.is_absolute() or '..' in relative.parts or '\\' in file or '\0' in file
    if leaves or not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            f'artifact {file!r} lies outside its bundle {folder}; a bundle names only files in its own folder'
        )
    return path
