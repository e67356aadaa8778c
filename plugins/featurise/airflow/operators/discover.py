"""The first task of a run: wait until its batch is complete, then see what is new in it."""

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from featurise.airflow import abandoned, run_context
from featurise.airflow.retry_policy import outages_waited_out
from featurise.declaration.feature_set import FeatureSetSpec

SETTLING = timedelta(hours=12)
"""How long a run waits for its batch to be complete."""
POKE = timedelta(minutes=1)


class DiscoverOperator(BaseSensorOperator):
    """Returns what `discover` found; gives its worker back between two looks at a batch that is not complete yet.

    :param spec: the dataset under its backbone.
    """

    def __init__(self, *, spec: FeatureSetSpec, **kwargs: Any) -> None:
        super().__init__(
            mode="reschedule", poke_interval=POKE.total_seconds(), timeout=SETTLING.total_seconds(), **kwargs
        )
        self.spec = spec

    def poke(self, context: Any) -> PokeReturnValue:
        """One look at the batch."""
        with outages_waited_out(context):
            return self._look(context)

    def _look(self, context: Any) -> PokeReturnValue:
        from featurise.steps.discover import readiness
        from featurise.steps.discover import step as discover

        run = run_context.current_run(self.spec, context)
        if reason := readiness.not_ready(run.spec, run.batch):
            self.log.info("%s is not complete: %s", run.batch, reason)
            return PokeReturnValue(is_done=False)
        abandoned.close_of_ended_runs(context["ti"], run.spec)
        found = discover.run(run, run_context.run_options(context))
        self.log.info("%s: %d images, %d of them new", run.batch, found.found, found.fresh)
        if found.taken_in:
            self.log.warning("%s published files were not in the registry, and are now", found.taken_in)
        for reason in found.told:
            self.log.warning("%s", reason)
        for reason in found.passed_over:
            self.log.info("left for another night: %s", reason)
        if found.left:
            self.log.info("nothing to do here: %s", found.left)
        return PokeReturnValue(is_done=True, xcom_value=found.model_dump(mode="json"))
