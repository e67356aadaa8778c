"""One Airflow DAG for every dataset and backbone that `featurise.yaml` declares.

Its mistakes are shown by `declaration_errors.py`.
"""

from airflow.sdk import get_parsing_context

from featurise.airflow import dag
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.settings import settings

# A worker asks for one DAG; the DAG processor for all.
wanted = get_parsing_context().dag_id

for spec in declaration.load(settings().declaration):
    if isinstance(spec, FeatureSetSpec) and wanted in (None, spec.dag_id):
        dag.build(spec)
