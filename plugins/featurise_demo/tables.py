"""The tables of the reference pages, made from what they describe; `python -m featurise_demo.tables` renews them."""

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from extractor.core.exit_codes import Exit
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.failures.taxonomy import RULES
from featurise.monitoring.metrics import METRICS
from featurise.monitoring.watch import RULES as RULES_OF_WATCH
from featurise.settings import Settings


def declaration() -> str:
    """Every field of a dataset in the declaration."""
    rows = [(f"`{name}`", _default(field), field.description or "") for name, field in _fields(FeatureSetSpec)]
    return _table(("field", "default", "meaning"), rows)


def settings() -> str:
    """Every setting of an installation."""
    rows = [
        (f"`FEATURISE_{name.upper()}`", _default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "default", "meaning"), rows)


def failures() -> str:
    """Every reason of the failure taxonomy."""
    rows = [(f"`{reason}`", rule.meaning, rule.action.value) for reason, rule in RULES.items()]
    return _table(("reason", "meaning", "what the platform does"), rows)


def exits() -> str:
    """Every exit code of the extractor."""
    return _table(("exit code", "meaning"), [(str(int(code)), code.name.lower().replace("_", " ")) for code in Exit])


def watch() -> str:
    """Everything that the watch looks for."""
    rows = [(f"`{kind}`", rule.meaning, rule.repair or "reported", rule.todo) for kind, rule in RULES_OF_WATCH.items()]
    return _table(("kind", "what it is", "what the watch does", "what a person does"), rows)


def metrics() -> str:
    """Every metric that the platform sends."""
    rows = [
        (f"`{name}`", one.type.value, one.unit, ", ".join(f"`{label}`" for label in one.labels), one.meaning, one.sent)
        for name, one in METRICS.items()
    ]
    return _table(("name", "type", "unit", "labels", "meaning", "sent"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "declaration": declaration,
    "settings": settings,
    "failures": failures,
    "exits": exits,
    "watch": watch,
    "metrics": metrics,
}


PAGES = tuple(
    Path(__file__).parents[2] / page
    for page in (
        "plugins/featurise/README.md",
        "plugins/featurise/declaration/README.md",
        "plugins/featurise/failures/README.md",
        "plugins/featurise/monitoring/README.md",
        "images/extractor/README.md",
    )
)
"""The pages that have a table, each beside the code that it is made from."""


def renewed(text: str) -> str:
    """A document with what stands between `<!-- name -->` and `<!-- /name -->` replaced by that table."""
    return re.sub(
        r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)",
        lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


def _fields(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{before}{name}.")
        else:
            yield f"{before}{name}", field


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or field.default in (None, "", ()):
        return ""
    if field.default is PydanticUndefined:
        return "required"
    return f"`{_shown(field.default)}`"


def _shown(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(renewed(page.read_text()))
