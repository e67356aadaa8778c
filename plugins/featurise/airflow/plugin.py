"""What the package adds to Airflow itself."""

from airflow.plugins_manager import AirflowPlugin

from featurise.airflow.priority import NightFirst


class FeaturisePlugin(AirflowPlugin):
    """Loaded by every Airflow process through the entry point `airflow.plugins`."""

    name = "featurise"
    priority_weight_strategies = [NightFirst]
