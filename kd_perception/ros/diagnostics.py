"""The three tasks on /diagnostics: `input`, `latency`, `model`, each with a level, a sentence and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from kd_perception.machine import host
from kd_perception.ros.input_monitor import InputMonitor, InputState
from kd_perception.runtime.frame_counters import FrameCounts, Percentiles, worst_stage
from kd_perception.runtime.model import Model

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True)
class InputView:
    """What the `input` task reports."""

    topic: str
    lifecycle: str
    enabled: bool
    timeout: float
    monotonic: float
    hint: str
    monitor: InputMonitor
    counts: FrameCounts


@dataclass(frozen=True)
class LatencyView:
    """What the `latency` task reports; times in ms."""

    budget_ms: float
    budget_misses: int
    fps_out: float
    percentiles: dict[str, Percentiles]


@dataclass(frozen=True)
class ModelView:
    """What the `model` task reports; see `LiveModel`."""

    model: Model | None = None
    version: int = 0
    failure: str = ''
    reload_failure: str = ''
    building_s: float = 0.0
    engine_errors: int = 0
    degradation: str = ''


def input_status(view: InputView) -> DiagnosticStatus:
    """waiting: WARN; active: OK, or WARN with a QoS or stamp fault; stale, rejected: ERROR."""
    monitor, counts = view.monitor, view.counts
    state = monitor.state(view.monotonic, view.timeout)
    values: dict[str, Any] = {
        'state': state.value,
        'topic': view.topic,
        'enabled': view.enabled,
        'fps_in': f'{monitor.rate(view.monotonic):.2f}',
        'received': counts.received,
        'published': counts.published,
        'pending': counts.pending,
        **{f'dropped.{cause}': count for cause, count in counts.dropped.items()},
        'lost_by_middleware': monitor.lost,
        **{f'stamp.{fault}': monitor.stamp_faults[fault] for fault in ('missing', 'future', 'backward')},
        'qos': monitor.incompatibility or 'compatible',
        'rejection': monitor.rejection,
    }
    level, message = _input_verdict(view, state)
    return _status('input', level, message, view.topic, values)


def _input_verdict(view: InputView, state: InputState) -> tuple[bytes, str]:
    monitor = view.monitor
    if view.lifecycle != 'active':
        return OK, f'node is {view.lifecycle}'
    if not view.enabled:
        return OK, 'disabled by ~/enable; images are counted and dropped'
    if state is InputState.WAITING:
        return WARN, f'waiting: {monitor.incompatibility or view.hint}'
    if state is InputState.STALE:
        return (
            ERROR,
            f'stale: no image for {monitor.silence(view.monotonic):.1f} s; {monitor.incompatibility or view.hint}',
        )
    if state is InputState.REJECTED:
        return ERROR, f'rejected: {monitor.rejection}'
    if monitor.incompatibility:
        return WARN, f'active, but {monitor.incompatibility}'
    faults = [f'{count} {fault}' for fault, count in monitor.stamp_faults.items() if count]
    if faults:
        return WARN, f'active, but stamps are odd ({", ".join(faults)}): age and transport of those frames mean nothing'
    return OK, 'active'


def latency_status(view: LatencyView) -> DiagnosticStatus:
    """WARN when the p95 of age is over the budget, ERROR when its median is."""
    values: dict[str, Any] = {
        'budget_ms': f'{view.budget_ms:g}',
        'budget_misses': view.budget_misses,
        'fps_out': f'{view.fps_out:.2f}',
        'worst_stage': worst_stage(view.percentiles) or '',
    }
    for stage, p in view.percentiles.items():
        values[f'{stage}_ms'] = f'p50 {p.p50:.2f} p95 {p.p95:.2f} p99 {p.p99:.2f} max {p.max:.2f}'
    celsius = host.temperature()
    values['temperature_c'] = 'not told' if celsius is None else f'{celsius:.1f}'
    values['power_mode'] = host.governor() or 'not told'
    level, message = _latency_verdict(view)
    return _status('latency', level, message, '', values)


def _latency_verdict(view: LatencyView) -> tuple[bytes, str]:
    age = view.percentiles.get('age')
    if age is None:
        return OK, 'no frame yet'
    figures = f'age p50 {age.p50:.1f} ms, p95 {age.p95:.1f} ms, budget {view.budget_ms:g} ms'
    if age.p50 > view.budget_ms:
        return ERROR, f'over budget: {figures}; slowest stage: {worst_stage(view.percentiles)}'
    if age.p95 > view.budget_ms:
        return WARN, f'sometimes over budget: {figures}; slowest stage: {worst_stage(view.percentiles)}'
    return OK, figures


def model_status(view: ModelView) -> DiagnosticStatus:
    """What really runs. WARN when it is not what was wished for, ERROR with the reason when none runs or the engine failed."""
    values: dict[str, Any] = {
        'engine_errors': view.engine_errors,
        'database_version': view.version,
        'building_s': f'{view.building_s:.1f}',
        'reload_failure': view.reload_failure,
        'degradation': view.degradation or 'none',
    }
    warnings = [view.reload_failure, view.degradation]
    message = 'no model loaded'
    if view.model:
        bundle, artifact, info = view.model.bundle, view.model.artifact, view.model.info
        message = f'{bundle.name} {info.precision} on {info.engine} ({info.provider}, {info.threads} threads)'
        values |= {
            'bundle': bundle.name,
            'folder': bundle.folder,
            'precision': info.precision,
            'engine': info.engine,
            'provider': info.provider,
            'device': info.device,
            'threads': info.threads,
            'sha256': artifact.sha256,
            'tiles': view.model.detector.plan or view.model.settings.tiles,
            'map': artifact.measured_map if artifact.measured_map is not None else 'not measured',
            **{f'version.{name}': version for name, version in info.versions.items()},
            **view.model.selection.as_dict(),
        }
        warnings += view.model.warnings()
    if view.building_s:
        message += f'; another one has been in the making for {view.building_s:.0f} s'
    warning = '; '.join(filter(None, warnings))
    level = ERROR if view.failure else WARN if warning else OK
    message = view.failure or (f'{message}; {warning}' if warning else message)
    return _status('model', level, message, values.get('sha256', '')[:12], values)


def _status(task: str, level: bytes, message: str, hardware_id: str, values: dict[str, Any]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=task,
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
