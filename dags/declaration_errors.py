"""Mistakes of `featurise.yaml`, shown as an import error in Airflow's DAG list.

A file of its own: Airflow stops scheduling every DAG of a file with an error, and the other datasets are to go on.
"""

from featurise.declaration import load as declaration
from featurise.settings import settings


class DeclarationBroken(Exception):
    """Raised when the declaration has mistakes; the DAGs of datasets without one work on."""


broken = [found for found in declaration.load(settings().declaration) if isinstance(found, declaration.Broken)]
if broken:
    raise DeclarationBroken("\n\n".join(found.message for found in broken))
