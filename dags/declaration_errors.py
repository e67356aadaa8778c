"""Mistakes of `featurise.yaml` and of the pod templates, shown as an import error in Airflow's DAG list.

A file of its own: Airflow stops scheduling every DAG of a file with an error, and the other datasets are to go on.
"""

from featurise.cluster import templates
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.settings import settings


class DeclarationBroken(Exception):
    """Raised when the declaration has mistakes; the DAGs of datasets without one work on."""


declared = declaration.load(settings().declaration)
mistakes = [found.message for found in declared if isinstance(found, declaration.Broken)]
specs = [found for found in declared if isinstance(found, FeatureSetSpec)]
mistakes += templates.mistakes(spec.backbone for spec in specs if spec.launcher == "kubernetes")
if mistakes:
    raise DeclarationBroken("\n\n".join(mistakes))
