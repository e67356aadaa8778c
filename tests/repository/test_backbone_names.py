"""Shared code asks a backbone's spec what it is to do, and never for a backbone by its name."""

import ast
import subprocess
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ("dags", "plugins", "reader", "images/airflow", "images/extractor")
DOCUMENTATION = ("description",)
"""Arguments whose text people read, as they do docstrings: an example there may be a backbone."""
NAMES = {
    name.lower()
    for group in ("extractor.specs", "extractor.backbones")
    for point in entry_points(group=group)
    for name in (point.name, point.module)
}
"""Of the installed backbones and of their modules."""


def test_shared_code_asks_for_no_backbone_by_its_name() -> None:
    asking = [f"{file}:{line}" for file in _files() for line in _asking((ROOT / file).read_text())]

    assert {"resnet101", "resnext101", "resnet101_detectron2", "resnext101_mmf", "resnet101_spec"} <= NAMES
    assert asking == []


@pytest.mark.parametrize(
    "code",
    [
        'if spec.name == "resnet101": ...',
        'BOXES = {"resnext101": 500}',
        'print(f"weights of resnet101: {path}")',
        "from resnext101_mmf import rows",
        "import resnet101_spec",
        "def f():\n    import resnet101_detectron2.heads",
        "boxes = rules.resnet101",
        "def of_resnext101(): ...",
    ],
)
def test_code_that_asks_for_one_is_found(code: str) -> None:
    assert list(_asking(code))


def test_a_docstring_and_a_description_may_name_one_as_an_example() -> None:
    code = '"""As resnet101."""\nclass A:\n    """As resnext101."""\n    a: str = Field(description="as `resnet101`")'

    assert list(_asking(f'{code}\nB = 1\n"""Of resnet101: one."""')) == []


def _files() -> list[str]:
    said = subprocess.run(["git", "ls-files", *SHARED], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in said.stdout.split() if name.endswith(".py") and (ROOT / name).exists()]


def _asking(text: str) -> Iterator[int]:
    """Lines whose code names a backbone."""
    if not any(name in text.lower() for name in NAMES):
        return
    tree = ast.parse(text)
    documentation = {id(part) for node in ast.walk(tree) for told in _told(node) for part in ast.walk(told)}
    for node in ast.walk(tree):
        if id(node) not in documentation and any(name in word.lower() for word in _words(node) for name in NAMES):
            yield getattr(node, "lineno", 0)


def _told(node: ast.AST) -> Iterator[ast.AST]:
    """What is there to be read by people: texts that stand alone, and descriptions."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value
    if isinstance(node, ast.keyword) and node.arg in DOCUMENTATION:
        yield node.value


def _words(node: ast.AST) -> Iterator[str]:
    """Names and texts of a node, without those of its children."""
    for _, value in ast.iter_fields(node):
        yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str))
