"""Pages and pictures of a study, from figures computed by hand."""

from __future__ import annotations

import csv
import io
import math
import struct
from xml.etree import ElementTree

import pytest
from study_jobs import ridge

from training.errors import StudyError
from training.study.paired import Failure, Outcome
from training.study.plan import Result, Study
from training.study.plots import TEACHER, Point, front, plot_paired, plot_tradeoff, points_of
from training.study.tables import (
    cells_csv,
    comparisons_csv,
    figure,
    lower_is_better,
    make_report,
    markdown,
    metric_table,
    signed,
    write_report,
)

ROOM = {'cpu': 'Cortex-A76', 'cores': 4, 'threads': 2, 'commit': 'abc', 'versions': {'python': '3.11.9'}}
MAP50 = {'plain': [60.0, 61.0, 62.0], 'cwd': [62.0, 63.1, 64.2], 'wild': [60.0, 60.5, 63.5]}
MS = {'plain': [10.0, 10.0, 10.0], 'cwd': [10.0, 10.1, 9.9], 'wild': [5.0, 5.1, 4.9]}


def results(room=ROOM):
    return [
        Result(arm, seed, {'map50': MAP50[arm][seed], 'p50_ms': MS[arm][seed]}, {}, 12.0, room)
        for seed in range(3)
        for arm in MAP50
    ]


def report(tmp_path, found=None, failures=(), **options):
    study = Study(tmp_path, ridge, {arm: {} for arm in MAP50}, (0, 1, 2), 'plain')
    outcome = Outcome(tuple(results() if found is None else found), tuple(failures))
    return make_report(study, outcome, 'Small study', command='python -m training study paired r.yaml', **options)


def rows(table):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]


def test_the_table_holds_every_seed_the_mean_and_the_interval(tmp_path):
    # cwd − plain: 2.0, 2.1, 2.2; mean 2.1, deviation 0.1, half width 4.3027 · 0.1 / √3 = 0.2484
    assert rows(metric_table(report(tmp_path), 'map50')) == [
        ['arm', 'seed 0', 'seed 1', 'seed 2', 'mean', 'deviation', '− plain', 'pairs', 'verdict'],
        ['---', *['---:'] * 7, '---'],
        ['plain', '60', '61', '62', '61', '1', '', '', 'baseline'],
        ['cwd', '62', '63.1', '64.2', '63.1', '1.1', '+2.1 [+1.85, +2.35]', '3', 'above ✔'],
        ['wild', '60', '60.5', '63.5', '61.33', '1.893', '+0.333 [−2.25, +2.92]', '3', 'no difference shown'],
    ]


def test_of_a_cost_less_wins(tmp_path):
    assert [row[-1] for row in rows(metric_table(report(tmp_path), 'p50_ms'))[2:]] == [
        'baseline',
        'no difference shown',
        'below ✔',
    ]


@pytest.mark.parametrize('metric', ['p95_ms', 'size_mib', 'parameters', 'gflops', 'd_ece', 'test_loss', 'map50_drop'])
def test_costs_are_known_by_their_ending(metric):
    assert lower_is_better(metric)
    assert not lower_is_better('map50')


def test_a_missing_cell_is_shown_and_its_seed_named(tmp_path):
    found = [result for result in results() if (result.arm, result.seed) != ('cwd', 1)]
    page = report(tmp_path, found, [Failure('cwd', 1, 'ArithmeticError:\nloss is NaN')])
    row = rows(metric_table(page, 'map50'))[3]
    assert (row[2], row[6], row[7]) == ('–', '+2.1 [+0.829, +3.37]', '2 (without seed 1)')
    assert '- cwd, seed 1: ArithmeticError: loss is NaN' in markdown(page)
    assert 'cells: 8 of 9' in markdown(page)


def test_one_pair_has_no_interval_and_no_winner(tmp_path):
    row = rows(metric_table(report(tmp_path, results()[:2]), 'map50'))[3]
    assert row[6:] == ['+2', '1 (without seed 1, 2)', 'one pair: no interval']


def test_without_pairs_nothing_is_compared(tmp_path):
    only_plain = [result for result in results() if result.arm == 'plain']
    assert rows(metric_table(report(tmp_path, only_plain), 'map50'))[3][6:] == [
        '–',
        '0 (without seed 0, 1, 2)',
        'no pairs',
    ]


def test_the_page_says_where_with_what_and_by_which_command(tmp_path):
    page = markdown(report(tmp_path), ['study_map50.png'])
    assert '`python -m training study paired r.yaml`' in page
    assert '- machine: Cortex-A76, 4 cores\n' in page
    assert '- threads of a cell: 2\n' in page
    assert '- commit: abc\n' in page
    assert '95 % t interval' in page
    assert '![study map50](study_map50.png)' in page
    assert '## Failed' not in page


