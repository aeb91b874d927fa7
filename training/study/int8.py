"""The INT8 study: networks in INT8 by every arm, each a cell, and what a detector in use cares about besides mAP."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kd_perception.bundles.bundle import Bundle, load_bundle
from kd_perception.metrics.accuracy import measure
from kd_perception.metrics.matching import judge
from kd_perception.metrics.operating_point import at_recall, calibration, operating_point, precision_recall_curve
from training.data.spread import images_for
from training.errors import StudyError
from training.measure import LOWEST_CALIBRATED_SCORE, detect_split, with_file
from training.quantize.calibration import Image
from training.quantize.fewer_bits import fewer_bits
from training.quantize.ptq import quantize
from training.quantize.qdq import MixedSettings, QuantizeSettings, ranges_of_start
from training.schema import nearest, read
from training.steps import digest
from training.study.plan import Study

FLOAT, TRAINED = 'fp32', 'qat'
SIMULATED = {'w6a6': 6, 'w6a6_per_tensor': 6, 'w5a5': 5, 'w5a5_per_tensor': 5}
"""Bits of the arms that no engine computes in; they are run where they are named."""
NO_LIMIT = 1 << 40
"""Bytes; the mixed arm is limited by its number of layers."""


def arms_of(mixed_layers: int) -> dict[str, QuantizeSettings | None]:
    """The arms by name. Each is min-max per channel with one thing changed; from `head_float` on, the last convolutions of the
    head's branches are in float, as the recipe's default has them."""
    return {
        FLOAT: None,
        'per_tensor': QuantizeSettings(per_channel=False, last_convolutions_float=False),
        'per_channel': QuantizeSettings(last_convolutions_float=False),
        'entropy': QuantizeSettings(method='entropy', last_convolutions_float=False),
        'percentile': QuantizeSettings(method='percentile', last_convolutions_float=False),
        'head_float': QuantizeSettings(),
        'percentile_head_float': QuantizeSettings(method='percentile'),
        'mixed': QuantizeSettings(mixed=MixedSettings(NO_LIMIT, most_layers=mixed_layers)),
        TRAINED: QuantizeSettings(),
        **{
            name: QuantizeSettings(per_channel=not name.endswith('per_tensor'), last_convolutions_float=False)
            for name in SIMULATED
        },
    }


@dataclass(frozen=True)
class Network:
    """One network of the study.

    Attributes:
        name: `teacher`, `student`, `distilled` …; networks of one name are repetitions.
        seed: which repetition.
        bundle: folder with the float network.
        trained: weights file of quantization-aware training that began at the float network; None leaves that arm out.
    """

    name: str
    seed: int
    bundle: Path
    trained: Path | None = None


def networks_of(given: Sequence[str], trained: Sequence[str]) -> list[Network]:
    """Networks as people give them, `NAME=BUNDLE` or `NAME@SEED=BUNDLE`, and likewise their weights of QAT.

    Raises:
        StudyError: another form, a network twice, or weights of a network that is not given.
    """
    bundles, weights = _pairs(given), _pairs(trained)
    for key in weights.keys() - bundles.keys():
        names = [f'{name}@{seed}' for name, seed in bundles]
        raise StudyError(
            f'there are weights of {key[0]}@{key[1]}, but no such network{nearest(f"{key[0]}@{key[1]}", names)}'
        )
    return [Network(*key, path, weights.get(key)) for key, path in bundles.items()]


def _pairs(given: Sequence[str]) -> dict[tuple[str, int], Path]:
    found: dict[tuple[str, int], Path] = {}
    for text in given:
        label, _, path = text.partition('=')
        name, _, seed = label.partition('@')
        if not (name and path and (seed.isdecimal() or '@' not in label)):
            raise StudyError(f'{text!r} is neither NAME=PATH nor NAME@SEED=PATH, such as distilled@0=models/mine')
        key = name, int(seed or 0)
        if key in found:
            raise StudyError(f'{name}@{key[1]} is given twice')
        found[key] = Path(path)
    return found


@dataclass(frozen=True)
class Measuring:
    """How all networks are quantized and measured.

    Attributes:
        dataset: folder of the data set; ranges come from its train split.
        split: that is measured.
        images: number of calibration images.
        recall: at which precision and false alarms are compared, for scores of different networks mean different things.
        mixed_layers: most layers that the arm `mixed` leaves in float.
    """

    dataset: Path
    split: str = 'val'
    images: int = 64
    recall: float = 0.9
    mixed_layers: int = 6

    def __post_init__(self) -> None:
        """Raises StudyError for values that mean nothing."""
        if not 0 < self.recall <= 1:
            raise StudyError(f'a recall lies above 0 and is at most 1, not {self.recall:g}')
        if self.images < 1 or self.mixed_layers < 1:
            raise StudyError('calibration images and layers of the mixed arm are 1 or more')


def study_of(network: Network, measuring: Measuring, folder: Path, arms: Sequence[str] = ()) -> Study:
    """The cells of one network: its arms, with its seed.

    Args:
        network: the network.
        measuring: how.
        folder: of the whole study.
        arms: names of some of them; empty takes all but the simulated. The float network always joins, `qat` where there are
            weights.

    Raises:
        StudyError: no such arm.
        BundleError: no bundle, or one without a float network.
    """
    known = arms_of(measuring.mixed_layers)
    for name in arms:
        if name not in known:
            raise StudyError(f'there is no arm {name!r}{nearest(name, known)}; arms are {", ".join(known)}')
    chosen = [name for name in known if (name in arms if arms else name not in SIMULATED) or name == FLOAT]
    arguments: dict[str, dict[str, Any]] = {}
    for name in chosen:
        if name == TRAINED and network.trained is None:
            continue
        settings = known[name]
        arguments[name] = {
            'arm': name,
            'settings': None if settings is None else asdict(settings),
            'trained': _digest(network.trained) if name == TRAINED and network.trained else None,
            **({'bits': SIMULATED[name]} if name in SIMULATED else {}),
        }
    bundle = load_bundle(network.bundle)
    return Study(
        folder=folder / network.name,
        job=run_cell,
        arms=arguments,
        seeds=(network.seed,),
        baseline=FLOAT,
        places={
            'bundle': str(network.bundle.resolve()),
            'weights': None if network.trained is None else str(network.trained.resolve()),
            'dataset': str(measuring.dataset.resolve()),
            'networks': str((folder / network.name / 'networks').resolve()),
            'split': measuring.split,
            'images': measuring.images,
            'recall': measuring.recall,
        },
        depends_on={
            'network': bundle.artifact('onnxruntime', FLOAT).sha256,
            'thresholds': asdict(bundle.thresholds_of(bundle.artifact('onnxruntime', FLOAT))),
            'data': data_hash(measuring.dataset, ('train', measuring.split)),
            'measuring': [measuring.split, measuring.images, measuring.recall],
        },
    )


def _digest(file: Path) -> str:
    try:
        return digest(file)
    except OSError as error:
        raise StudyError(f'{file} cannot be read: {error.strerror}') from error


def data_hash(dataset: Path, splits: Sequence[str]) -> str:
    """Of labels, and of the names and sizes of images."""
    content = hashlib.sha256()
    for split in dict.fromkeys(splits):
        for file in sorted((dataset / 'images' / split).glob('*')):
            content.update(f'{file.name} {file.stat().st_size}\n'.encode())
        for file in (*sorted((dataset / 'labels' / split).glob('*')), dataset / 'annotations' / f'{split}.json'):
            if file.is_file():
                content.update(file.read_bytes())
    return content.hexdigest()


def run_cell(
    *,
    bundle: str,
    weights: str | None,
    dataset: str,
    networks: str,
    split: str,
    images: int,
    recall: float,
    arm: str,
    settings: Mapping[str, Any] | None,
    trained: str | None,
    seed: int,
    threads: int,
    bits: int = 8,
) -> dict[str, Any]:
    """Quantize by an arm, detect on the split through the runtime's path, and tell what the detector is worth.

    The threshold is the float network's. Where no threshold reaches the recall, its precision and false alarms are NaN.
    """
    loaded = load_bundle(bundle)
    float_artifact = loaded.artifact('onnxruntime', FLOAT)
    loaded = loaded.operated_as(float_artifact)
    source, notes = loaded.folder / float_artifact.file, {}
    one = with_file(loaded, source, FLOAT)
    if settings is not None:
        wanted = read(QuantizeSettings, settings, 'int8')
        target = Path(networks) / f'{arm}_seed{seed}.onnx'
        target.parent.mkdir(parents=True, exist_ok=True)
        pictures = images_for(loaded, Path(dataset), 'train', images)
        if trained is None:
            left = quantize(source, target, pictures, wanted)
        else:
            left = quantize_trained(loaded, source, Path(str(weights)), target, pictures, wanted)
        if bits < 8:
            fewer_bits(target, bits)
        notes = {'float_nodes': left}
        one = with_file(loaded, target, 'int8')
    return {**behavior(one, Path(dataset), split, recall, threads), **notes}


def quantize_trained(
    bundle: Bundle, source: Path, weights: Path, target: Path, images: Sequence[Image], settings: QuantizeSettings
) -> list[str]:
    """Quantize weights of quantization-aware training with the ranges that it began with: the float network's extremes.

    Raises:
        QuantizationError: the weights are of another network than the bundle's.
    """
    from training.export.onnx_export import export
    from training.models.weights import load_network

    network, _ = load_network(weights)
    exported = target.with_suffix('.float.onnx')
    export(network, bundle.input.width, bundle.input.height, exported)
    return quantize(exported, target, images, settings, ranges_of_start(source, exported, images, settings))


def behavior(bundle: Bundle, dataset: Path, split: str, recall: float, threads: int) -> dict[str, Any]:
    """Figures of the only artifact of a bundle, and its curves as notes."""
    artifact = bundle.artifacts[0]
    found, truth = detect_split(bundle, artifact, dataset, split, threads=threads)
    threshold = bundle.thresholds.score
    most = bundle.output.max_detections
    accuracy = measure(found, truth, bundle.classes, score_threshold=threshold, max_detections=most)
    judged = judge(found, truth, len(bundle.classes))
    point, fixed = operating_point(judged, threshold), at_recall(judged, recall)
    trust = calibration(judged, LOWEST_CALIBRATED_SCORE)
    return {
        'map50': accuracy.map50,
        'map': accuracy.map,
        'precision_at_recall': math.nan if fixed is None else fixed.precision,
        'at_recall_false_alarms': math.nan if fixed is None else fixed.false_alarms_per_image,
        'precision': point.precision,
        'recall': point.recall,
        'false_alarms': point.false_alarms_per_image,
        'd_ece': trust.error,
        'file_mib': (bundle.folder / artifact.file).stat().st_size / 2**20,
        'curve': precision_recall_curve(judged),
        'bins': [asdict(one) for one in trust.bins],
        'threshold_at_recall': None if fixed is None else fixed.threshold,
    }
