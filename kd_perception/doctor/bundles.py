"""The model bundles: whether every file is the one that was measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kd_perception import engines
from kd_perception.bundles.bundle import FLOAT, Artifact, Bundle, load_bundle
from kd_perception.doctor.findings import Finding, Level
from kd_perception.errors import BundleError


def check(folders: Iterable[Path]) -> list[Finding]:
    """Every bundle, and each of its artifacts."""
    findings = [finding for folder in folders for finding in _bundle(folder)]
    if findings:
        return findings
    return [
        Finding('bundles', 'none is installed', Level.YELLOW, 'make one: docs/bundle.md, kd_perception bundle create')
    ]


def _bundle(folder: Path) -> list[Finding]:
    try:
        bundle = load_bundle(folder)
    except BundleError as error:
        return [Finding(folder.name, str(error), Level.RED, 'copy the bundle again, or correct its bundle.yaml')]
    return [_artifact(bundle, artifact) for artifact in bundle.artifacts]


def _artifact(bundle: Bundle, artifact: Artifact) -> Finding:
    subject = f'{bundle.name} {artifact.precision}'
    try:
        size = len(bundle.read(artifact))
    except BundleError as error:
        return Finding(subject, str(error), Level.RED, 'copy the bundle again')
    takers = [name for name, state in engines.available().items() if state and engines.can_run(name, artifact)]
    found = f'{size / 2**20:.1f} MiB, hash verified, runs on {", ".join(takers) or "nothing that is installed"}'
    if artifact.measured_map is None:
        advice = 'nobody measured it, so that the accuracy gate cannot judge it: python -m training measure'
        return Finding(subject, f'{found}, mAP not measured', Level.YELLOW, advice)
    found += f', mAP50-95 {artifact.measured_map:.3f} on {artifact.metrics["dataset"]}'
    loss = artifact.loss
    if loss is not None:
        found += f' ({loss.difference:+.3f} against its float network, {loss.low:+.3f} to {loss.high:+.3f})'
    elif artifact.precision != FLOAT:
        advice = (
            'the accuracy gate cannot judge it: compare it with its float network, python -m training measure --write'
        )
        return Finding(subject, found, Level.YELLOW, advice)
    if not takers:
        return Finding(subject, found, Level.YELLOW, f'install an engine that takes it, such as {artifact.engine}')
    return Finding(subject, found)
