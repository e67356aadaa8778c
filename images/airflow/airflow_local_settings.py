"""Read by every Airflow process as it starts.

Tasks and DAG parsers are forks: what is imported before the fork is not imported again by each of them, and Kubernetes'
client alone takes seconds.
"""

import featurise.airflow.operators.kubernetes  # noqa: F401
