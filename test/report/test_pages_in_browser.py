"""The pages in a real browser: no console error, nothing wider than the window, and controls that work."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browser import chromium
from synthetic_results import HEIGHT, WIDTH, synthetic_result

from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.evaluation.results import BagFailure
from kd_perception.report.compare import read_reports, write_comparison
from kd_perception.report.html import write_html
from kd_perception.report.report import Streaming, make_report
from kd_perception.report.worst_frames import WorstFrame

HOSTILE = '<script>window.hit = 1</script><img src=x onerror="window.hit = 1">'


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope='module')
def pages(repository, tmp_path_factory):
    """A full report with hostile names, one of nothing at all, and their comparison."""
    bundle = load_bundle(repository / 'models' / 'aerial_traffic')
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    box = Detections([[100, 100, 300, 200]], [0.9], [0])
    picture = WorstFrame(HOSTILE, 0, 0.0, image, box, Detections([[500, 300, 600, 400]], [0.4], [2]), box)
    results = [synthetic_result(HOSTILE, latency_ms=90), synthetic_result('second', seed=1)]
    full = make_report(
        bundle, bundle.artifacts[0], results, [BagFailure(HOSTILE, results[0].path, HOSTILE)], Streaming(1), HOSTILE
    )
    nothing = make_report(bundle, bundle.artifacts[0], [])
    folder = tmp_path_factory.mktemp('pages')
    for name, report, pictures in (('full', full, [picture]), ('nothing', nothing, [])):
        (folder / name).mkdir()
        (folder / name / 'report.json').write_text(json.dumps(report))
        write_html(report, pictures, folder / f'{name}.html')
    write_comparison(read_reports([folder / 'full', folder / 'nothing']), ['they differ'], folder / 'compare.html')
    return folder


@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('page', ['full', 'nothing', 'compare'])
def test_pages_open_without_a_word_on_the_console(browser, pages, page, dark, width, tmp_path):
    browser.open(pages / f'{page}.html', width=width, dark=dark)
    browser.screenshot(tmp_path / 'page.png')
    assert browser.console() == []
    assert browser.run('return document.documentElement.scrollWidth') == width
    assert browser.run('return window.hit') is None
    assert (
        browser.run('return performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length')
        == 0
    )
    ground = browser.run('return getComputedStyle(document.body).backgroundColor')
    assert ground == ('rgb(20, 23, 27)' if dark else 'rgb(246, 247, 249)')


def test_text_in_charts_stays_inside_them(browser, pages):
    browser.open(pages / 'full.html')
    outside = """
        return [...document.querySelectorAll('svg.chart')].flatMap(chart => {
          const box = chart.getBoundingClientRect();
          return [...chart.querySelectorAll('text')].filter(text => {
            const own = text.getBoundingClientRect();
            return own.width && (own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1);
          }).map(text => text.textContent);
        })"""
    assert browser.run(outside) == []


@pytest.mark.parametrize(('width', 'shown'), [(390, True), (1280, False)])
def test_a_chart_that_is_cut_off_says_that_it_scrolls(browser, pages, width, shown):
    browser.open(pages / 'full.html', width=width)
    cut_off = 'const chart = document.querySelector(".timeline"); return chart.scrollWidth > chart.clientWidth'
    assert browser.run(cut_off) == shown
    assert browser.run('return getComputedStyle(document.querySelector(".sideways")).display !== "none"') == shown


def test_a_click_on_a_heading_sorts_the_table(browser, pages):
    browser.open(pages / 'full.html')
    column = """
        const table = [...document.querySelectorAll('[data-sortable]')].find(t => t.textContent.includes('cyclist'));
        const heading = [...table.querySelectorAll('th')].find(th => th.textContent === '%s');
        heading.click();
        return [...table.tBodies[0].rows].map(row => row.cells[%d].textContent)"""
    names = browser.run(column % ('class', 0))
    assert names == sorted(names)
    assert browser.run(column % ('class', 0)) == names[::-1]
    figures = [float(text) for text in browser.run(column % ('AP50', 2))]
    assert figures == sorted(figures, reverse=True)


def test_the_pointer_reads_curves_bars_and_boxes(browser, pages):
    browser.open(pages / 'full.html')
    hover = """
        const target = [...document.querySelectorAll(%r)][%d];
        const { left, top, width, height } = target.getBoundingClientRect();
        target.dispatchEvent(new PointerEvent('pointermove',
          { bubbles: true, clientX: left + width * %f, clientY: top + height * %f }));
        const tip = document.getElementById('tip');
        return tip.hidden ? '' : tip.textContent"""
    assert 'recall' in browser.run(hover % ('svg.chart', 0, 0.5, 0.1))
    assert browser.run(hover % ('svg.chart', 0, 0.5, 0.8)) == ''
    assert 'detections are right' in browser.run(hover % ('svg.chart', 1, 0.8, 0.5))
    assert 'of 120 frames' in browser.run(hover % ('svg.chart', 2, 0.6, 0.5))
    assert browser.run(hover % ('.box.missed', 0, 0.5, 0.5)) == 'missed: car'
    assert browser.run(hover % ('.box.false-alarm', 0, 0.5, 0.5)) == 'false alarm: cyclist 0.40'


def test_legends_hide_and_show_what_they_name(browser, pages):
    browser.open(pages / 'full.html')
    click = """
        const button = document.querySelector('button[data-series="%s"]');
        button.click();
        const named = document.querySelector('svg [data-series="%s"]');
        return [button.getAttribute('aria-pressed'), getComputedStyle(named).display]"""
    for name in ('car', 'missed'):
        assert browser.run(click % (name, name)) == ['false', 'none']
        assert browser.run(click % (name, name)) == ['true', 'inline']


def test_a_bag_is_chosen_by_name(browser, pages):
    browser.open(pages / 'full.html')
    choose = """
        const select = document.querySelector('select');
        select.selectedIndex = %d;
        select.dispatchEvent(new Event('change'));
        return [...document.querySelectorAll('.timeline')].map(chart => chart.hidden)"""
    assert browser.run(choose % 1) == [True, False]
    assert browser.run(choose % 0) == [False, True]


def test_a_picture_fills_the_window_and_goes_back(browser, pages):
    browser.open(pages / 'full.html')
    toggle = """
        const picture = document.querySelector('svg.picture');
        %s;
        return picture.getBoundingClientRect().width"""
    small = browser.run(toggle % '')
    assert browser.run(toggle % 'picture.dispatchEvent(new Event("click"))') > 2 * small
    assert browser.run(toggle % 'dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }))') == small
