"""The report as one HTML file: no network, no outside font or script, nothing in it that a bag's name could run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jinja2
from markupsafe import Markup

from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.report import charts
from kd_perception.report.worst_frames import WorstFrame
from kd_perception.whole_file import write_whole

PICTURE_WIDTH = 1120
JPEG_QUALITY = 80
TIMELINE_COLUMNS = 480
ALL_TIMELINES_COLUMNS = 8000
"""Columns that the timelines of all bags share, so that a hundred bags do not make a file of many megabytes."""
CURVES_SHOWN = 6
"""Classes whose curves are shown at first; the others appear at a click."""


@dataclass(frozen=True)
class Card:
    """One headline figure.

    Attributes:
        label: what it is.
        value: ready to read.
        note: a line below, may be empty.
        hint: its definition in a sentence.
    """

    label: str
    value: str
    note: str = ''
    hint: str = ''


def write_html(report: dict[str, Any], pictures: Sequence[WorstFrame], path: Path) -> None:
    """Write a report for people.

    Args:
        report: what `make_report` gave, or a report.json read again.
        pictures: of the frames with the most errors; may be empty.
        path: the file; one that is there is replaced at once or not at all.

    Raises:
        KdPerceptionError: the file cannot be written.
    """
    page = render(
        'report.html',
        report=report,
        title=f'{report["bundle"]["name"]} {report["bundle"]["precision"]}',
        summary=summary(report),
        cards=cards(report),
        classes=_class_rows(report),
        curves=_curves(report),
        timelines=_timelines(report),
        fates=_fates(report),
        pictures=[_picture(frame, report['bundle']['classes']) for frame in pictures],
        charts=charts,
    )
    write_whole(path, page)


def render(template: str, **values: Any) -> str:
    """A page from a template of this package, with everything in it escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        'share': share,
        'ms': milliseconds,
        'figure': figure,
        'duration': duration,
        'counted': counted,
    }
    script = _read('page.js')
    return environment.get_template(template).render(
        **values,
        style=Markup(_read('page.css')),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def summary(report: dict[str, Any]) -> list[str]:
    """The report in a few sentences."""
    return [
        *_accuracy_sentences(report),
        *_latency_sentences(report),
        *_streaming_sentences(report),
        *_tracking_sentences(report),
    ]


def _accuracy_sentences(report: dict[str, Any]) -> Iterable[str]:
    accuracy = report['accuracy']
    if not accuracy:
        yield 'There is no ground truth for these frames, so nothing is said about accuracy.'
        return
    point = accuracy['at_threshold']
    yield (
        f'At its threshold of {point["threshold"]:g} the detector finds {share(point["recall"])} of the objects, and '
        f'{share(point["precision"])} of what it reports is right: {point["false_alarms_per_image"]:.2f} false alarms an image.'
    )


def _latency_sentences(report: dict[str, Any]) -> Iterable[str]:
    latency = report['latency']
    if not latency['frames']:
        yield 'No frame could be processed.'
        return
    total = latency['stages_ms']['total']
    yield (
        f'Half of the frames take less than {milliseconds(total["p50"])}, 95 % less than {milliseconds(total["p95"])}: '
        f'{latency["throughput_fps"]:.1f} frames a second on this machine.'
    )


def _streaming_sentences(report: dict[str, Any]) -> Iterable[str]:
    streaming, accuracy = report['streaming'], report['accuracy']
    if not streaming:
        return
    frames = sum(streaming[fate] for fate in charts.FATES)
    if frames:
        yield f'In real time at rate {streaming["rate"]:g} it answers {share(streaming["processed"] / frames)} of the frames.'
    if accuracy and 'sap50' in streaming:
        lost = 100 * (accuracy['map50'] - streaming['sap50'])
        yield f'Being late costs it {f"{lost:.1f} points" if lost >= 0.05 else "nothing"} of AP50.'


def _tracking_sentences(report: dict[str, Any]) -> Iterable[str]:
    tracking = report.get('tracking')
    if tracking:
        yield (
            f'Ids: HOTA {figure(tracking["hota"])}, IDF1 {figure(tracking["idf1"])}; {tracking["id_switches"]} switches over '
            f'{tracking["tracks"]} objects.'
        )


def cards(report: dict[str, Any]) -> list[Card]:
    """The headline figures, most important first."""
    return [*_accuracy_cards(report), *_latency_cards(report), *_loss_cards(report)]


def _accuracy_cards(report: dict[str, Any]) -> Iterable[Card]:
    accuracy, streaming = report['accuracy'], report['streaming'] or {}
    if not accuracy:
        return
    known = accuracy['objects'] > 0
    for name, key, streamed in (('AP50', 'map50', 'sap50'), ('AP50-95', 'map', 'sap')):
        late = f's{name} {figure(streaming[streamed])}' if streamed in streaming else ''
        hint = 'Average precision, the mean over the classes, as COCO computes it.'
        yield Card(name, figure(accuracy[key] if known else None), late, hint)
    point = accuracy['at_threshold']
    yield Card('precision', share(point['precision']), f'at threshold {point["threshold"]:g}', 'Right ÷ reported.')
    yield Card('recall', share(point['recall']), f'F1 {figure(point["f1"])}', 'Right ÷ objects that are there.')


def _latency_cards(report: dict[str, Any]) -> Iterable[Card]:
    latency = report['latency']
    if not latency['frames']:
        return
    total = latency['stages_ms']['total']
    hint = 'From the worker’s taking a frame to its detections.'
    yield Card('latency p50', milliseconds(total['p50']), f'mean {milliseconds(total["mean"])}', hint)
    yield Card('latency p95', milliseconds(total['p95']), f'worst {milliseconds(total["max"])}', hint)
    yield Card('frames/s', f'{latency["throughput_fps"]:.1f}', counted(latency['frames'], 'frame'), '1 ÷ mean latency.')


def _loss_cards(report: dict[str, Any]) -> Iterable[Card]:
    streaming = report['streaming']
    undecodable = sum(bag['undecodable'] for bag in report['bags'])
    if streaming:
        frames = sum(streaming[fate] for fate in charts.FATES)
        dropped = frames - streaming['processed']
        hint = 'Frames that a newer one replaced before the detector was free, or that grew too old.'
        yield Card(
            'dropped', share(dropped / frames if frames else 0.0), f'{dropped} of {counted(frames, "frame")}', hint
        )
    elif undecodable:
        yield Card('undecodable', str(undecodable), 'frames', 'Frames that could not be decoded.')
    elif report['accuracy']:
        alarms = report['accuracy']['at_threshold']['false_alarms_per_image']
        yield Card('false alarms', f'{alarms:.2f}', 'per image', 'Wrong detections at the bundle’s threshold ÷ images.')


def _class_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    if not report['accuracy']:
        return []
    streamed = (report['streaming'] or {}).get('per_class', {})
    return [
        {'name': name, **entry, 'sap50': streamed.get(name, {}).get('map50')}
        for name, entry in report['accuracy']['per_class'].items()
    ]


def _curves(report: dict[str, Any]) -> list[dict[str, Any]]:
    """All classes together, then each class, those with most objects first."""
    if not report['accuracy']:
        return []
    by_objects = sorted(report['accuracy']['per_class'].items(), key=lambda item: -item[1]['objects'])
    rows = [{'name': 'all', 'style': 'all', 'points': report['accuracy']['curve'], 'shown': True}]
    rows += [
        {'name': name, 'style': charts.series_style(index), 'points': entry['curve'], 'shown': index < CURVES_SHOWN}
        for index, (name, entry) in enumerate((name, entry) for name, entry in by_objects if entry['curve'])
    ]
    return [row for row in rows if row['points']]


def _timelines(report: dict[str, Any]) -> list[tuple[str, Markup]]:
    bags = [bag for bag in (report['streaming'] or {}).get('timeline', []) if bag['frames']]
    columns = max(60, min(TIMELINE_COLUMNS, ALL_TIMELINES_COLUMNS // max(len(bags), 1)))
    return [(bag['bag'], charts.timeline(bag['frames'], columns)) for bag in bags]


def _fates(report: dict[str, Any]) -> list[tuple[str, int, float]]:
    """Fate, number of frames and share of them."""
    streaming = report['streaming']
    frames = sum(streaming[fate] for fate in charts.FATES) if streaming else 0
    return [(fate, streaming[fate], streaming[fate] / frames) for fate in charts.FATES] if frames else []


def _picture(frame: WorstFrame, class_names: Sequence[str]) -> dict[str, Any]:
    height, width = frame.image.shape[:2]
    return {
        'frame': frame,
        'jpeg': _jpeg(frame.image),
        'width': width,
        'height': height,
        'boxes': [
            *_boxes(frame.right, 'right', 'right: {}', class_names),
            *_boxes(frame.missed, 'missed', 'missed: {}', class_names),
            *_boxes(frame.false_alarms, 'false-alarm', 'false alarm: {}', class_names),
        ],
    }


def _boxes(found: Detections, verdict: str, words: str, class_names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True)
    return [
        {
            'verdict': verdict,
            'x': round(box[0], 1),
            'y': round(box[1], 1),
            'width': round(box[2] - box[0], 1),
            'height': round(box[3] - box[1], 1),
            'tip': words.format(class_names[class_id]) + ('' if verdict == 'missed' else f' {score:.2f}'),
        }
        for box, score, class_id in rows
    ]


def _jpeg(image: BgrImage) -> str:
    height, width = image.shape[:2]
    if width > PICTURE_WIDTH:
        size = (PICTURE_WIDTH, max(1, round(height * PICTURE_WIDTH / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(image.dtype, copy=False)
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode()


def share(value: float | None) -> str:
    """0.837 → 84 %, with a narrow space that does not break; small and nearly full shares keep a decimal."""
    if value is None:
        return '–'
    whole = f'{value:.0%}' if 0.1 <= value <= 0.9 or value in (0, 1) else f'{value:.1%}'
    return whole.replace('%', '\u202f%')


def figure(value: float | None) -> str:
    """An average precision or the like with three decimals."""
    return '–' if value is None else f'{value:.3f}'


def milliseconds(value: float) -> str:
    """Three figures and the unit, which a line's end does not part."""
    digits = 0 if value >= 100 else 1 if value >= 1 else 2
    return f'{value:.{digits}f}\u00a0ms'


def counted(number: int, noun: str) -> str:
    """1 frame, 2 frames."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest} s' if minutes else f'{seconds:.1f} s'


def _read(name: str) -> str:
    return (resources.files('kd_perception.report') / 'templates' / name).read_text(encoding='utf-8')
