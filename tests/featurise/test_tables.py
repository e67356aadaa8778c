"""The tables of the reference pages are those of the code."""

import pytest

from featurise_demo import tables


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_a_page_has_its_tables_as_the_code_has_them(page):
    text = page.read_text()
    assert tables.renewed(text) == text, "run: .venv/bin/python -m featurise_demo.tables"


def test_every_table_stands_on_a_page():
    text = "".join(page.read_text() for page in tables.PAGES)
    assert all(f"<!-- {name} -->" in text for name in tables.TABLES)


def test_every_field_says_what_it_means():
    assert not [
        row for row in tables.declaration().splitlines() + tables.settings().splitlines() if row.endswith("|  |")
    ]
