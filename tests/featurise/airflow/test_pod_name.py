"""Names of pods: one for each attempt, whatever the dataset is called."""

import re

from hypothesis import given
from hypothesis import strategies as st

from featurise.airflow.pods import pod_name
from featurise.declaration.feature_set import NAME, FeatureSetSpec, Weights
from featurise.declaration.run import Run

DNS_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def attempt(dataset: str, run: str, shard: int, number: int) -> str:
    weights = Weights(uri="s3://models/resnext101/", sha256="a" * 64)
    spec = FeatureSetSpec(
        dataset=dataset, backbone="resnext101", bucket="images", start_date="2026-11-01", weights=weights
    )
    return pod_name(Run(spec, "2026-11-23", run), f"shard-{shard:05d}", number)


def test_shards_runs_and_attempts_have_names_of_their_own() -> None:
    names = {
        attempt("conceptual-captions-12m", run, shard, number)
        for run in ("scheduled__2026-11-24", "manual__2026-11-24")
        for shard in range(100)
        for number in (1, 2)
    }

    assert len(names) == 400


@given(dataset=st.from_regex(NAME, fullmatch=True), shard=st.integers(0, 99_999), number=st.integers(1, 200))
def test_every_name_is_one_that_kubernetes_takes(dataset: str, shard: int, number: int) -> None:
    assert DNS_LABEL.fullmatch(attempt(dataset, "run", shard, number))
