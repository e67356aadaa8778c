"""The form of a manual run: its day, and the fields of `RunOptions`, as Airflow's typed parameters."""

from typing import Any

from airflow.sdk import Param

from featurise.airflow.run_context import BATCH
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run_options import RunOptions

DAY = "the day whose images are featurised; empty: the last whole day, unless a partition key is given below"
WORKER = {"process": "process", "kubernetes": "pod"}
"""What does the work of a shard, by launcher."""
OF_FOUND_BOXES = {"min_boxes", "max_boxes"}
"""Options that mean nothing where boxes are given: each has its row."""


def trigger_form(spec: FeatureSetSpec) -> dict[str, Param]:
    """The day, then one parameter per option; Airflow refuses values that an option's type and bounds do not allow."""
    schema = RunOptions.model_json_schema()
    left_out = OF_FOUND_BOXES if spec.boxes.given is not None else set()
    asked = {name: field for name, field in schema["properties"].items() if name not in left_out}
    words = asked["images_per_shard"]
    words["description"] = words["description"].replace("task", WORKER[spec.launcher])
    declared = _declared(spec)
    return {
        BATCH: Param(None, title="Day", type=["string", "null"], format="date", description=DAY),
        **{name: _param(field, schema.get("$defs", {}), declared.get(name)) for name, field in asked.items()},
    }


def _declared(spec: FeatureSetSpec) -> dict[str, Any]:
    """What an option that is left empty comes to."""
    rule = spec.rule.model_dump()
    known = {"images_per_shard": spec.images_per_shard, "lookback_days": spec.lookback_days}
    boxes = {name: rule[name] for name in OF_FOUND_BOXES if name in rule}
    return {**known, **boxes, "precision": str(spec.precision)}


def _param(field: dict[str, Any], definitions: dict[str, Any], declared: Any) -> Param:
    flat = _flat(field, definitions)
    default = flat.pop("default", None)
    title = str(flat.pop("title")).replace("_", " ").capitalize()
    if declared is not None:
        flat["description"] += f"; empty: {declared}, as declared"
        if "enum" in flat:
            flat["values_display"] = {"null": f"{declared}, as declared"}
    # The form marks what may not be empty as required, and nothing here is.
    types = flat["type"] if isinstance(flat["type"], list) else [flat["type"], "null"]
    return Param(default, title=title, **{**flat, "type": types})


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
