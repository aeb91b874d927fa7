"""Charts of the report as inline SVG: curves, histograms, timelines. Colors come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Point = tuple[float, float]
Format = Callable[[float], str]

SERIES_COLORS = 7
"""Colors in the style sheet; further series begin again with dashed lines."""

LONGEST_NAME = 28
"""Letters of a name beside a dot; the pointer tells the rest."""

_LETTER = 7.5  # width of a letter at the charts' font size, rather too wide, for labels that must not collide
FATES = ('processed', 'superseded', 'stale')


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis, about as many as asked."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / about))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= about + 0.5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]


class Chart:
    """An SVG under construction: two axes with their grid, and what is drawn over it.

    Args:
        label: what the chart shows, for those who do not see it.
        x: low and high of the horizontal axis.
        y: low and high of the vertical axis.
        size: width and height in the SVG's own pixels; it scales with the page.
        x_title: under the axis.
        y_title: above the axis.
        x_format: writes a tick of the horizontal axis.
        y_format: writes a tick of the vertical axis.
        nearest: what the pointer finds: the nearest point (`xy`) or the nearest column (`x`).
    """

    def __init__(
        self,
        label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        size: tuple[int, int] = (440, 290),
        x_title: str = '',
        y_title: str = '',
        x_format: Format = '{:g}'.format,
        y_format: Format = '{:g}'.format,
        nearest: str = 'xy',
    ) -> None:
        self.width, self.height = size
        self.x = Axis(*_widened(*x), 46, self.width - 22)
        self.y = Axis(*_widened(*y), self.height - 42, 26)
        self._label, self._nearest = label, nearest
        self._parts: list[Markup] = []
        for tick in self.y.ticks():
            self._path('grid', f'M{_n(self.x.start)} {_n(self.y(tick))}H{_n(self.x.end)}')
            self.text(self.x.start - 6, self.y(tick) + 4, y_format(tick), 'end')
        for tick in self.x.ticks(about=max(3, self.width // 80)):
            self._path('grid', f'M{_n(self.x(tick))} {_n(self.y.start)}V{_n(self.y.end)}')
            self.text(self.x(tick), self.y.start + 16, x_format(tick), 'middle')
        self.text((self.x.start + self.x.end) / 2, self.height - 8, x_title, 'middle', 'title')
        self.text(8, 14, y_title, 'start', 'title')

    def text(self, x: float, y: float, words: str, anchor: str = 'start', style: str = 'tick') -> None:
        """Write words at a pixel."""
        template = '<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>'
        self._parts.append(Markup(template).format(style, _n(x), _n(y), anchor, words))

    def line(self, points: Sequence[Point], style: str, label: str = '', tips: Sequence[str] = ()) -> None:
        """Draw a line through points in values; each point may say something under the pointer."""
        pixels = ' '.join(f'{_n(self.x(x))},{_n(self.y(y))}' for x, y in points)
        template = '<polyline class="line {}" data-series="{}" points="{}"{}/>'
        self._parts.append(Markup(template).format(style, label, pixels, _tips(tips)))

    def bars(self, bars: Iterable[tuple[float, float, float, float]], style: str, label: str = '') -> None:
        """Draw bars, each from x1 to x2 and from y1 to y2 in values, as one shape."""
        path = ''.join(
            f'M{_n(self.x(x1))} {_n(self.y(y1))}H{_n(self.x(x2))}V{_n(self.y(y2))}H{_n(self.x(x1))}Z'
            for x1, x2, y1, y2 in bars
        )
        self._path(f'bar {style}', path, label)

    def dots(self, points: Iterable[Point], style: str, radius: float = 2.5, label: str = '') -> None:
        """Draw round dots, as one shape."""
        r = _n(radius)
        path = ''.join(
            f'M{_n(self.x(x) - radius)} {_n(self.y(y))}a{r} {r} 0 1 0 {_n(2 * radius)} 0a{r} {r} 0 1 0 {_n(-2 * radius)} 0Z'
            for x, y in points
        )
        self._path(f'bar {style}', path, label)

    def probe(self, points: Sequence[Point], tips: Sequence[str]) -> None:
        """Say something under the pointer at points in values, and draw nothing."""
        self.line(points, 'probe', tips=tips)

    def rule(self, x: float, words: str, style: str = '', row: int = 0) -> None:
        """Draw a labeled vertical line at a value, the label in a row of its own so that neighbors stay legible."""
        pixel, top = self.x(x), self.y.end + 12 + 14 * row
        self._path(f'rule {style}', f'M{_n(pixel)} {_n(self.y.start)}V{_n(self.y.end)}')
        fits = pixel + 4 + _LETTER * len(words) < self.width
        self.text(pixel + (4 if fits else -4), top, words, 'start' if fits else 'end', f'rule-label {style}')

    def svg(self) -> Markup:
        """The finished element."""
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" data-nearest="{}">{}'
            '<circle class="marker" r="4.5" cx="-99" cy="-99"/></svg>'
        ).format(self.width, self.height, self._label, self._nearest, Markup('').join(self._parts))

    def _path(self, style: str, path: str, label: str = '') -> None:
        if path:
            template = '<path class="{}" data-series="{}" d="{}"/>' if label else '<path class="{0}" d="{2}"/>'
            self._parts.append(Markup(template).format(style, label, path))


def precision_recall(curves: Sequence[dict[str, Any]], point: dict[str, Any]) -> Markup:
    """Precision over recall of every class and of all together, and where the bundle's threshold stands.

    Args:
        curves: of each `name`, `style` and `points` (recall, precision, threshold).
        point: `recall`, `precision` and `threshold` of the operating point.
    """
    chart = Chart(
        'Precision over recall',
        (0, 1),
        (0, 1),
        x_title='recall',
        y_title='precision',
        x_format=percent,
        y_format=percent,
    )
    for curve in curves:
        name, points = curve['name'], curve['points']
        tips = [f'{name}\nrecall {r:.1%}, precision {p:.1%}\nscore ≥ {t:.2f}' for r, p, t in points]
        chart.line([(r, p) for r, p, _ in points], curve['style'], name, tips)
    place = (point['recall'], point['precision'])
    chart.dots([place], 'operating-point', 5)
    words = f'threshold {point["threshold"]:.2f}\nrecall {place[0]:.1%}, precision {place[1]:.1%}'
    chart.probe([place], [f'the bundle’s {words}'])
    return chart.svg()


def latency_histogram(latency: dict[str, Any]) -> Markup:
    """How many frames took how long, with the percentiles."""
    edges, counts = latency['histogram']['edges_ms'], latency['histogram']['counts']
    total = latency['stages_ms']['total']
    chart = Chart(
        'Histogram of latency', (0, edges[-1]), (0, 1.4 * max(counts)), x_title='ms', y_title='frames', nearest='x'
    )
    columns = list(zip(edges, edges[1:], counts, strict=False))
    chart.bars([(low, high, 0, count) for low, high, count in columns], 's1')
    chart.probe(
        [((low + high) / 2, count) for low, high, count in columns],
        [f'{low:.1f} – {high:.1f} ms\n{count} of {latency["frames"]} frames' for low, high, count in columns],
    )
    for row, key in enumerate(('p50', 'p95', 'p99')):
        chart.rule(min(total[key], edges[-1]), f'{key} {total[key]:.1f} ms', row=row)
    return chart.svg()


def reliability(calibration: dict[str, Any]) -> Markup:
    """Precision of detections over their score: on the diagonal the scores mean what they say."""
    bins = calibration['bins']
    most = max((entry['detections'] for entry in bins), default=1)
    chart = Chart(
        'Reliability of the scores',
        (0, 1),
        (0, 1),
        x_title='score',
        y_title='share that is right',
        x_format=percent,
        y_format=percent,
        nearest='x',
    )
    chart.bars([(b['low'], b['high'], 0, 0.15 * b['detections'] / most) for b in bins], 'faint')
    chart.line([(0, 0), (1, 1)], 'diagonal')
    for b in bins:
        chart.line([(b['mean_score'], b['mean_score']), (b['mean_score'], b['precision'])], 'gap')
    points = [(b['mean_score'], b['precision']) for b in bins]
    tips = [
        f'scores {b["low"]:.2f} – {b["high"]:.2f}, mean {b["mean_score"]:.2f}\n'
        f'{b["precision"]:.1%} of {b["detections"]} detections are right'
        for b in bins
    ]
    chart.line(points, 's1')
    chart.dots(points, 's1', 4)
    chart.probe(points, tips)
    return chart.svg()


def timeline(frames: Sequence[Sequence[Any]], columns: int) -> Markup:
    """Milliseconds from arrival to result over the bag's time, and below when frames were dropped, colored by fate.

    Args:
        frames: arrival in s, fate, and ms to the result or None.
        columns: most columns drawn; with more frames each column tells of several.
    """
    first, last = frames[0][0], frames[-1][0]
    width = ((last - first) or 1.0) / min(columns, len(frames))
    highest = max((ms for _, _, ms in frames if ms is not None), default=1.0)
    floor = -0.16 * highest
    chart = Chart(
        'Latency over time',
        (first, last + width),
        (floor, 1.08 * highest),
        size=(960, 260),
        x_title='s',
        y_title='ms from arrival to result; below: frames dropped',
        y_format=lambda value: f'{value:g}' if value >= 0 else '',
        nearest='x',
    )
    groups = _columns(frames, first, width, columns)
    slowest, tips, where = [], [], []
    dropped: dict[str, list[tuple[float, float, float, float]]] = {fate: [] for fate in FATES[1:]}
    for index, group in groups:
        left = first + index * width
        answered = [ms for _, _, ms in group if ms is not None]
        if answered:
            slowest.append((left + 0.1 * width, left + 0.9 * width, 0.0, max(answered)))
        lower = 0.02 * floor
        for fate, bars in dropped.items():
            share = sum(entry[1] == fate for entry in group) / len(group)
            if share:
                bars.append((left + 0.05 * width, left + 0.95 * width, lower, lower + 0.96 * floor * share))
                lower += 0.96 * floor * share
        where.append((left + width / 2, max(answered, default=0.0)))
        tips.append(_column_tip(group))
    chart.bars(slowest, 'processed', 'processed')
    for fate, bars in dropped.items():
        chart.bars(bars, fate, fate)
    chart.probe(where, tips)
    return chart.svg()


def _columns(
    frames: Sequence[Sequence[Any]], first: float, width: float, columns: int
) -> list[tuple[float, list[Sequence[Any]]]]:
    """Frames in columns of equal time; each in its own place where there are few enough."""
    if len(frames) <= columns:
        return [((frame[0] - first) / width, [frame]) for frame in frames]
    groups: dict[int, list[Sequence[Any]]] = {}
    for frame in frames:
        groups.setdefault(min(int((frame[0] - first) / width), columns - 1), []).append(frame)
    return [(float(index), group) for index, group in groups.items()]


def _column_tip(group: Sequence[Sequence[Any]]) -> str:
    answered = [ms for _, _, ms in group if ms is not None]
    if len(group) == 1:
        return f'at {group[0][0]:.2f} s: {group[0][1]}' + (f'\n{answered[0]:.1f} ms' if answered else '')
    counts = ', '.join(f'{n} {fate}' for fate in FATES if (n := sum(entry[1] == fate for entry in group)))
    slowest = f'\nslowest {max(answered):.1f} ms' if answered else ''
    return f'{group[0][0]:.2f} – {group[-1][0]:.2f} s\n{counts}{slowest}'


def pareto(points: Sequence[tuple[str, float, float]], best: Sequence[int], accuracy_name: str) -> Markup:
    """Accuracy over p95 latency; what no other beats in both is joined by a line.

    Args:
        points: name, p95 latency in ms and accuracy of each.
        best: indices of the Pareto-optimal ones, by rising latency.
        accuracy_name: of the vertical axis.
    """
    slowest = max(latency for _, latency, _ in points)
    values = [accuracy for _, _, accuracy in points]
    spread = max(max(values) - min(values), 0.1)
    low, high = max(0.0, min(values) - 0.3 * spread), min(1.0, max(values) + 0.3 * spread)
    chart = Chart(
        'Accuracy over latency',
        (0, 1.25 * slowest),
        (low, high),
        x_title='p95 latency in ms',
        y_title=accuracy_name,
        y_format='{:.3g}'.format,
    )
    if len(best) > 1:
        chart.line([points[i][1:] for i in best], 'front')
    taken = [_Box.around(chart.x(latency), chart.y(accuracy), 6) for _, latency, accuracy in points]
    for i, (name, latency, accuracy) in enumerate(points):
        optimal = i in best
        chart.dots([(latency, accuracy)], 'best' if optimal else 'beaten', 5 if optimal else 4)
        chart.probe([(latency, accuracy)], [f'{name}\n{accuracy_name} {accuracy:.3f}, p95 {latency:.1f} ms'])
        _name_beside(chart, chart.x(latency), chart.y(accuracy), name, 'name' if optimal else 'tick', taken)
    return chart.svg()


@dataclass(frozen=True)
class _Box:
    """A rectangle in pixels that a label must keep off."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, radius: float) -> _Box:
        return cls(x - radius, y - radius, x + radius, y + radius)

    def overlaps(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def _name_beside(chart: Chart, x: float, y: float, name: str, style: str, taken: list[_Box]) -> None:
    """Write a name at the first place beside a dot that is free; where there is none, the pointer tells it."""
    words = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + '…'
    width, half = _LETTER * len(words), 7
    for left, middle in ((x + 9, y), (x - 9 - width, y), (x - width / 2, y + 15), (x - width / 2, y - 15)):
        place = _Box(left, middle - half, left + width, middle + half)
        inside = place.left >= 0 and place.right <= chart.width and place.top >= 0 and place.bottom <= chart.y.start
        if inside and not any(place.overlaps(other) for other in taken):
            taken.append(place)
            chart.text(left, middle + 4, words, style=style)
            return


def stage_shares(stages: dict[str, dict[str, float]]) -> list[tuple[str, float, float]]:
    """Name, mean in ms and share of the mean total of every stage."""
    total = stages['total']['mean'] or 1.0
    return [(name, times['mean'], times['mean'] / total) for name, times in stages.items() if name != 'total']


def series_style(index: int) -> str:
    """Color and dashes of a curve: seven colors, then the same dashed, then dotted."""
    dash = ('', ' dashed', ' dotted')[index // SERIES_COLORS % 3]
    return f's{1 + index % SERIES_COLORS}{dash}'


def percent(value: float) -> str:
    """A share as whole percent."""
    return f'{value:.0%}'.replace('%', '\u202f%')


def _tips(tips: Sequence[str]) -> Markup:
    return Markup(' data-tips="{}"').format('|'.join(tip.replace('|', '¦') for tip in tips)) if tips else Markup('')


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + 1.0)


def _n(value: float) -> str:
    """A pixel with one decimal, as short as may be."""
    text = f'{value:.1f}'
    return text[:-2] if text.endswith('.0') else text
