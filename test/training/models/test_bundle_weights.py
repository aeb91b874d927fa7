"""The float network of an exported bundle trains on as what it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import pytest
import torch
import yaml
from networks import artifact_entry, bundle_document
from tiny_detectors import CLASSES, SIDE, architecture, detector, with_random_statistics
from tiny_training import write_pictures
from torch import Tensor, nn

from kd_perception.bundles.bundle import write_bundle
from training.errors import WeightsError
from training.export.heads import boxes_scores
from training.export.onnx_export import export
from training.models.bundle_weights import network_of_bundle
from training.models.starts import of_bundle
from training.models.weights import build_network


@pytest.fixture(scope='module')
def pictures_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    write_pictures(folder, 2)
    return folder


def write(folder, network, **changes):
    """A bundle of a network, and the architecture's file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    export(network, SIDE, SIDE, folder / 'net.onnx')
    (folder / 'architecture.yaml').write_text(yaml.safe_dump(dict(network.yaml)))
    write_bundle(
        folder, bundle_document(classes=list(CLASSES), artifacts=[artifact_entry(folder, 'net.onnx')], **changes)
    )
    return folder, str(folder / 'architecture.yaml')


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def found(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(pictures(3))[0]


@pytest.mark.parametrize('family', ['v8', 'v5', '11'])
@pytest.mark.parametrize('measured', [0, 8])
def test_it_detects_what_was_exported(tmp_path, family, measured):
    original = detector(family)
    folder, file = write(tmp_path / 'b', original)
    batches = list(pictures(measured)[:, None]) if measured else []
    again = network_of_bundle(folder, file, CLASSES, batches)
    torch.testing.assert_close(found(again), found(original), rtol=1e-3, atol=1e-3)


def yolov4(backbone: str, neck: str) -> nn.Module:
    torch.manual_seed(0)
    anchors = [[[4.0 + level + size, 9.0 - size] for size in range(3)] for level in range(3)]
    mapping = {'family': 'yolov4', 'backbone': backbone, 'neck': neck, 'width': 0.1, 'anchors': anchors}
    return with_random_statistics(build_network(mapping, CLASSES))


@pytest.mark.parametrize(
    ('backbone', 'neck'),
    [('timm/efficientnet_lite0', 'light'), ('mobilenet_v2', 'full'), ('timm/resnet18', 'depthwise')],
)
@pytest.mark.parametrize('measured', [0, 8])
def test_a_yolov4_detects_what_was_exported_with_the_anchors_of_the_bundle(tmp_path, backbone, neck, measured):
    original: Any = yolov4(backbone, neck)
    folder, _ = write(tmp_path / 'b', original)
    mapping = {name: value for name, value in original.yaml.items() if name != 'anchors'}
    (tmp_path / 'plain.yaml').write_text(yaml.safe_dump(mapping))
    batches = list(pictures(measured)[:, None]) if measured else []
    again = network_of_bundle(folder, str(tmp_path / 'plain.yaml'), CLASSES, batches)
    assert torch.equal(again.anchors, original.anchors)
    assert again.yaml == original.yaml
    image = torch.randint(0, 256, (1, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for one, other in zip(
            boxes_scores(again, SIDE, SIDE)(image), boxes_scores(original, SIDE, SIDE)(image), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_shipped_permissive_bundles_are_where_ones_own_training_begins(repository):
    lite = str(repository / 'training/recipes/networks/yolov4_lite0.yaml')
    roads = network_of_bundle(repository / 'models/road_traffic', lite, ('truck', 'tractor'))
    assert roads.names == {0: 'truck', 1: 'tractor'}
    assert roads.anchors[0, 0, 0] != 12
    with pytest.raises(WeightsError, match=r'traffic_lights does not fit .*backbone.stem.0 is missing'):
        network_of_bundle(
            repository / 'models/traffic_lights', str(repository / 'training/recipes/networks/yolov4.yaml'), ('red',)
        )
    with pytest.raises(WeightsError, match='none that our exporter wrote of a YOLOv4'):
        network_of_bundle(repository / 'models/aerial_traffic', lite, ('car',))


def test_with_measured_statistics_training_begins_where_the_detector_was(tmp_path):
    """In training, normalizations use the statistics of their batch: without measured ones another network would train."""
    original = detector()
    folder, file = write(tmp_path / 'b', original)
    wanted = original.model[0](pictures(16))
    with_statistics, without = (
        network_of_bundle(folder, file, CLASSES, batches).train().model[0](pictures(16))
        for batches in ([pictures(16, seed=5)], [])
    )
    assert (with_statistics - wanted).abs().mean() < 0.1 * (without - wanted).abs().mean()


def test_outputs_of_shared_classes_go_over_by_name(tmp_path):
    original = detector()
    folder, file = write(tmp_path / 'b', original)
    other = network_of_bundle(folder, file, ('bicycle', CLASSES[1]))
    assert torch.allclose(found(other)[:, 5], found(original)[:, 5], atol=1e-4)
    assert found(other).shape[1] == 6


def test_another_architecture_is_refused(tmp_path):
    folder, _ = write(tmp_path / 'b', detector())
    (tmp_path / 'wide.yaml').write_text(yaml.safe_dump(architecture(scales={'n': [0.33, 0.25, 512]})))
    with pytest.raises(WeightsError, match='does not fit'):
        network_of_bundle(folder, str(tmp_path / 'wide.yaml'), CLASSES)


def test_a_foreign_graph_is_refused(tmp_path):
    folder, file = write(tmp_path / 'b', detector())
    graph = onnx.load(folder / 'net.onnx')
    for item in graph.graph.initializer:
        old, item.name = item.name, f'theirs_{item.name}'
        for node in graph.graph.node:
            node.input[:] = [item.name if name == old else name for name in node.input]
    onnx.save(graph, folder / 'net.onnx')
    write_bundle(folder, bundle_document(classes=list(CLASSES), artifacts=[artifact_entry(folder, 'net.onnx')]))
    with pytest.raises(WeightsError, match='does not fit'):
        network_of_bundle(folder, file, CLASSES)


class Watched(list[Tensor]):
    """Pictures that note with how many threads they are seen."""

    def __init__(self, batches: list[Tensor]) -> None:
        super().__init__(batches)
        self.threads: list[int] = []

    def __iter__(self) -> Iterator[Tensor]:
        for batch in super().__iter__():
            self.threads.append(torch.get_num_threads())
            yield batch


def test_the_statistics_have_the_same_bits_whatever_the_number_of_threads(tmp_path):
    """What goes on later, with another number of threads, must find the network with which it began."""
    folder, file = write(tmp_path / 'b', detector())
    seen, threads = Watched([pictures(2)]), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        network_of_bundle(folder, file, CLASSES, seen)
        assert (seen.threads, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(threads)


def test_outputs_that_begin_afresh_are_those_of_the_seed(tmp_path, pictures_folder):
    """Or an interrupted training would not find the network with which it began, and no run could be made again."""
    folder, file = write(tmp_path / 'b', detector())
    images = sorted(pictures_folder.glob('images/*.png'))
    states = []
    for seed in (0, 0, 1):
        torch.rand(3)
        states.append(of_bundle(file, ('tram', CLASSES[0]), folder, images, SIDE, seed).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
