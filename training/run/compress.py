"""Steps that make a network smaller or quicker: pruning, averaging, ONNX, INT8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.spread import letterboxed, spread_images
from training.errors import WeightsError
from training.quantize import ptq, qdq
from training.quantize.calibration import calibration_hash
from training.run.fit import detector_settings
from training.run.work import WEIGHTS, Work
from training.steps import Result, Step, digest


@dataclass(frozen=True)
class Prune(Work):
    """A stage that removes channels."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'prune {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return [*detector_settings(self), self.recipe.export.width, self.recipe.export.height]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return [self.plan.weights(self.stage.start)] if self.stage.start in self.recipe.stages else []

    def make(self, folder: Path) -> Result:
        """See Work."""
        from training.models.weights import load_network, save_weights
        from training.prune.pruning import prune

        assert self.stage.prune is not None
        network, classes = load_network(self.plan.weights_file(self.stage.start))
        pruned = prune(network, self.stage.prune, self.recipe.export.width, self.recipe.export.height)
        save_weights(pruned.network, folder / WEIGHTS, classes)
        return {
            'ratio': round(pruned.ratio, 4),
            'parameters': [pruned.before.parameters, pruned.after.parameters],
            'gflops': [round(pruned.before.gflops, 3), round(pruned.after.gflops, 3)],
            'weights': digest(folder / WEIGHTS),
        }


@dataclass(frozen=True)
class Average(Work):
    """A stage that averages the weights of two networks."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'average {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return detector_settings(self)

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return [self.plan.weights(source) for source in self._sources if source in self.recipe.stages]

    @property
    def _sources(self) -> tuple[str, str]:
        return self.stage.start, str(self.stage.average)

    def make(self, folder: Path) -> Result:
        """See Work."""
        from training.models.averaging import averaged
        from training.models.weights import load_network, save_weights

        files = [self.plan.weights_file(source) for source in self._sources]
        networks = [load_network(file) for file in files]
        _, classes = networks[0]
        for file, (_, others) in zip(files, networks, strict=True):
            if others != classes:
                raise WeightsError(f'{file} knows the classes {", ".join(others)}, not {", ".join(classes)}')
        save_weights(averaged([network for network, _ in networks]), folder / WEIGHTS, classes)
        return {'weights': digest(folder / WEIGHTS)}


@dataclass(frozen=True)
class Export(Work):
    """The float network as ONNX, proved to compute what torch computes."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'export {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return self.recipe.export

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return (self.plan.weights(self.of), self.plan.prepare(self.recipe.validation))

    def weights(self) -> Path:
        """The file that is exported."""
        return self.plan.weights_file(self.of)

    def make(self, folder: Path) -> Result:
        """See Work."""
        from training.export.onnx_export import check_parity, export
        from training.models.weights import load_network
        from training.prune.cost import count_fused_parameters, count_gflops

        settings, target = self.recipe.export, folder / 'fp32.onnx'
        network, _ = load_network(self.weights())
        counts = {
            'parameters': count_fused_parameters(network),
            'gflops': round(count_gflops(network, settings.width, settings.height), 3),
        }
        module = export(network, settings.width, settings.height, target)
        images = spread_images(self.plan.set(self.recipe.validation), 'val', settings.parity_images)
        shown = letterboxed(images, settings.width, settings.height)
        return {**counts, 'parity': check_parity(module, target, shown)}


@dataclass(frozen=True)
class ExportFile(Export):
    """The same of a weights file, such as a teacher's."""

    @property
    def name(self) -> str:
        """See Work."""
        return 'export file'

    @property
    def settings(self) -> Any:
        """See Work."""
        return [digest(self.weights()), self.recipe.export]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return (self.plan.prepare(self.recipe.validation),)


@dataclass(frozen=True)
class Quantize(Work):
    """The INT8 network."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'quantize {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return [self.recipe.quantize, self.recipe.calibration]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        began = [self.plan.export(self.stage.start)] if self.stage.qat else []
        return (self.plan.export(self.of), *began, *map(self.plan.prepare, self.recipe.calibration.images))

    def make(self, folder: Path) -> Result:
        """See Work. After quantization-aware training, the ranges are the extremes of the network at which it began."""
        source, images = self.plan.network(self.of, 'fp32'), self.plan.calibration()
        fixed = None
        if self.stage.qat:
            began = self.plan.network(self.stage.start, 'fp32')
            fixed = qdq.ranges_of_start(began, source, images, self.recipe.quantize)
        left = ptq.quantize(source, folder / 'int8.onnx', images, self.recipe.quantize, fixed)
        return {
            'calibration_images': len(images),
            'calibration_sha256': calibration_hash(images),
            'float_nodes': len(left),
        }
