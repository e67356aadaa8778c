"""What the package adds to Airflow itself."""

from airflow.plugins_manager import AirflowPlugin

from featurise.airflow.nights import Nights
from featurise.airflow.priority import NightFirst


class FeaturisePlugin(AirflowPlugin):
    """Loaded by every Airflow process through the entry point `airflow.plugins`."""

    name = "featurise"
    timetables = [Nights]
    priority_weight_strategies = [NightFirst]
