"""Reports side by side: names, the best of each column, what cannot be compared, the Pareto front."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import synthetic_result

from kd_perception.bundles.bundle import load_bundle
from kd_perception.cli.main import main
from kd_perception.errors import KdPerceptionError
from kd_perception.report.compare import Report, as_text, differences, pareto_front, read_reports, table
from kd_perception.report.report import Streaming, make_report


@pytest.fixture(scope='module')
def content(repository):
    """A report as it is read."""
    bundle = load_bundle(repository / 'models' / 'aerial_traffic')
    report = make_report(bundle, bundle.artifacts[0], [synthetic_result(frames=20)], (), Streaming(1))
    return json.loads(json.dumps(report))


@pytest.fixture
def folder_of(content, tmp_path):
    """Writes a report in a folder of that name, altered by the words given."""

    def make(name, **changes):
        report = copy.deepcopy(content)
        for path, value in changes.items():
            *steps, last = path.split('__')
            place = report
            for step in steps:
                place = place[step]
            place[last] = value
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / 'report.json').write_text(json.dumps(report))
        return folder

    return make


def test_reports_are_named_by_their_folders_and_else_by_their_paths(folder_of, tmp_path):
    a, b, c = folder_of('int8'), folder_of('x/same'), folder_of('y/same')
    nightly = tmp_path / 'nightly.json'
    nightly.write_bytes((a / 'report.json').read_bytes())
    names = [report.name for report in read_reports([a, b / 'report.json', c, nightly])]
    assert names == ['int8', str(b / 'report.json'), str(c), 'nightly']


def test_the_best_of_each_column_is_marked(folder_of):
    fast = folder_of('fast', latency__stages_ms__total__p95=12.0, accuracy__map=0.4)
    good = folder_of('good', latency__stages_ms__total__p95=40.0, accuracy__map=0.6)
    text = as_text(read_reports([fast, good]))
    heading, first, second, host = text.splitlines()
    assert heading.split()[:4] == ['report', 'bundle', 'AP50', 'AP50-95']
    assert '12.0*' in first
    assert '0.400 ' in first
    assert '40.0 ' in second + ' '
    assert '0.600*' in second
    assert host.startswith('host: ')


def test_a_figure_that_a_report_lacks_is_a_dash_and_never_the_best(folder_of):
    cells = table(read_reports([folder_of('plain', accuracy=None, streaming=None), folder_of('full')]))
    assert [(cell.text, cell.best) for cell in cells[0][:3]] == [('–', False)] * 3
    assert not any(cell.best for cell in cells[1][:3])


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({}, []),
        ({'bags': []}, ['the bags differ']),
        ({'accuracy__images': 7}, ['the ground truth differs']),
        ({'bundle__classes': ['car']}, ['the classes differ']),
        ({'host__cpu': 'another'}, ['the machines or thread counts differ']),
        ({'host__power_mode': 'powersave'}, ['the machines or thread counts differ']),
        ({'bundle__threads': 9}, ['the machines or thread counts differ']),
        ({'streaming__rate': 2}, ['some are streamed otherwise']),
        ({'accuracy': None, 'streaming': None}, ['the ground truth differs', 'some are streamed otherwise']),
    ],
)
def test_what_cannot_be_compared_is_said(folder_of, change, said):
    warnings = differences(read_reports([folder_of('one'), folder_of('other', **change)]))
    assert len(warnings) == len(said)
    assert all(warning.startswith(words) for warning, words in zip(warnings, said, strict=True))


@pytest.mark.parametrize(
    ('points', 'front'),
    [
        ([], []),
        ([(10, 0.5)], [0]),
        ([(20, 0.6), (10, 0.5)], [1, 0]),
        ([(10, 0.5), (20, 0.5)], [0]),
        ([(10, 0.5), (10, 0.6)], [1]),
        ([(10, 0.5), (10, 0.5)], [0, 1]),
        ([(10, 0.5), (20, 0.4), (30, 0.7)], [0, 2]),
    ],
)
def test_the_pareto_front(points, front):
    assert pareto_front(points) == front


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12))
def test_the_pareto_front_is_what_nothing_beats(points):
    def beaten(a):
        return any(b[0] <= a[0] and b[1] >= a[1] and b != a for b in points)

    assert sorted(pareto_front(points)) == [i for i, point in enumerate(points) if not beaten(point)]


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (None, 'not there'),
        ('{', 'cannot be read'),
        ('[' * 100_000, 'cannot be read'),
        ('[]', 'no report of ours'),
        ('{"schema_version": 2}', 'no report of ours'),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / 'report.json').write_text(text)
    with pytest.raises(KdPerceptionError, match=said):
        read_reports([tmp_path])


def test_the_command_prints_a_table_warns_and_writes_a_page(folder_of, tmp_path, capsys):
    a, b = folder_of('a<b>', host__cpu='<i>slow</i>'), folder_of('plain', accuracy=None)
    assert main(['compare', str(a), str(b), '--out', str(tmp_path / 'compare.html')]) == 0
    printed = capsys.readouterr()
    assert 'host of a<b>: <i>slow</i>' in printed.out
    assert 'warning: the machines' in printed.err
    page = (tmp_path / 'compare.html').read_text()
    assert 'a&lt;b&gt;' in page
    assert '<i>slow' not in page
    assert 'The machines or thread counts differ' in page
    assert page.count('<svg') == 1


@pytest.mark.parametrize('out', ['deep/compare', 'deep/page.html'])
def test_out_is_a_folder_as_of_evaluate_or_an_html_file(folder_of, tmp_path, capsys, out):
    assert main(['compare', str(folder_of('a')), '--out', str(tmp_path / out)]) == 0
    page = tmp_path / out if out.endswith('.html') else tmp_path / out / 'compare.html'
    assert capsys.readouterr().out.endswith(f'\n{page}\n')
    assert '<html' in page.read_text()


def test_reports_without_accuracy_have_no_picture(folder_of, tmp_path, capsys):
    assert main(['compare', str(folder_of('a', accuracy=None)), '--out', str(tmp_path / 'compare.html')]) == 0
    assert '<svg' not in (tmp_path / 'compare.html').read_text()


def test_a_missing_report_is_one_line(tmp_path, capsys):
    assert main(['compare', str(tmp_path / 'nowhere.json')]) == 1
    assert 'kd_perception evaluate` writes it' in capsys.readouterr().err


def test_figures_are_found_by_name(content):
    report = Report('a', content)
    assert report.figure('sap') == content['streaming']['sap']
    assert Report('b', {**content, 'streaming': None}).figure('sap') is None
