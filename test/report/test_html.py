"""The report for people: what it says, that nothing in it runs, and that every kind of evaluation has a page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import jsonschema
import numpy as np
import pytest
from synthetic_results import synthetic_result

from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.evaluation.results import BagFailure
from kd_perception.report.compare import SCHEMA_FILE
from kd_perception.report.html import cards, milliseconds, share, summary, write_html
from kd_perception.report.report import Streaming, make_report
from kd_perception.report.worst_frames import WorstFrame

HOSTILE = '<script>window.hit=1</script>"\'|&{{7*7}}'


@pytest.fixture(scope='module')
def bundle(repository):
    return load_bundle(repository / 'models' / 'aerial_traffic')


@pytest.fixture(scope='module')
def report_of(bundle):
    """A report as it is read from report.json, checked against the schema."""
    schema = json.loads(SCHEMA_FILE.read_text())

    def make(results, failures=(), streaming=None, classes=None):
        named = replace(bundle, classes=tuple(classes)) if classes else bundle
        report = make_report(named, bundle.artifacts[0], results, failures, streaming, 'kd_perception evaluate …')
        report = json.loads(json.dumps(report, allow_nan=False))
        jsonschema.validate(report, schema)
        return report

    return make


class Page(HTMLParser):
    """A parsed page: its elements, its words, and its scripts."""

    VOID = ('meta', 'link', 'br', 'image', 'rect', 'circle', 'polyline', 'path')

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], '', []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.open and self.open[-1] not in ('script', 'style'):
            self.words += data

    def all(self, tag, style=''):
        return [a for t, a in self.elements if t == tag and style in [*a.get('class', '').split(), '']]


@pytest.fixture
def page_of(tmp_path):
    def make(report, pictures=()):
        write_html(report, pictures, tmp_path / 'report.html')
        return Page((tmp_path / 'report.html').read_text())

    return make


def picture(missed=1):
    random = np.random.default_rng(0)
    boxes = Detections(np.array([[10, 20, 60, 80]]), np.array([0.9]), np.array([0]))
    image = random.integers(0, 255, (72, 128, 3), np.uint8)
    return WorstFrame('flight', 1_000_000_000, 1.0, image, boxes, Detections.empty(), boxes.select(slice(missed)))


def test_a_real_time_report_says_what_it_is_about(report_of, page_of):
    results = [synthetic_result('first', latency_ms=70), synthetic_result('second', seed=1)]
    report = report_of(results, [BagFailure('third', results[0].path, 'truncated')], Streaming(1.5))
    page = page_of(report, [picture()])
    accuracy, streaming = report['accuracy'], report['streaming']
    total = report['latency']['stages_ms']['total']
    for words in (
        'in real time at rate 1.5',
        f'{accuracy["map50"]:.3f}',
        f'sAP50 {streaming["sap50"]:.3f}',
        f'{total["p95"]:.1f}\u00a0ms',
        f'superseded {streaming["superseded"]}',
        'third was left out: truncated',
        'cyclist',
        report['bundle']['sha256'],
        report['host']['cpu'],
        '1 missed',
        'kd_perception evaluate …',
    ):
        assert words in page.words
    assert len(page.all('svg', 'chart')) == 5  # precision-recall, reliability, histogram, a timeline per bag
    assert len(page.all('svg', 'picture')) == 1


@pytest.mark.parametrize(
    ('results', 'streaming', 'said', 'charts'),
    [
        pytest.param([], None, 'No frame could be processed', 0, id='no bags'),
        pytest.param([], Streaming(1), 'No bag was evaluated', 0, id='no bags in real time'),
        pytest.param([synthetic_result(frames=0)], Streaming(1), 'No frame could be processed', 0, id='no frames'),
        pytest.param([synthetic_result(frames=1)], Streaming(1), '1 frame,', 4, id='one frame'),
        pytest.param([synthetic_result(truth=False)], None, 'no ground truth', 1, id='no ground truth'),
        pytest.param([synthetic_result(truth=False)], Streaming(1), 'no ground truth', 2, id='streamed without it'),
        pytest.param([synthetic_result(classes=0)], None, 'AP50', 2, id='nothing there to be found'),
    ],
)
def test_every_evaluation_has_a_page(report_of, page_of, results, streaming, said, charts):
    page = page_of(report_of(results, streaming=streaming))
    assert said in page.words
    assert len(page.all('svg', 'chart')) == charts


def test_rejected_frames_are_counted_with_the_first_reason(report_of, page_of):
    result = synthetic_result(frames=3)
    broken = replace(result.frames[0], rejected='the JPEG is truncated')
    page = page_of(report_of([replace(result, frames=(broken, *result.frames[1:]))]))
    assert any(a.get('title') == 'the JPEG is truncated' for a in page.all('td'))


def test_eighty_classes_and_a_hundred_bags_stay_readable(report_of, page_of, tmp_path):
    names = [f'class {n}' for n in range(80)]
    results = [synthetic_result(f'bag {n}', frames=25, classes=80, count=90, seed=n, truth=n < 2) for n in range(100)]
    page = page_of(report_of(results, streaming=Streaming(2), classes=names))
    assert (tmp_path / 'report.html').stat().st_size < 3e6
    pressed = [a['aria-pressed'] for a in page.all('button', 'key')]
    assert len(pressed) == 81
    assert pressed.count('true') == 7
    assert len(page.all('option')) == 100


def test_a_long_drive_is_drawn_in_columns(report_of, page_of, tmp_path):
    page_of(report_of([synthetic_result(frames=6_000, classes=1, truth=False)], streaming=Streaming(1)))
    assert (tmp_path / 'report.html').stat().st_size < 2e5


def test_names_from_outside_stay_words(report_of, page_of):
    result = replace(synthetic_result(HOSTILE, frames=20), topic=HOSTILE)
    failure = BagFailure(HOSTILE, result.path, HOSTILE)
    report = report_of(
        [result, result], [failure], Streaming(1, source=HOSTILE, latencies_ms=[80.0] * 40), [HOSTILE] * 5
    )
    report['command'] = HOSTILE
    report['host']['cpu'] = HOSTILE
    shown = replace(picture(), bag=HOSTILE)
    page = page_of(report, [shown])
    assert len(page.all('script')) == 1
    assert not any(name.startswith('on') for _, attributes in page.elements for name in attributes)
    assert page.words.count(HOSTILE) >= 9
    assert {a['data-series'] for a in page.all('button', 'key')} >= {'all', HOSTILE}


def test_nothing_is_fetched_from_anywhere(report_of, page_of, tmp_path):
    page = page_of(report_of([synthetic_result(frames=5)], streaming=Streaming(1)), [picture()])
    addresses = [a[key] for _, a in page.elements for key in ('src', 'href') if a.get(key)]
    assert all(address.startswith(('data:', '#')) for address in addresses)
    assert not re.search(r'url\(|@import|https?:', (tmp_path / 'report.html').read_text())
    policy = next(a['content'] for a in page.all('meta') if 'http-equiv' in a)
    assert "default-src 'none'" in policy


def test_boxes_are_drawn_by_verdict_where_they_are(report_of, page_of):
    page = page_of(report_of([synthetic_result(frames=5)]), [picture()])
    assert [a['data-tip'] for a in page.all('g', 'box')] == ['right: car 0.90', 'missed: car']
    rect = page.all('rect')[0]
    assert (rect['x'], rect['y'], rect['width'], rect['height']) == ('10.0', '20.0', '50.0', '60.0')


def test_the_summary_reads_like_a_sentence(report_of):
    report = report_of([synthetic_result(latency_ms=150)], streaming=Streaming(1))
    accuracy, latency, answered, late = summary(report)
    assert 'At its threshold of 0.45 the detector finds' in accuracy
    assert '95 % less than' in latency
    assert 'it answers' in answered
    assert 'points of AP50' in late


def test_lateness_that_costs_nothing_is_said_so(report_of):
    report = report_of([synthetic_result(latency_ms=1)], streaming=Streaming(1))
    report['streaming']['sap50'] = report['accuracy']['map50'] + 1e-6
    assert summary(report)[-1] == 'Being late costs it nothing of AP50.'


@pytest.mark.parametrize(
    ('streaming', 'last'), [(None, 'false alarms'), (Streaming(1), 'dropped')], ids=['every', 'realtime']
)
def test_the_headline_has_eight_figures(report_of, streaming, last):
    labels = [card.label for card in cards(report_of([synthetic_result(frames=5)], streaming=streaming))]
    assert len(labels) == 8
    assert labels[-1] == last


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        (0, '0\u202f%'),
        (0.004, '0.4\u202f%'),
        (0.5, '50\u202f%'),
        (0.996, '99.6\u202f%'),
        (1, '100\u202f%'),
        (None, '–'),
    ],
)
def test_shares_keep_a_decimal_where_it_matters(value, words):
    assert share(value) == words


@pytest.mark.parametrize(('value', 'words'), [(0.123, '0.12\u00a0ms'), (9.87, '9.9\u00a0ms'), (123.4, '123\u00a0ms')])
def test_times_have_about_three_figures(value, words):
    assert milliseconds(value) == words
