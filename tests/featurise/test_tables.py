"""The README's tables are those of the code."""

from pathlib import Path

from featurise_demo import tables

README = Path(__file__).parents[2] / "README.md"


def test_readme_has_every_table_as_the_code_has_it():
    text = README.read_text()
    assert all(f"<!-- {name} -->" in text for name in tables.TABLES)
    assert tables.renewed(text) == text, "run: .venv/bin/python -m featurise_demo.tables README.md"


def test_every_field_says_what_it_means():
    assert not [
        row for row in tables.declaration().splitlines() + tables.settings().splitlines() if row.endswith("|  |")
    ]
