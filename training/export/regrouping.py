"""A bundle that reports coarser classes: the score of a class is the best of those that it covers. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from kd_perception.bundles.bundle import BUNDLE_FILE, Bundle, load_bundle, write_bundle
from kd_perception.bundles.bundle_yaml import read
from training.errors import ExportError
from training.steps import digest

SCORES = 'scores'
FINE = 'fine_scores'
"""What the scores of the finer classes are called in the new graph."""


def regroup(folder: Path, class_map: Mapping[str, str]) -> Bundle:
    """Write a bundle of our exporter anew with coarser classes; what was measured of its artifacts is gone, for it is another.

    Args:
        folder: of the bundle.
        class_map: the new class by the bundle's; names that it lacks stay classes of their own.

    Raises:
        BundleError: no bundle.
        ExportError: it has no such class, nothing would change, or its graphs have no output `scores`.
    """
    bundle = load_bundle(folder)
    if unknown := [name for name in class_map if name not in bundle.classes]:
        raise ExportError(f'{bundle.name} has no class {", ".join(unknown)}; it has {", ".join(bundle.classes)}')
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(bundle.classes):
        groups.setdefault(class_map.get(name, name), []).append(number)
    if tuple(groups) == bundle.classes:
        raise ExportError('these are the classes that it has')
    document = read(folder / BUNDLE_FILE).values
    graphs = {artifact.file: _regrouped(folder / artifact.file, list(groups.values())) for artifact in bundle.artifacts}
    for entry in document['artifacts']:
        onnx.save(graphs[entry['file']], folder / entry['file'])
        entry['sha256'] = digest(folder / entry['file'])
        entry.pop('metrics', None)
        entry.pop('thresholds', None)
    document |= {'classes': list(groups), 'covers': _covers(bundle, groups)}
    document['thresholds'].pop('class_scores', None)
    return write_bundle(folder, document)


def _covers(bundle: Bundle, groups: Mapping[str, list[int]]) -> dict[str, list[str]]:
    """By new class the old ones that it stands for, and what these stood for."""
    covers: dict[str, list[str]] = {}
    for name, members in groups.items():
        old = [bundle.classes[number] for number in members]
        finer = [each for own in old for each in (own, *bundle.covers.get(own, ())) if each != name]
        if finer:
            covers[name] = finer
    return covers


def _largest(graph: Any, number: int, members: list[int]) -> str:
    """Nodes for the largest score of some classes, of operations that every engine has; gives the name of their output."""
    largest = ''
    for member in members:
        bounds = [f'class_{member}_{what}' for what in ('start', 'end', 'axis')]
        for name, value in zip(bounds, (member, member + 1, 2), strict=True):
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
        column = f'{FINE}_{member}'
        graph.node.append(helper.make_node('Slice', [FINE, *bounds], [column]))
        if largest:
            graph.node.append(helper.make_node('Max', [largest, column], [f'{SCORES}_{number}_{member}']))
        largest = f'{SCORES}_{number}_{member}' if largest else column
    return largest


def _regrouped(file: Path, groups: list[list[int]]) -> Any:
    """The graph whose scores (1, N, C) are the largest of each group."""
    model = onnx.load(str(file), load_external_data=False)
    graph = model.graph
    output = next((item for item in graph.output if item.name == SCORES), None)
    if output is None:
        raise ExportError(f'{file.name} has no output {SCORES}: only networks of our exporter can be regrouped')
    for node in graph.node:
        node.output[:] = [FINE if name == SCORES else name for name in node.output]
        node.input[:] = [FINE if name == SCORES else name for name in node.input]
    columns = []
    for number, members in enumerate(groups):
        columns.append(_largest(graph, number, members))
    graph.node.append(helper.make_node('Concat', columns, [SCORES], axis=2))
    output.type.tensor_type.shape.dim[2].dim_value = len(groups)
    onnx.checker.check_model(model)
    return model
