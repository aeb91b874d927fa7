"""The work of each step of a run: every function reads files, calls the room that knows how, and writes files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_perception.bundles.bundle import Bundle
from training.data.dataset import Image, read_classes
from training.data.sampling import ImageRange, training_images
from training.data.sources import SourceSettings
from training.data.sources import prepare as prepare_source
from training.data.spread import letterboxed, spread_images
from training.data.unlabelled import UnlabelledSettings
from training.data.unlabelled import extract as extract_pictures
from training.errors import RecipeError, WeightsError
from training.prune.pruning import PruneSettings
from training.quantize import ptq, qdq
from training.quantize.calibration import calibration_hash
from training.run.recipe import ExportRecipe, Recipe, StageRecipe
from training.steps import Result, digest

WEIGHTS = 'weights.pt'
LEAST_TEACHER_MAP = 0.001
"""A teacher below it was not trained, or not on these classes."""


def prepare(settings: SourceSettings, data: Path, target: Path) -> Result:
    """A labelled set in our form."""
    return dict(prepare_source(settings, data, target))


def extract(settings: UnlabelledSettings, source: Path, target: Path) -> Result:
    """Pictures from a bag, a video or a folder."""
    return {'images': extract_pictures(source, target, settings)}


def train(
    stage: StageRecipe,
    folder: Path,
    *,
    start: Path | str,
    teachers: Mapping[str, Path],
    teacher_maps: Mapping[str, float],
    unpruned: str | None,
    sets: Mapping[str, Path],
    classes_of: Path,
    seed: int,
    sample: tuple[str, int],
    backbone: Path | None = None,
    bundle: Path | None = None,
    answers: Path | None = None,
    calibration: Sequence[Image] | None = None,
    quantized: qdq.QuantizeSettings | None = None,
) -> Result:
    """Train a stage; goes on from its last checkpoint.

    Args:
        start: weights, or an architecture.
        teachers: their weights by name; the name of a single one is empty.
        teacher_maps: mAP50-95 of those that were measured, 0 … 1.
        unpruned: the teacher that the student was pruned from, so that channels can be matched by index; None: none.
        sets: folders of the image sets by name.
        classes_of: the set whose classes are trained, and on whose val split a training may measure itself.
        sample: how images are drawn where a set has more than the stage takes, and the seed of that; see `data.sampling`.
        backbone: a classifier's weights, whose backbone a fresh network begins with.
        bundle: a bundle of ours, with whose float network a fresh one begins.
        answers: folder where what teachers say is kept for all stages, arms and seeds, if `distill` says so.
        calibration: images that set the ranges in which the network trains as INT8 will compute; None trains in float.
        quantized: how INT8 will compute.
    """
    from training.fit.detector import fit_detector
    from training.fit.job import FitJob
    from training.models.starts import fresh_yolov4, of_bundle
    from training.models.weights import load_network, read_kept
    from training.quantize.qat import prepare_qat

    assert stage.fit is not None
    classes = read_classes(classes_of)
    _check_classes({name: sets[name] for name in stage.images}, classes)
    _check_teachers(teacher_maps)
    images = _images_of(stage.images, sets, sample)
    student: Any = start
    if backbone is not None or stage.anchors:
        boxes_of = images if stage.anchors else []
        student = fresh_yolov4(str(start), classes, backbone, boxes_of, stage.fit.image_size, seed)
    elif bundle is not None:
        student = of_bundle(str(start), classes, bundle, images, stage.fit.image_size)
    elif calibration is not None:
        student = prepare_qat(load_network(Path(start))[0], calibration, quantized or qdq.QuantizeSettings())
    job = FitJob(
        student=student,
        classes=classes,
        images=images,
        unlabelled=_images_of(stage.unlabelled, sets, sample),
        settings=stage.fit,
        seed=seed,
        teacher=teachers.get(''),
        teacher_map=teacher_maps.get(''),
        distill=stage.distill,
        sparsity=stage.sparsity,
        kept=read_kept(start) if isinstance(start, Path) and unpruned is not None else None,
        teachers={name: file for name, file in teachers.items() if name},
        teacher_maps={name: measured for name, measured in teacher_maps.items() if name},
        kept_of=unpruned or '',
        answers=answers,
        validation=classes_of,
    )
    result = fit_detector(job, folder)
    notes: Result = {'steps': result.steps, 'weights': digest(result.weights)}
    if '' in teacher_maps:
        notes['teacher_map'] = teacher_maps['']
    elif teacher_maps:
        notes['teacher_maps'] = dict(teacher_maps)
    return notes


def _check_classes(sets: Mapping[str, Path], classes: Sequence[str]) -> None:
    for name, folder in sets.items():
        known = read_classes(folder)
        if tuple(known) != tuple(classes):
            raise RecipeError(f'the set {name} has the classes {", ".join(known)}, not {", ".join(classes)}')


def _check_teachers(measured: Mapping[str, float]) -> None:
    for name, accuracy in measured.items():
        if accuracy < LEAST_TEACHER_MAP:
            raise RecipeError(
                f'the teacher {name + " " if name else ""}finds next to nothing on the validation pictures (mAP50-95 '
                f'{100 * accuracy:.2f} %): it cannot teach; train it longer'
            )


def _images_of(wanted: Mapping[str, ImageRange], sets: Mapping[str, Path], sample: tuple[str, int]) -> list[Path]:
    return [path for name, some in wanted.items() for path in training_images(sets[name], some, *sample)]


def classify(
    stage: StageRecipe,
    folder: Path,
    *,
    start: Path | str,
    teacher: Path | None,
    pictures: Sequence[Path],
    seed: int,
) -> Result:
    """Train a classifier; goes on from its last checkpoint.

    Args:
        start: a backbone's name for fresh weights, or a classifier's weights.
        teacher: another classifier's weights.
        pictures: classification sets, taken together.
    """
    from training.data.image_folder import read_splits
    from training.fit.classifier import ClassifyJob, accuracy, fit_classifier
    from training.models.yolov4.classifier_files import load_classifier

    assert stage.classify is not None
    settings = stage.classify.fit
    file = start if isinstance(start, Path) else None
    backbone = load_classifier(file)[0].name if file is not None else str(start)
    job = ClassifyJob(backbone, settings, seed, file, teacher, stage.classify.method)
    centred = settings.augment.crop is not None
    weights = fit_classifier(job, read_splits(pictures, ('train',), settings.size, centred=centred), folder)
    measured = read_splits(pictures, ('val',), settings.size, centred=centred)
    return {'top1': accuracy(weights, measured), 'weights': digest(weights)}


def prune(settings: PruneSettings, weights: Path, folder: Path, size: ExportRecipe) -> Result:
    """Remove channels."""
    from training.models.weights import load_network, save_weights
    from training.prune.pruning import prune as prune_network

    network, classes = load_network(weights)
    pruned = prune_network(network, settings, size.width, size.height)
    save_weights(pruned.network, folder / WEIGHTS, classes)
    return {
        'ratio': round(pruned.ratio, 4),
        'parameters': [pruned.before.parameters, pruned.after.parameters],
        'gflops': [round(pruned.before.gflops, 3), round(pruned.after.gflops, 3)],
        'weights': digest(folder / WEIGHTS),
    }


def average(files: Sequence[Path], target: Path) -> Result:
    """Average the weights of networks."""
    from training.models.averaging import averaged
    from training.models.weights import load_network, save_weights

    networks = [load_network(file) for file in files]
    _, classes = networks[0]
    for file, (_, others) in zip(files, networks, strict=True):
        if others != classes:
            raise WeightsError(f'{file} knows the classes {", ".join(others)}, not {", ".join(classes)}')
    save_weights(averaged([network for network, _ in networks]), target, classes)
    return {'weights': digest(target)}


def export(weights: Path, target: Path, settings: ExportRecipe, validation: Path) -> Result:
    """Write the float network and prove that it computes what torch computes."""
    from training.export.onnx_export import check_parity
    from training.export.onnx_export import export as write_onnx
    from training.models.weights import load_network
    from training.prune.cost import count_fused_parameters, count_gflops

    network, _ = load_network(weights)
    counts = {
        'parameters': count_fused_parameters(network),
        'gflops': round(count_gflops(network, settings.width, settings.height), 3),
    }
    module = write_onnx(network, settings.width, settings.height, target)
    images = spread_images(validation, 'val', settings.parity_images)
    return {**counts, 'parity': check_parity(module, target, letterboxed(images, settings.width, settings.height))}


def calibration_images(sets: Mapping[Path, int], size: ExportRecipe) -> list[Image]:
    """So many training images of each set, evenly spread, as the runtime shows them to the network."""
    taken = (image for folder, count in sets.items() for image in spread_images(folder, 'train', count))
    return list(letterboxed(taken, size.width, size.height))


def quantize(
    source: Path, target: Path, settings: qdq.QuantizeSettings, images: Sequence[Image], began: Path | None = None
) -> Result:
    """Write the INT8 network.

    Args:
        images: of `calibration_images`.
        began: the float network at which quantization-aware training began, whose extremes are the ranges.
    """
    fixed = None if began is None else qdq.ranges_of_start(began, source, images, settings)
    left = ptq.quantize(source, target, images, settings, fixed)
    return {
        'calibration_images': len(images),
        'calibration_sha256': calibration_hash(images),
        'float_nodes': len(left),
    }


def measure(bundle: Bundle, precision: str, validation: Path, protocol: str = 'coco') -> Result:
    """Accuracy on the runtime's path, and against the float network where the bundle holds one beside it.

    As many detectors work as training has threads.
    """
    import torch

    from training.measure import float_bundle, measure_artifact

    artifact = bundle.artifact('onnxruntime', precision)
    against = float_bundle(bundle, artifact)
    threads = torch.get_num_threads()
    measured = measure_artifact(bundle, artifact, validation, threads=threads, against=against, protocol=protocol)
    return measured.stated()


def report(
    folder: Path, networks: Mapping[str, Mapping[str, Path]], records: Mapping[str, Result], recipe: Recipe
) -> Result:
    """The table of stages, its latencies taken side by side.

    Args:
        networks: ONNX files by stage and precision.
        records: by stage what the export counted, and the metrics of each precision.
    """
    from training.prune.cost import measure_latency
    from training.run.table import StageRow, write

    settings = recipe.report
    flat = {(name, precision): file for name, files in networks.items() for precision, file in files.items()}
    timed = measure_latency(
        {' '.join(key): file for key, file in flat.items()}, threads=settings.threads, rounds=settings.rounds
    )
    rows = [
        StageRow(
            name,
            records[name]['export']['parameters'],
            records[name]['export']['gflops'],
            {precision: records[name][precision]['map50'] for precision in files},
            {precision: records[name][precision]['map'] for precision in files},
            {precision: file.stat().st_size / 1e6 for precision, file in files.items()},
            {precision: timed[f'{name} {precision}'].median for precision in files},
        )
        for name, files in networks.items()
    ]
    size = recipe.export
    write(
        folder,
        rows,
        settings.baseline or rows[0].name,
        f'python -m training run training/recipes/{recipe.file.name}',
        f'{size.width}×{size.height}, {settings.threads} thread(s), median of {settings.rounds} rounds, all in turn',
    )
    return {row.name: {'map50': row.map50, 'map': row.map, 'latency_ms': row.latency_ms} for row in rows}
