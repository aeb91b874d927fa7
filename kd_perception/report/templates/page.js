'use strict';
const tip = document.getElementById('tip');

function showTip(event, words) {
  tip.textContent = words;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4)) + 'px';
  tip.style.top = (event.clientY > height + 20 ? event.clientY - height - 12 : event.clientY + 20) + 'px';
}

function hideTip() { tip.hidden = true; }

// Boxes and bars say something under the pointer.
for (const element of document.querySelectorAll('[data-tip]')) {
  element.addEventListener('pointermove', (event) => showTip(event, element.dataset.tip));
  element.addEventListener('pointerleave', hideTip);
}

// Charts say what belongs to the nearest point.
for (const chart of document.querySelectorAll('svg.chart')) {
  const marker = chart.querySelector('.marker');
  const probes = [...chart.querySelectorAll('[data-tips]')].map((element) => (
    { element, points: [...element.points], tips: element.dataset.tips.split('|') }));
  const reach = chart.dataset.nearest === 'x' ? 60 : 30;
  const clear = () => { hideTip(); marker.setAttribute('cx', -99); };
  const find = (event) => {
    const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    let best = { distance: reach };
    for (const { element, points, tips } of probes) {
      if (element.classList.contains('off')) continue;
      points.forEach((point, index) => {
        const distance = Math.hypot(point.x - here.x, chart.dataset.nearest === 'x' ? 0 : point.y - here.y);
        if (distance < best.distance) best = { distance, point, words: tips[index] };
      });
    }
    if (!best.point) return clear();
    marker.setAttribute('cx', best.point.x);
    marker.setAttribute('cy', best.point.y);
    showTip(event, best.words);
  };
  chart.addEventListener('pointermove', find);
  chart.addEventListener('pointerdown', find);
  chart.addEventListener('pointerleave', clear);
}

// Legends show and hide what they name.
for (const legend of document.querySelectorAll('[data-toggles]')) {
  const scope = legend.parentElement;
  const apply = (button) => {
    const shown = button.getAttribute('aria-pressed') === 'true';
    for (const element of scope.querySelectorAll('svg [data-series]')) {
      if (element.dataset.series === button.dataset.series) element.classList.toggle('off', !shown);
    }
  };
  for (const button of legend.querySelectorAll('button')) {
    apply(button);
    button.addEventListener('click', () => {
      button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') !== 'true');
      apply(button);
    });
  }
}

// One of several charts is chosen by name.
for (const select of document.querySelectorAll('[data-choose]')) {
  const choices = select.closest('section').querySelectorAll('.' + select.dataset.choose);
  select.addEventListener('change', () => choices.forEach((choice, index) => { choice.hidden = index !== select.selectedIndex; }));
}

// Tables are sorted by a click on a heading: figures fall first, names rise first.
for (const table of document.querySelectorAll('[data-sortable]')) {
  const headings = [...table.querySelectorAll('thead th')];
  headings.forEach((heading, column) => {
    if (!heading.hasAttribute('aria-sort')) return;
    heading.addEventListener('click', () => {
      const first = column === 0 ? 'ascending' : 'descending';
      const other = column === 0 ? 'descending' : 'ascending';
      const order = heading.getAttribute('aria-sort') === first ? other : first;
      headings.forEach((h) => h.hasAttribute('aria-sort') && h.setAttribute('aria-sort', 'none'));
      heading.setAttribute('aria-sort', order);
      const value = (row) => {
        const cell = row.cells[column];
        return !cell ? -Infinity : cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      const rising = (a, b) => typeof a === 'string' || typeof b === 'string'
        ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (order === 'ascending' ? 1 : -1) * rising(value(a), value(b)));
      table.tBodies[0].append(...rows);
    });
  });
}

// A picture fills the window at a click.
for (const picture of document.querySelectorAll('svg.picture')) {
  const toggle = () => picture.closest('figure').classList.toggle('large');
  picture.addEventListener('click', toggle);
  picture.addEventListener('keydown', (event) => { if (event.key === 'Enter') toggle(); });
}
addEventListener('keydown', (event) => {
  if (event.key === 'Escape') document.querySelectorAll('figure.large').forEach((figure) => figure.classList.remove('large'));
});
