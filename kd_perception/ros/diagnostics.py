"""The three tasks on /diagnostics: `input`, `latency`, `model`, each with a level, a sentence and its figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from kd_perception.machine import host
from kd_perception.ros.input_monitor import STAMP_FAULTS, InputMonitor, InputState, Loss
from kd_perception.runtime.frame_counters import FrameCounts, Percentiles, worst_stage
from kd_perception.runtime.model import Model

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

WAITING, NO_MODEL = 'waiting', 'no model'
"""The conditions that every start begins with: before the first image, before a model is loaded."""

QOS = 'QoS'

LOSS_SHARE = 0.05
LOSS_MESSAGES = 3
"""From this share, and this many, of the last ten seconds' images on, their loss is a warning."""


@dataclass(frozen=True)
class TaskReport:
    """One task's status, and the name of its condition, which stays the same while the figures in the sentence change.

    Attributes:
        status: what is published; its name is the task's alone.
        condition: what is not as it should be, in a word or two; empty while all is well.
    """

    status: DiagnosticStatus
    condition: str


@dataclass(frozen=True)
class Verdict:
    """A task's level and sentence, and its condition, see `TaskReport`."""

    level: bytes
    message: str
    condition: str = ''


@dataclass(frozen=True)
class InputView:
    """What the `input` task reports.

    Attributes:
        topic: the resolved topic.
        lifecycle: the node's state.
        enabled: see `~/enable`.
        timeout: seconds of silence after which the input is stale.
        monotonic: now, seconds.
        hint: why no image may be coming.
        monitor: what is known of the frames.
        counts: what became of them.
        incompatibility: the publisher whose QoS does not match, in words.
        clock_fault: what is wrong with the node's clock, in words.
        cure_of_loss: what helps against messages that are lost.
        rejected_lately: frames that could not be decoded since the last report.
    """

    topic: str
    lifecycle: str
    enabled: bool
    timeout: float
    monotonic: float
    hint: str
    monitor: InputMonitor
    counts: FrameCounts
    incompatibility: str = ''
    clock_fault: str = ''
    cure_of_loss: str = ''
    rejected_lately: int = 0


@dataclass(frozen=True)
class LatencyView:
    """What the `latency` task reports; times in ms.

    Attributes:
        extras_ms: median of what is made for listeners after the detections are out: pictures, overlays, stage times.
    """

    lifecycle: str
    budget_ms: float
    budget_misses: int
    fps_out: float
    percentiles: dict[str, Percentiles]
    extras_ms: float = 0.0


@dataclass(frozen=True)
class ModelView:
    """What the `model` task reports; see `LiveModel`.

    Attributes:
        lifecycle: the node's state.
        requested: the model that is being built, in words.
        namesakes: a warning where another node has this node's name.
    """

    lifecycle: str = 'unconfigured'
    model: Model | None = None
    version: int = 0
    failure: str = ''
    reload_failure: str = ''
    building_s: float = 0.0
    requested: str = ''
    engine_errors: int = 0
    degradation: str = ''
    namesakes: str = ''


def input_report(view: InputView) -> TaskReport:
    """waiting: WARN; active: OK, or WARN with what is odd about it; stale, rejected: ERROR."""
    monitor, counts = view.monitor, view.counts
    state = monitor.state(view.monotonic, view.timeout)
    loss = monitor.recent_loss(view.monotonic)
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
        'lost_percent': f'{100 * loss.share:.1f}',
        **{f'stamp.{fault}': monitor.stamp_faults[fault] for fault in STAMP_FAULTS},
        'qos': view.incompatibility or 'compatible',
        'rejection': monitor.rejection,
    }
    return _report('input', _input_verdict(view, state, loss), values)


def _input_verdict(view: InputView, state: InputState, loss: Loss) -> Verdict:
    monitor, silence = view.monitor, view.monitor.silence(view.monotonic)
    if view.lifecycle != 'active':
        return Verdict(OK, f'node is {view.lifecycle}')
    if not view.enabled:
        return Verdict(OK, 'disabled by ~/enable; images are counted and dropped')
    if state is InputState.WAITING:
        return Verdict(WARN, f'waiting: {_causes(view)}', QOS if view.incompatibility else WAITING)
    if state is InputState.STALE:
        return Verdict(ERROR, f'stale: no image for {silence:.1f} s; {_causes(view)}', 'stale')
    if state is InputState.REJECTED:
        return Verdict(ERROR, f'image rejected: {monitor.rejection}', 'rejected')
    return _active_verdict(view, loss)


