"""Links in README and docs lead somewhere, and every page is in the site's navigation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPOSITORY.glob('*.md'), *(REPOSITORY / 'docs').rglob('*.md'), *(REPOSITORY / 'models').rglob('*.md')])


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_leads_to_a_file(page):
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    links = re.findall(r'\]\(([^)\s]+)\)', text)
    files = [link.partition('#')[0] for link in links if not re.match(r'[a-z]+:', link)]
    missing = [file for file in files if file and not (page.parent / file).exists()]
    assert not missing


def test_every_page_is_in_the_navigation():
    navigation = (REPOSITORY / 'mkdocs.yml').read_text(encoding='utf-8')
    pages = [path.relative_to(REPOSITORY / 'docs').as_posix() for path in (REPOSITORY / 'docs').rglob('*.md')]
    assert not [page for page in pages if not re.search(rf'[: ]{re.escape(page)}$', navigation, re.MULTILINE)]


def test_readme_is_short():
    assert len((REPOSITORY / 'README.md').read_text(encoding='utf-8').split()) <= 1100
