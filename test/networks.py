"""Tiny networks that really run in ONNX Runtime: they find bright cells of a 4 × 4 grid in a 64 × 64 image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kd_perception.bundles.bundle import Bundle, write_bundle

SIZE, CELL = 64, 16
CELLS = np.array([[x, y, x + CELL, y + CELL] for y in range(0, SIZE, CELL) for x in range(0, SIZE, CELL)], np.float32)
"""The 16 boxes that the network can report, row by row, in input pixels."""


def bright_cells(poison: int | None = None) -> onnx.ModelProto:
    """uint8 (1, 64, 64, 3) → boxes (1, 16, 4), scores (1, 16, 2): mean brightness of a cell as class 0, its blue as class 1.

    With `poison`, an image whose top left blue value is at least that makes the engine fail: an index leaves its range.
    """
    nodes = [
        helper.make_node('Cast', ['image'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('Transpose', ['float'], ['nchw'], perm=[0, 3, 1, 2]),
        helper.make_node('AveragePool', ['nchw'], ['cells'], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node('Conv', ['cells', 'weights'], ['classes']),
        helper.make_node('Reshape', ['classes', 'flat'], ['rows']),
        helper.make_node('Transpose', ['rows'], ['bright'], perm=[0, 2, 1]),
    ]
    # Class 0 wants all channels bright; class 1 wants blue without the others.
    weights = np.array([[1 / 3, 1 / 3, 1 / 3], [1, -0.5, -0.5]], np.float32).reshape(2, 3, 1, 1) / 255
    initializers = [
        numpy_helper.from_array(weights, 'weights'),
        numpy_helper.from_array(np.array([1, 2, 16]), 'flat'),
        numpy_helper.from_array(CELLS[None], 'all_boxes'),
    ]
    nodes += [helper.make_node('Clip', ['bright', 'low', 'high'], ['scores'])]
    initializers += [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (('low', 0.0), ('high', 1.0))]
    if poison is None:
        nodes.append(helper.make_node('Identity', ['all_boxes'], ['boxes']))
    else:
        initializers += [
            numpy_helper.from_array(np.array([0, 0, 0, 0]), 'origin'),
            numpy_helper.from_array(np.array([1, 1, 1, 1]), 'one_pixel'),
            numpy_helper.from_array(np.array([1]), 'scalar_row'),
            numpy_helper.from_array(np.array([float(poison)], np.float32), 'limit'),
        ]
        nodes += [
            helper.make_node('Slice', ['float', 'origin', 'one_pixel'], ['corner']),
            helper.make_node('Reshape', ['corner', 'scalar_row'], ['corner_row']),
            helper.make_node('GreaterOrEqual', ['corner_row', 'limit'], ['poisoned']),
            helper.make_node('Cast', ['poisoned'], ['index'], to=TensorProto.INT64),
            helper.make_node('Gather', ['all_boxes', 'index'], ['boxes'], axis=0),
        ]
    graph = helper.make_graph(
        nodes,
        'bright_cells',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info('boxes', TensorProto.FLOAT, [1, 16, 4]),
            helper.make_tensor_value_info('scores', TensorProto.FLOAT, [1, 16, 2]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def doubles() -> onnx.ModelProto:
    """`bright_cells` that reports each bright cell a second time, as class 1 with 0.8 of its score."""
    model = bright_cells()
    graph = model.graph
    for node in graph.node:
        for number, name in enumerate(node.output):
            if name in ('boxes', 'scores'):
                node.output[number] = f'single_{name}'
    other_class = numpy_helper.from_array(np.array([[0, 0.8], [0, 0]], np.float32), 'other_class')
    graph.initializer.append(other_class)
    graph.node.extend(
        [
            helper.make_node('MatMul', ['single_scores', 'other_class'], ['second_scores']),
            helper.make_node('Concat', ['single_scores', 'second_scores'], ['scores'], axis=1),
            helper.make_node('Concat', ['single_boxes', 'single_boxes'], ['boxes'], axis=1),
        ]
    )
    for output in graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 32
    onnx.checker.check_model(model)
    return model


def bundle_document(**changes: Any) -> dict[str, Any]:
    """A valid bundle.yaml for `bright_cells`, with the given top-level keys replaced."""
    return {
        'schema_version': 1,
        'name': 'bright_cells',
        'description': 'finds bright cells',
        'license': 'Apache-2.0',
        'classes': ['bright', 'blue'],
        'input': {
            'width': SIZE,
            'height': SIZE,
            'color': 'bgr',
            'dtype': 'uint8',
            'layout': 'nhwc',
            'resize': 'letterbox',
            'pad': 0,
        },
        'output': {'layout': 'boxes_scores', 'box_format': 'xyxy'},
        'thresholds': {'score': 0.5, 'iou': 0.5},
        'artifacts': [],
        **changes,
    }


BUNDLE_YAML = """\
schema_version: 1
name: bright_cells
description: finds bright cells
license: Apache-2.0
classes: [bright, blue]
input:
  width: 64
  height: 64
  color: bgr
  dtype: uint8
  layout: nhwc
  resize: letterbox