def _active_verdict(view: InputView, loss: Loss) -> Verdict:
    """Images come and can be decoded; whether anything is odd about them."""
    monitor = view.monitor
    if view.incompatibility:
        return Verdict(WARN, f'active, but {view.incompatibility}', QOS)
    if view.clock_fault:
        return Verdict(WARN, f'active, but {view.clock_fault}', 'clock')
    if loss.lost >= LOSS_MESSAGES and loss.share >= LOSS_SHARE:
        return Verdict(
            WARN,
            f'active, but {loss.lost} of the last {loss.sent} images were lost by the middleware '
            f'({100 * loss.share:.0f} %): {view.cure_of_loss}',
            'loss',
        )
    faults = [f'{count} {fault}' for fault, count in monitor.recent_faults(view.monotonic).items()]
    if faults:
        return Verdict(
            WARN,
            f'active, but stamps are odd ({", ".join(faults)}): age and transport of those frames mean nothing; '
            'synchronize the clocks, or play a bag with clock:=true or restamp:=true',
            'stamps',
        )
    if view.rejected_lately:
        return Verdict(
            WARN, f'active, but {view.rejected_lately} image(s) rejected: {monitor.last_rejection}', 'some rejected'
        )
    return Verdict(OK, 'active')


def _causes(view: InputView) -> str:
    """Why no image comes; the first is the one to look at."""
    return '; '.join(filter(None, [view.clock_fault, view.incompatibility or view.hint]))


def latency_report(view: LatencyView) -> TaskReport:
    """WARN when the p95 of age is over the budget, ERROR when its median is; every figure has a key of its own."""
    values: dict[str, Any] = {
        'budget_ms': f'{view.budget_ms:g}',
        'budget_misses': view.budget_misses,
        'fps_out': f'{view.fps_out:.2f}',
        'worst_stage': worst_stage(view.percentiles) or '',
    }
    for stage, percentiles in view.percentiles.items():
        values |= {f'{stage}.{name}_ms': f'{value:.3f}' for name, value in asdict(percentiles).items()}
    values['extras.median_ms'] = f'{view.extras_ms:.3f}'
    celsius = host.temperature()
    values['temperature_c'] = 'unknown' if celsius is None else f'{celsius:.1f}'
    values['power_mode'] = host.governor() or 'unknown'
    return _report('latency', _latency_verdict(view), values)


def _latency_verdict(view: LatencyView) -> Verdict:
    age = view.percentiles.get('age')
    if view.lifecycle != 'active':
        return Verdict(OK, f'node is {view.lifecycle}')
    if age is None:
        return Verdict(OK, 'no frame yet')
    figures = f'age p50 {age.p50:.1f} ms, p95 {age.p95:.1f} ms, budget {view.budget_ms:g} ms'
    slowest = f'slowest stage: {worst_stage(view.percentiles)}'
    if age.p50 > view.budget_ms:
        return Verdict(ERROR, f'over budget: {figures}; {slowest}', 'over budget')
    if age.p95 > view.budget_ms:
        return Verdict(WARN, f'sometimes over budget: {figures}; {slowest}', 'sometimes over budget')
    return Verdict(OK, figures)


def model_report(view: ModelView) -> TaskReport:
    """What really runs. WARN when it is not what was asked for, or there is none yet; ERROR when none can run."""
    values: dict[str, Any] = {
        'database_version': view.version,
        'engine_errors': view.engine_errors,
        'building_s': f'{view.building_s:.1f}',
        'reload_failure': view.reload_failure,
        'degradation': view.degradation or 'none',
        **(_figures(view.model) if view.model else {}),
    }
    return _report('model', _model_verdict(view), values)


def _figures(model: Model) -> dict[str, Any]:
    artifact, info = model.artifact, model.info
    return {
        'bundle': model.bundle.name,
        'folder': model.bundle.folder,
        'precision': info.precision,
        'engine': info.engine,
        'provider': info.provider,
        'device': info.device,
        'threads': info.threads,
        'warm_ms': f'{model.warm_ms:.3f}',
        'sha256': artifact.sha256,
        'tiles': model.detector.plan or model.settings.tiles,
        'map': artifact.measured_map if artifact.measured_map is not None else 'not measured',
        **{f'version.{name}': version for name, version in info.versions.items()},
        **model.selection.as_dict(),
    }


def _model_verdict(view: ModelView) -> Verdict:
    """Failures and warnings of the model are logged where they happen, so they are no conditions to be logged again."""
    building = f'; another one has been in the making for {view.building_s:.0f} s' if view.building_s else ''
    if view.failure:
        return Verdict(ERROR, view.failure)
    if view.model is None:
        how = f'the node is {view.lifecycle}: configure and activate it'
        if view.requested:
            how = f'building {view.requested} for {view.building_s:.0f} s'
        return Verdict(WARN, '; '.join(filter(None, [f'no model loaded; {how}', view.namesakes])), NO_MODEL)
    bundle, info = view.model.bundle, view.model.info
    runs = f'{bundle.name} {info.precision} on {info.engine} ({info.provider}, {info.threads} threads){building}'
    warnings = [view.reload_failure, view.degradation, *view.model.warnings(), view.namesakes]
    warning = '; '.join(filter(None, warnings))
    if not warning:
        return Verdict(OK, runs)
    return Verdict(WARN, f'{runs}; {warning}', 'two nodes of one name' if view.namesakes else '')


def _report(task: str, verdict: Verdict, values: dict[str, Any]) -> TaskReport:
    values = {'level': verdict.level[0], **values}
    return TaskReport(
        DiagnosticStatus(
            level=verdict.level,
            name=task,
            message=verdict.message,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        ),
        verdict.condition,
    )
