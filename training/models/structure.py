"""The channel structure of a network: which convolutions are how wide, as plain values that rebuild a pruned network.

A C2f block runs one convolution and cuts its output in two equal halves, so both could only be pruned alike. `split` turns
that convolution into two with the same weights: the outputs stay as they were, and each half gets channels of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from training.errors import PruneError
from training.models.kept_channels import keep_features, keep_inputs, keep_outputs
from training.models.yolov4.network import YOLOv4


def split(network: nn.Module) -> None:
    """Replace every block that cuts a convolution's output by one with two convolutions; outputs stay exactly the same."""
    if not isinstance(network, YOLOv4):  # which has no such block
        from training.models.split_blocks import split_blocks

        split_blocks(network)


def is_split(network: nn.Module) -> bool:
    """Whether `split` replaced blocks of the network."""
    if isinstance(network, YOLOv4):
        return False
    from training.models import split_blocks

    return split_blocks.is_split(network)


def describe(network: nn.Module) -> dict[str, Any]:
    """The channel structure as plain values.

    Returns:
        `split`: whether the blocks are split; `convolutions`: name → [inputs, outputs]; `normalizations`: name → channels.
    """
    return {
        'split': is_split(network),
        'convolutions': {
            name: [layer.in_channels, layer.out_channels] for name, layer in convolutions(network).items()
        },
        'normalizations': {name: layer.num_features for name, layer in normalizations(network).items()},
    }


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def normalizations(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch normalizations by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}


def restore(network: nn.Module, description: Mapping[str, Any]) -> None:
    """Bring a freshly built network to a described structure; its weights are then to be loaded.

    Args:
        network: as its architecture builds it.
        description: see `describe`; it comes from a file and is checked. Files of before do not name the normalizations.

    Raises:
        PruneError: the description does not fit the network.
    """
    widths, is_wanted_split = description.get('convolutions'), description.get('split')
    if not isinstance(widths, Mapping) or not isinstance(is_wanted_split, bool):
        raise PruneError('the channel structure must hold "split" and "convolutions"')
    if is_wanted_split:
        split(network)
    layers = convolutions(network)
    _check_names(widths, layers)
    for name, layer in layers.items():
        _narrow(name, layer, widths[name])
    features = description.get('normalizations')
    if features is None:
        features = _features_behind(network, widths)
    if not isinstance(features, Mapping):
        raise PruneError('"normalizations" of the channel structure must hold a number for each')
    norms = normalizations(network)
    _check_names(features, norms)
    for name, norm in norms.items():
        _narrow_normalization(name, norm, features[name])


def _check_names(described: Mapping[str, Any], layers: Mapping[str, nn.Module]) -> None:
    if described.keys() != layers.keys():
        odd = sorted(str(name) for name in described.keys() ^ layers.keys())
        raise PruneError(f'the channel structure is of another architecture: {odd[0]} is only in one of them')


def _features_behind(network: nn.Module, widths: Mapping[str, Any]) -> dict[str, int]:
    """What files of before leave unsaid: the normalization behind a convolution is as wide as its outputs."""
    from training.models.split_blocks import behind

    names = {layer: name for name, layer in normalizations(network).items()}
    features = {name: layer.num_features for layer, name in names.items()}
    for name, (_, outputs) in widths.items():
        norm = behind(network, name)
        if norm is not None:
            features[names[norm]] = outputs
    return features


def _narrow(name: str, layer: nn.Conv2d, width: Any) -> None:
    if not isinstance(width, list) or len(width) != 2 or not all(type(count) is int for count in width):
        raise PruneError(f'the channel structure of {name} must be [inputs, outputs], not {width!r}')
    inputs, outputs = width
    if not (1 <= inputs <= layer.in_channels and 1 <= outputs <= layer.out_channels):
        raise PruneError(f'{name} cannot have {inputs} inputs and {outputs} outputs: at most {_widest(layer)}')
    is_narrower = (inputs, outputs) != (layer.in_channels, layer.out_channels)
    if layer.groups > 1 and is_narrower and not (is_depthwise(layer) and inputs == outputs):
        raise PruneError(f'{name} works in {layer.groups} groups and cannot have {inputs} inputs, {outputs} outputs')
    if layer.groups == 1 and inputs < layer.in_channels:
        keep_inputs(layer, range(inputs))
    if outputs < layer.out_channels:
        keep_outputs(layer, range(outputs))


def _narrow_normalization(name: str, layer: nn.BatchNorm2d, features: Any) -> None:
    if type(features) is not int or not 1 <= features <= layer.num_features:
        raise PruneError(f'{name} cannot have {features!r} channels: at most {layer.num_features}')
    if features < layer.num_features:
        keep_features(layer, range(features))


def _widest(layer: nn.Conv2d) -> str:
    return f'{layer.in_channels} inputs and {layer.out_channels} outputs'


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether each output channel has an input channel of its own."""
    return 1 < layer.groups == layer.in_channels == layer.out_channels
