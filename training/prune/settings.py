"""What a recipe says of pruning; imports nothing that prunes."""

from __future__ import annotations

from dataclasses import dataclass

from training.ranges import COUNT, POSITIVE, Range, one_of

METHODS = ('bn', 'group_norm', 'lamp', 'random')
SCOPES = ('layer', 'global')


@dataclass(frozen=True)
class PruneSettings:
    """How a network is pruned. Exactly one of `ratio`, `cut_parameters`, `cut_gflops` and `latency_ms` is given.

    Attributes:
        method: what makes a channel important. `bn`: its |γ|, mean over the layers that make it (network slimming).
            `group_norm`: the norm of all weights that go with it, relative to its group's mean (DepGraph). `lamp`: see `lamp`.
            `random`: nothing.
        scope: `layer` takes the same share of every group; `global` ranks the channels of all groups together.
        ratio: the share of the channels that goes, 0 … 1.
        cut_parameters: the share of the parameters that must go, 0.735 for −73.5 %; the ratio is searched.
        cut_gflops: likewise of the operations.
        latency_ms: the most that one image may take on this machine's CPU in FP32, by ONNX Runtime with one thread; searched.
        round_to: group sizes become multiples of it: 8 or 16 for ONNX Runtime, 32 for TensorRT's INT8.
        max_ratio: the most that any group loses.
        skip: layers that keep their channels, as names or patterns: `model.0.*`.
        seed: of `random`.
    """

    method: str = 'bn'
    scope: str = 'layer'
    ratio: float | None = None
    cut_parameters: float | None = None
    cut_gflops: float | None = None
    latency_ms: float | None = None
    round_to: int = 8
    max_ratio: float = 0.9
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(METHODS, method=self.method)
        one_of(SCOPES, scope=self.scope)
        targets = ('ratio', 'cut_parameters', 'cut_gflops', 'latency_ms')
        if sum(getattr(self, name) is not None for name in targets) != 1:
            raise ValueError(f'exactly one of {", ".join(targets)} must be given')
        lost = Range(least=0, below=1)
        lost.check(ratio=self.ratio, max_ratio=self.max_ratio)
        lost.check(cut_parameters=self.cut_parameters, cut_gflops=self.cut_gflops)
        POSITIVE.check(latency_ms=self.latency_ms)
        COUNT.check(round_to=self.round_to)
