"""The teacher: loaded for certain, never trained, quick."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.distill.controls import untrained
from training.distill.cross_head import head_of
from training.distill.outputs import (
    Outputs,
    Probe,
    Shape,
    branches_of,
    has_queries,
    layer_names,
    measure_shape,
    to_float32,
)
from training.errors import FitError, WeightsError
from training.models.weights import load_network
from training.models.yolov4.network import YOLOv4
from training.steps import digest


class Teacher:
    """A network from a weights file, in evaluation mode, its normalizations folded into its convolutions.

    It is no module of the student's, so that no optimizer, average or checkpoint can meet it.

    Attributes:
        file: of its weights.
        sha256: of that file.
        tensors: number of tensors that were loaded: all of the network's.
        precision: in which it computes.
        layers: whose maps it puts out.
        with_head: whether its head runs.
    """

    def __init__(
        self,
        file: Path,
        classes: Sequence[str],
        device: torch.device,
        precision: torch.dtype,
        random_seed: int | None = None,
    ) -> None:
        """Load it.

        Args:
            file: of `save_weights`.
            classes: the student's, which the teacher must have too.
            device: where it computes.
            precision: of its layers.
            random_seed: of fresh weights in place of the file's, for a control run.

        Raises:
            WeightsError: no such file, another kind of file, or tensors that do not fit.
            FitError: the teacher has other classes.
        """
        if not file.is_file():
            raise WeightsError(f'the teacher {file} does not exist: train it first, or correct the path')
        network, own = load_network(file)
        if tuple(own) != tuple(classes):
            raise FitError(
                f'the teacher {file} knows the classes {", ".join(own)}, the student {", ".join(classes)}: both must '
                'have the same ones in the same order'
            )
        self.file = file
        self.sha256 = digest(file)
        self.tensors = len(network.state_dict())
        if random_seed is not None:
            network = untrained(network, classes, random_seed)
        if has_queries(network):
            # Their boxes are shares of the image, of which bfloat16 keeps 8 bits: 2 pixels of 640.
            precision = torch.float32
        self._network = _folded(network).to(device, precision, memory_format=torch.channels_last)
        self.precision = precision
        self.layers: tuple[str, ...] = ()
        self.with_head = True
        self._probe: Probe | None = None
        self._head: nn.Module | None = None
        self._first = fingerprint(self._network)

    def shape(self, layers: Sequence[str], image_size: int) -> Shape:
        """What its layers look like."""
        return measure_shape(self._network, layers, image_size)

    @property
    def head(self) -> Any:
        """A YOLO's head, for `crosskd`; None of others."""
        return head_of(self._network)

    def layer_names(self, layers: Sequence[int | str]) -> tuple[str, ...]:
        """See `outputs.layer_names`."""
        return layer_names(self._network, layers)

    def watch(self, layers: Sequence[str], *, with_head: bool = True) -> None:
        """Choose the layers whose maps it puts out, and whether its head, a third of its time, runs at all."""
        self._probe = Probe(self._network, layers)
        self.layers, self.with_head = tuple(layers), with_head
        if not with_head and not isinstance(self._network, YOLOv4):
            self._head = self._network.model[-1]
            self._network.model[-1] = _NoHead(self._head)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        """What it makes of images (N, 3, H, W) from 0 to 1; float32."""
        predictions = self._network(images.to(self.precision))
        maps = self._probe.take() if self._probe is not None else {}
        return Outputs(maps, to_float32(branches_of(predictions)))

    def check_unchanged(self) -> None:
        """Make sure that training left it alone.

        Raises:
            FitError: a tensor of it differs from what was loaded.
        """
        if self._head is not None:
            self._network.model[-1] = self._head
        if fingerprint(self._network) != self._first:
            raise FitError(f'the teacher {self.file} changed during the training: its results are worthless')


class _NoHead(nn.Module):
    """Stands where the head was and puts out nothing."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.f, self.i = head.f, head.i

    def forward(self, maps: Sequence[Tensor], *_: object) -> None:
        """Nothing."""


def _folded(network: Any) -> Any:
    network.eval().requires_grad_(False)
    if isinstance(network, YOLOv4):
        return network
    head = network.model[-1]
    if hasattr(head, 'reg_max'):
        head.fuse = lambda: None  # or it would drop the branch that inference does not need
    network.fuse(verbose=False)
    if hasattr(head, 'reg_max'):
        # The head's own flag, not its layers': it then puts out logits instead of decoded boxes.
        head.training = True
    return network


def fingerprint(network: nn.Module) -> str:
    """SHA-256 over all tensors of a network."""
    content = hashlib.sha256()
    for name, value in network.state_dict().items():
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()