output: {layout: boxes_scores}
thresholds: {score: 0.5, iou: 0.5}
artifacts:
- engine: onnxruntime
  precision: fp32
  file: bright_cells.onnx
  sha256: %s
""" % ('a' * 64)
"""A valid bundle.yaml as people write it; its artifact is in no folder."""


def artifact_entry(folder: Path, file: str, precision: str = 'fp32', **more: Any) -> dict[str, Any]:
    """The entry of a file that already lies in the bundle's folder."""
    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    return {'engine': 'onnxruntime', 'precision': precision, 'file': file, 'sha256': digest, **more}


def metrics(value: float, float_map: float | None = None, margin: float = 0.001, dataset: str = 'd') -> dict[str, Any]:
    """What an artifact states: mAP50-95, and where `float_map` is given the comparison with its float network ± `margin`."""
    stated: dict[str, Any] = {'dataset': dataset, 'map50': 0.9, 'map': value}
    if float_map is not None:
        difference = value - float_map
        stated['compared_with_float'] = {
            'sha256': 64 * '0',
            'map': float_map,
            'difference': difference,
            'interval': [difference - margin, difference + margin],
        }
    return stated


def make_bundle(
    folder: Path, poison: int | None = None, network: onnx.ModelProto | None = None, **changes: Any
) -> Bundle:
    """Write a bundle of `bright_cells`, or of another network of the same inputs and outputs, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network or bright_cells(poison), folder / 'bright_cells.onnx')
    changes.setdefault('artifacts', [artifact_entry(folder, 'bright_cells.onnx')])
    return write_bundle(folder, bundle_document(**changes))


def image_with_cells(*cells: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    """A black BGR image of the network's aspect ratio in which the numbered cells are white."""
    image = np.zeros((height, width, 3), np.uint8)
    for cell in cells:
        x1, y1, x2, y2 = CELLS[cell].astype(int)
        image[y1 * height // SIZE : y2 * height // SIZE, x1 * width // SIZE : x2 * width // SIZE] = 255
    return image


def endless(poison: int = 0) -> onnx.ModelProto:
    """`bright_cells` with a loop of 2^62 rounds inside, for images whose top left blue value is at least `poison`."""
    model = bright_cells(poison)
    body = helper.make_graph(
        [helper.make_node('Identity', ['go_on'], ['go_on_again']), helper.make_node('Cos', ['value'], ['next_value'])],
        'body',
        [
            helper.make_tensor_value_info('round', TensorProto.INT64, []),
            helper.make_tensor_value_info('go_on', TensorProto.BOOL, []),
            helper.make_tensor_value_info('value', TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info('go_on_again', TensorProto.BOOL, []),
            helper.make_tensor_value_info('next_value', TensorProto.FLOAT, None),
        ],
    )
    nodes = list(model.graph.node)
    nodes[-1] = helper.make_node('Identity', ['all_boxes'], ['boxes'])  # instead of the index that leaves its range
    clip = next(node for node in nodes if node.op_type == 'Clip')
    nodes.remove(clip)
    clip.input[0] = 'looped'
    nodes += [
        helper.make_node('Mul', ['index', 'many'], ['rounds_of_one']),
        helper.make_node('Squeeze', ['rounds_of_one'], ['rounds']),
        helper.make_node('Loop', ['rounds', 'start', 'bright'], ['looped'], body=body),
        clip,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**62]), 'many'))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), 'start'))
    onnx.checker.check_model(model)
    return model