def test_cells_made_with_different_code_or_threads_are_told_apart(tmp_path):
    found = [*results()[:3], *results({**ROOM, 'threads': 1, 'commit': 'def'})[3:]]
    page = markdown(report(tmp_path, found))
    assert '- commit: abc (3 of 9); def (6 of 9)' in page
    assert '- threads of a cell: 2 (3 of 9); 1 (6 of 9)' in page


def test_metrics_are_chosen_by_name(tmp_path):
    assert report(tmp_path, metrics=['p50_ms']).metrics == ('p50_ms',)
    assert report(tmp_path).metrics == ('map50', 'p50_ms')
    with pytest.raises(StudyError, match="has a metric 'map5': did you mean 'map50'"):
        report(tmp_path, metrics=['map5'])


def test_nothing_done_is_nothing_to_report(tmp_path):
    with pytest.raises(StudyError, match='no cell is done'):
        report(tmp_path, [])


def test_csv_holds_full_precision(tmp_path):
    cells = list(csv.DictReader(io.StringIO(cells_csv(report(tmp_path)))))
    assert len(cells) == 18
    assert cells[1] == {'arm': 'cwd', 'seed': '0', 'metric': 'map50', 'value': '62.0'}
    first = next(csv.DictReader(io.StringIO(comparisons_csv(report(tmp_path)))))
    assert (first['metric'], first['arm'], first['baseline'], first['pairs']) == ('map50', 'cwd', 'plain', '3')
    assert float(first['upper']) == pytest.approx(2.1 + 4.302652729911275 * 0.1 / math.sqrt(3))


def test_page_and_tables_lie_beside_each_other(tmp_path):
    write_report(report(tmp_path), tmp_path / 'results' / 'small.md')
    names = sorted(file.name for file in (tmp_path / 'results').iterdir())
    assert names == ['small.md', 'small_cells.csv', 'small_comparisons.csv']


@pytest.mark.parametrize(
    ('value', 'plain', 'difference'),
    [
        (61.3333, '61.33', '+61.3'),
        (-0.01234, '-0.01234', '−0.0123'),
        (3151904.0, '3151904', '+3151904'),
        (math.nan, '–', '–'),
    ],
)
def test_figures_keep_what_is_significant(value, plain, difference):
    assert (figure(value), signed(value)) == (plain, difference)


def test_paired_pictures_show_every_arm_and_do_not_change_between_runs(tmp_path):
    page = report(tmp_path, [result for result in results() if (result.arm, result.seed) != ('cwd', 1)])
    png, svg = plot_paired(page, 'map50', tmp_path / 'a')
    assert _size(png)[0] > 800
    assert {'plain', 'cwd', 'wild', 'seed 0', 'map50'} <= _texts(svg)
    again = plot_paired(page, 'map50', tmp_path / 'b')
    assert [file.read_bytes() for file in again] == [png.read_bytes(), svg.read_bytes()]


def test_accuracy_against_cost_joins_what_nothing_beats(tmp_path):
    points = points_of(report(tmp_path).results, 'p50_ms', 'map50')
    assert [(point.name, point.cost, point.values) for point in points] == [
        ('plain', 10.0, (60.0, 61.0, 62.0)),
        ('cwd', pytest.approx(10.0), (62.0, 63.1, 64.2)),
        ('wild', 5.0, (60.0, 60.5, 63.5)),
    ]
    assert points[0].accuracy == 61.0
    assert {point.name for point in front(points)} == {'wild', 'cwd'}
    points.append(Point('v8', 20.0, (70.0,), TEACHER))
    _, svg = plot_tradeoff(points, 'latency (ms)', 'mAP50 (%)', tmp_path / 'tradeoff')
    assert {'plain', 'cwd', 'wild', 'v8', 'latency (ms)', 'mAP50 (%)'} <= _texts(svg)


def test_of_a_drop_less_is_better(tmp_path):
    points = [Point('a', 1, (5,), 'M'), Point('b', 20, (3,), 'M'), Point('c', 30, (4,), 'R')]
    assert [point.name for point in front(points, lower_accuracy_is_better=True)] == ['a', 'b']
    _, svg = plot_tradeoff(points, 'MiB', 'drop', tmp_path / 'drop', lower_accuracy_is_better=True)
    assert {'M: a', 'R: c'} <= _texts(svg)


def _size(png):
    assert png.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    return struct.unpack('>II', png.read_bytes()[16:24])


def _texts(svg):
    """What an SVG of matplotlib says: it draws letters as paths and notes the text in a comment."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    return {
        element.text.strip() for element in ElementTree.parse(svg, parser).iter() if element.tag is ElementTree.Comment
    }
