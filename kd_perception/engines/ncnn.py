"""ncnn: for the Raspberry Pi and other Arm boards. The bundle's ONNX file is converted at every load, which takes a moment."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.bundles.onnx_edit import with_cast_weights
from kd_perception.bundles.onnx_graph import check_input, read_graph
from kd_perception.bundles.onnx_integrity import read_network
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.engines.batch import check_batch
from kd_perception.engines.ncnn_conversion.conversion import convert
from kd_perception.engines.ncnn_conversion.network import INPUT, NcnnNetwork, Stage
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import DeviceMemoryError, EngineError
from kd_perception.machine.cores import physical_cores

_OUT_OF_MEMORY = -100
"""What ncnn's layers return when an allocation failed."""


class NcnnEngine:
    """One network. Not thread-safe: one frame at a time."""

    def __init__(
        self, library: Any, networks: list[Any], converted: NcnnNetwork, bundle: Bundle, info: EngineInfo
    ) -> None:
        self.info = info
        self._library = library
        self._stages = list(zip(converted.stages, networks, strict=True))
        # Copies: what ncnn hands out lies in its own pool, and a view of it would dangle when the network goes.
        self._outputs = {name: np.empty((1, *shape), np.float32) for name, shape in converted.outputs.items()}
        self._planar = converted.planar
        self._shape = bundle.input.shape
        self._dtype = np.dtype(bundle.input.dtype)

    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`. ncnn takes planes of floats, so the input is always converted."""
        if not self._stages:
            raise EngineError('the engine was closed')
        check_batch(batch, self._shape, self._dtype)
        blobs = {INPUT: self._mat(batch[0])}
        for stage, network in self._stages:
            blobs = _run(stage, network, blobs)
        for name, buffer in self._outputs.items():
            buffer[0] = np.asarray(blobs[name])
        return self._outputs

    def _mat(self, image: Array) -> Any:
        if self._planar and image.dtype == np.uint8:
            height, width = image.shape[:2]
            return self._library.Mat.from_pixels(image, self._library.Mat.PixelType.PIXEL_BGR, width, height)
        planes = image.transpose(2, 0, 1) if self._planar else image
        return self._library.Mat(np.ascontiguousarray(planes, np.float32)).clone()

    def close(self) -> None:
        """Free the network."""
        self._stages = []


def _run(stage: Stage, network: Any, blobs: dict[str, Any]) -> dict[str, Any]:
    """Run one stage; what it gives is in FP32, whatever it computes in."""
    extractor = network.create_extractor()
    for name in stage.inputs:
        if extractor.input(name, blobs[name]) != 0:
            raise EngineError('ncnn refused the input')
    outputs = {}
    for name in stage.outputs:
        status, outputs[name] = extractor.extract(name)
        if status == _OUT_OF_MEMORY:
            raise DeviceMemoryError('ncnn ran out of memory: stop other programs, or use a bundle with a smaller input')
        if status != 0:
            raise EngineError(f'ncnn failed during inference with status {status}')
    return outputs


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions) -> NcnnEngine:
    """Convert an ONNX artifact and load it.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: the network cannot be converted, or ncnn refuses it.
    """
    graph = read_graph(with_cast_weights(read_network(bundle, artifact), artifact.file), artifact.file)
    check_input(graph, bundle)
    import ncnn

    precision = options.precision or artifact.precision
    if precision == 'fp16' and not ncnn.cpu_support_arm_vfpv4():
        raise EngineError('ncnn computes in fp16 on Arm processors only; choose fp32 or bf16 here')
    threads = options.threads or physical_cores()
    converted = convert(graph, bundle.input.shape, apart=precision != 'fp32')
    networks = [_load_stage(ncnn, stage, threads, precision) for stage in converted.stages[:1]]
    networks += [_load_stage(ncnn, stage, threads, 'fp32') for stage in converted.stages[1:]]
    info = EngineInfo(
        engine='ncnn',
        precision=precision,
        device='cpu',
        provider='ncnn',
        threads=threads,
        versions={'ncnn': ncnn.__version__, 'numpy': np.__version__},
    )
    return NcnnEngine(ncnn, networks, converted, bundle, info)


def _load_stage(library: Any, stage: Stage, threads: int, precision: str) -> Any:
    network = library.Net()
    network.opt.num_threads = threads
    network.opt.openmp_blocktime = 0  # idle threads that spin take the core from the camera's and the executor's
    network.opt.use_vulkan_compute = False
    for name in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic'):
        setattr(network.opt, name, precision == 'fp16')
    for name in ('use_bf16_packed', 'use_bf16_storage'):
        setattr(network.opt, name, precision == 'bf16')
    if network.load_param_mem(stage.param) != 0 or _load_weights(network, stage.weights) != 0:
        raise EngineError('ncnn cannot load the network that was converted to its form; run it on onnxruntime')
    return network


def _load_weights(network: Any, weights: bytes) -> int:
    """ncnn reads weights from a file only; an anonymous one in memory needs neither a folder that can be written nor a name.

    A pipe will not do (ncnn seeks), and the file must stay until the network is loaded.
    """
    descriptor = os.memfd_create(f'ncnn-{threading.get_ident()}')
    try:
        with os.fdopen(os.dup(descriptor), 'wb') as file:
            file.write(weights)
        return int(network.load_model(f'/proc/self/fd/{descriptor}'))
    finally:
        os.close(descriptor)
