"""What the demo's task processes use: imported by the scheduler, so that its forks need not import it again."""

import extractor.core.backbone_specs
import featurise.airflow.dag
import featurise.airflow.operators.process
import featurise.steps.discover.step
import featurise.steps.publish
import featurise.steps.register
import featurise.steps.report.step
import featurise.steps.validate.step  # noqa: F401

# Who looks for entry points reads the lists of a few hundred distributions: a tenth of what a short task takes.
extractor.core.backbone_specs.specs()
