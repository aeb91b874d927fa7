"""The float network of an exported bundle trains on as what it was."""

from __future__ import annotations

import onnx
import pytest
import torch
import yaml
from networks import artifact_entry, bundle_document
from tiny_detectors import CLASSES, SIDE, architecture, detector
from torch import Tensor, nn

from kd_perception.bundles.bundle import write_bundle
from training.errors import WeightsError
from training.export.onnx_export import export
from training.models.bundle_weights import network_of_bundle


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
