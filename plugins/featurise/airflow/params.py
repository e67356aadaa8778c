"""The form of a manual run: the fields of `RunOptions` as Airflow's typed parameters."""

from typing import Any

from airflow.sdk import Param

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run_options import RunOptions

OF_FOUND_BOXES = {"min_boxes", "max_boxes"}
"""Options that mean nothing where boxes are given: each has its row."""


def trigger_form(spec: FeatureSetSpec) -> dict[str, Param]:
    """One parameter per option; Airflow refuses values that the option's type and bounds do not allow."""
    schema = RunOptions.model_json_schema()
    left_out = OF_FOUND_BOXES if spec.boxes.given is not None else set()
    return {
        name: _param(field, schema.get("$defs", {}))
        for name, field in schema["properties"].items()
        if name not in left_out
    }


def _param(field: dict[str, Any], definitions: dict[str, Any]) -> Param:
    flat = _flat(field, definitions)
    default = flat.pop("default", None)
    title = str(flat.pop("title")).replace("_", " ").capitalize()
    return Param(default, title=title, **flat)


def _flat(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A field without references and alternatives: Airflow's form draws its inputs from one plain type."""
    resolved = {key: value for key, value in field.items() if key not in ("anyOf", "$ref")}
    if "$ref" in field:
        resolved = {**definitions[field["$ref"].rpartition("/")[2]], **resolved}
    alternatives = [_flat(choice, definitions) for choice in field.get("anyOf", ())]
    for choice in alternatives:
        if choice["type"] != "null":
            resolved = {**choice, **resolved}
    if any(choice["type"] == "null" for choice in alternatives):
        resolved["type"] = [resolved["type"], "null"]
        if "enum" in resolved:
            resolved["enum"] = [*resolved["enum"], None]
    return resolved
