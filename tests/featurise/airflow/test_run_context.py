"""What a task reads from the run that it belongs to."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from featurise.airflow import params, run_context
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.former_names import FormerName
from featurise.declaration.run_options import RunOptions


def context(*, conf: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    dag_run = SimpleNamespace(run_type="manual", partition_key=None, run_id="run", conf=conf)
    return {"dag_run": dag_run, "params": values}


def test_an_arrivals_run_works_on_its_batch(spec: FeatureSetSpec) -> None:
    assert run_context.current_run(spec, context(conf={"batch": "2026-11-23"})).batch == "2026-11-23"


def test_a_parameter_that_there_is_not_starts_no_run_with_all_defaults(spec: FeatureSetSpec) -> None:
    asked = {"batch": "2026-11-23", "dryrun": True, "limit": 3}
    with pytest.raises(AirflowFailException, match="dryrun: Extra inputs are not permitted"):
        run_context.current_run(spec, context(conf=asked, limit=3))


def test_the_form_asks_for_no_number_of_boxes_where_boxes_are_given(
    spec: FeatureSetSpec, given: FeatureSetSpec
) -> None:
    asked, of_found = params.trigger_form(given), params.trigger_form(spec)
    assert {"limit", "keys", "precision", "force", "dry_run"} < asked.keys()
    assert of_found.keys() - asked.keys() == {"min_boxes", "max_boxes"}
    defaults = {name: param.resolve() for name, param in asked.items()}
    assert run_context.current_run(given, context(conf={"batch": "2026-11-23"}, **defaults)).spec == given
    asked_for_three = {"batch": "2026-11-23", "max_boxes": 3}  # as the API may, which knows no form
    with pytest.raises(AirflowFailException, match="every given box has its row, so none is chosen; remove min_boxes"):
        run_context.current_run(given, context(conf=asked_for_three, **defaults))


def test_parameters_that_contradict_each_other_are_named(spec: FeatureSetSpec) -> None:
    with pytest.raises(
        AirflowFailException, match="invalid run parameters: min_boxes is 50, above max_boxes 20; trigger the run again"
    ):
        run_context.current_run(spec, context(conf={"batch": "2026-11-23"}, min_boxes=50, max_boxes=20))


@pytest.mark.parametrize(("run_type", "given", "days"), [("manual", 2, 2), ("backfill", 2, 2), ("backfill", None, 0)])
def test_a_run_triggered_with_an_options_former_name_works_as_before(
    spec: FeatureSetSpec, run_type: str, given: int | None, days: int
) -> None:
    asked = context(conf={"batch": "2026-11-23"} | ({} if given is None else {"look_back_days": given}))
    asked["params"]["lookback_days"] = None  # as the form has it, whatever the conf says
    asked["dag_run"].run_type = run_type
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FormerName)
        assert run_context.current_run(spec, asked).spec.lookback_days == days


def test_the_form_begins_with_the_day_and_says_what_is_declared(spec: FeatureSetSpec) -> None:
    form = params.trigger_form(spec)
    assert next(iter(form)) == "batch"
    assert (form["batch"].schema["format"], form["batch"].schema["title"]) == ("date", "Day")
    assert form["max_boxes"].description.endswith("; empty: 36, as declared")
    assert form["precision"].description.endswith("; empty: fp32, as declared")
    assert form["precision"].schema["values_display"] == {"null": "fp32, as declared"}  # what the form shows at first
    picked = {name: param.resolve() for name, param in form.items()} | {"batch": "2026-11-23"}
    assert run_context.current_run(spec, context(conf=picked, **picked)).batch == "2026-11-23"


def test_a_day_beside_another_partition_key_starts_no_run(spec: FeatureSetSpec) -> None:
    asked = context(conf={"batch": "2026-11-23"})
    asked["dag_run"].partition_key = "2026-11-22"
    with pytest.raises(AirflowFailException, match="the day is 2026-11-23, and the partition key 2026-11-22; trigger"):
        run_context.current_run(spec, asked)


@pytest.mark.parametrize("batch", ["../../private", "20261123", "tonight"])
def test_a_batch_that_is_no_day_starts_no_run(spec: FeatureSetSpec, batch: str) -> None:
    with pytest.raises(AirflowFailException, match=r"batch '.*': (expected a day|write it 2026-11-23)"):
        run_context.current_run(spec, context(conf={"batch": batch}))


def test_a_field_that_was_emptied_means_what_is_declared(spec: FeatureSetSpec) -> None:
    emptied: dict[str, Any] = dict.fromkeys(params.trigger_form(spec))
    asked = context(conf=emptied | {"batch": "2026-11-23"}, **emptied)
    assert run_context.current_run(spec, asked).spec == spec
    assert run_context.run_options(asked) == RunOptions()


def test_the_form_speaks_of_pods_only_where_there_are_any(spec: FeatureSetSpec) -> None:
    on_cluster = spec.model_copy(update={"launcher": "kubernetes"})
    described = [params.trigger_form(one)["images_per_shard"].description for one in (spec, on_cluster)]
    assert [text.partition(";")[0] for text in described] == [
        "images that one process works through",
        "images that one pod works through",
    ]
