"""What tasks call at their end so that people are told: a notifier of Airflow's kind, imported with every DAG file."""

from typing import Any, Literal

from airflow.sdk import BaseNotifier

from featurise.declaration.feature_set import FeatureSetSpec

After = Literal["run", "attempt"]


class AlertNotifier(BaseNotifier):
    """Looks at what needs a person after a run or a failed attempt, and tells it where the declaration says.

    What it meets itself (no connection, a server that is down) fails no task: Airflow logs what a callback raises.

    :param spec: the dataset under its backbone.
    :param after: what has ended.
    """

    def __init__(self, spec: FeatureSetSpec, after: After, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.after = after

    def notify(self, context: Any) -> None:
        """Look, and send what is new.

        Raises NotSent when something could not be sent; the watch sends it later.
        """
        from featurise.airflow import alerts, run_context

        if self.after == "run":
            alerts.after_run(run_context.current_run(self.spec, context))
        else:
            alerts.after_attempt()


def notifiers(spec: FeatureSetSpec, after: After) -> list[AlertNotifier]:
    """The notifier that a task calls at its end; none where nobody is to be told."""
    return [AlertNotifier(spec, after)] if spec.alerts.channels else []
