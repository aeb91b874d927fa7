"""Steps that say what came out: accuracy, the bundle, the table of stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_perception.detection.thresholds import PER_CLASS
from training.run.bundle import write_finished_bundle, write_plain_bundle
from training.run.recipe import COCO, MAX_DETECTIONS
from training.run.work import Work
from training.steps import Result, Step, in_order

PRECISIONS = ('int8', 'fp32')
"""In the bundle's order of preference."""


@dataclass(frozen=True)
class Measure(Work):
    """Accuracy on the validation pictures, on the runtime's path, and against the float network."""

    precision: str = 'fp32'

    @property
    def name(self) -> str:
        """See Work."""
        return f'measure {self.of} {self.precision}'

    @property
    def settings(self) -> Any:
        """See Work."""
        bundle, protocol = self.recipe.bundle, self.recipe.protocol
        settings: list[Any] = [bundle.score, bundle.iou]
        if (bundle.max_detections, protocol) != (MAX_DETECTIONS, COCO):
            settings += [bundle.max_detections, protocol]
        if bundle.suppression != PER_CLASS:
            settings.append(bundle.suppression)
        if bundle.half_weights:
            settings.append('half_weights')
        return settings

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        plan = self.plan
        networks = (
            [plan.export(self.of)] if self.precision == 'fp32' else [plan.quantize(self.of), plan.export(self.of)]
        )
        return [*networks, plan.prepare(self.recipe.validation)]

    def networks(self) -> dict[str, Path]:
        """By precision; the float network beside the other, to compare with."""
        return {each: self.plan.network(self.of, each) for each in dict.fromkeys((self.precision, 'fp32'))}

    def make(self, folder: Path) -> Result:
        """See Work. As many detectors work as training has threads."""
        import torch

        from training.measure import float_bundle, measure_artifact

        validation = self.plan.set(self.recipe.validation)
        bundle = write_plain_bundle(folder / 'bundle', self.networks(), validation, self.recipe)
        artifact = bundle.artifact('onnxruntime', self.precision)
        measured = measure_artifact(
            bundle,
            artifact,
            validation,
            threads=torch.get_num_threads(),
            against=float_bundle(bundle, artifact),
            protocol=self.recipe.protocol,
        )
        return measured.stated()


@dataclass(frozen=True)
class MeasureFile(Measure):
    """The same of a weights file."""

    @property
    def name(self) -> str:
        """See Work."""
        return 'measure file'

    @property
    def settings(self) -> Any:
        """See Work."""
        return [self.recipe.bundle.score, self.recipe.bundle.iou]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return (self.plan.export_file(self.of),)

    def networks(self) -> dict[str, Path]:
        """See Measure."""
        return {'fp32': self.plan.folder(self.plan.export_file(self.of)) / 'fp32.onnx'}


@dataclass(frozen=True)
class MakeBundle(Work):
    """The bundle of the final stage, with what was measured and where it comes from."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'bundle {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return self.recipe.bundle

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return [self.plan.measure(self.of, precision) for precision in PRECISIONS]

    def make(self, folder: Path) -> Result:
        """See Work."""
        plan = self.plan
        records = {
            step.name: {'result': plan.steps.known(step), 'key': step.key[:10]} for step in in_order([*self.needs])
        }
        return write_finished_bundle(
            folder / 'bundle',
            plan.weights_file(self.of),
            {precision: plan.network(self.of, precision) for precision in PRECISIONS},
            {precision: plan.steps.known(plan.measure(self.of, precision)) for precision in PRECISIONS},
            plan.set(self.recipe.validation),
            self.recipe,
            records,
        )


@dataclass(frozen=True)
class Report(Work):
    """The table of stages, with latencies taken side by side."""

    @property
    def name(self) -> str:
        """See Work."""
        return 'report'

    @property
    def settings(self) -> Any:
        """See Work."""
        return self.recipe.report

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return [self.plan.measure(name, precision) for name in self._stages for precision in PRECISIONS]

    @property
    def _stages(self) -> Sequence[str]:
        return self.recipe.report.stages or self.recipe.detectors

    def make(self, folder: Path) -> Result:
        """See Work."""
        from training.prune.cost import measure_latency
        from training.run.table import write

        settings, size, plan = self.recipe.report, self.recipe.export, self.plan
        files = {f'{name} {each}': plan.network(name, each) for name in self._stages for each in PRECISIONS}
        timed = measure_latency(files, threads=settings.threads, rounds=settings.rounds)
        rows = [self._row(name, {each: timed[f'{name} {each}'].median for each in PRECISIONS}) for name in self._stages]
        write(
            folder,
            rows,
            settings.baseline or rows[0].name,
            f'python -m training run training/recipes/{self.recipe.file.name}',
            f'{size.width}×{size.height}, {settings.threads} thread(s), median of {settings.rounds} rounds, all in turn',
        )
        return {row.name: {'map50': row.map50, 'map': row.map, 'latency_ms': row.latency_ms} for row in rows}

    def _row(self, name: str, latency_ms: dict[str, float]) -> Any:
        from training.run.table import StageRow

        plan = self.plan
        counts = plan.steps.known(plan.export(name))
        measured = {each: plan.steps.known(plan.measure(name, each)) for each in PRECISIONS}
        return StageRow(
            name,
            counts['parameters'],
            counts['gflops'],
            {each: measured[each]['map50'] for each in PRECISIONS},
            {each: measured[each]['map'] for each in PRECISIONS},
            {each: plan.network(name, each).stat().st_size / 1e6 for each in PRECISIONS},
            latency_ms,
        )
