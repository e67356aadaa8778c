"""What has grown too large to be read at a sitting is found; what must be long says why, on the line of its `def`."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60
REASON = "# long:"


def test_no_file_has_more_lines_than_a_reader_takes() -> None:
    long = {str(file): lines for file in _files() if (lines := len(_text(file).splitlines())) > LINES_OF_A_FILE}

    assert long == {}


def test_no_function_is_longer_without_a_reason_beside_it() -> None:
    long = [f"{file}:{name}: {lines} lines" for file in _files() for name, lines in _long_functions(_text(file))]

    assert long == []


def test_a_long_function_is_found_and_one_with_its_reason_is_not() -> None:
    body = "    pass\n" * LINES_OF_A_FUNCTION

    assert _long_functions(f"def f():\n{body}") == [("f", LINES_OF_A_FUNCTION + 1)]
    assert _long_functions(f"def f():  {REASON} a table\n{body}") == []
    assert _long_functions(f"def f():\n{body[: -len('    pass')]}") == []


def _files() -> list[Path]:
    said = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [file for name in said.stdout.split() if (file := Path(name)) and (ROOT / file).exists()]


def _text(file: Path) -> str:
    return (ROOT / file).read_text()


def _long_functions(text: str) -> list[tuple[str, int]]:
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            count = node.end_lineno - node.lineno + 1
            if count > LINES_OF_A_FUNCTION and REASON not in lines[node.lineno - 1]:
                found.append((node.name, count))
    return found
