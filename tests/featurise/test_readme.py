"""What the README has a newcomer copy."""

import re
from pathlib import Path

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import load

README = Path("README.md").read_text()


def test_the_declaration_of_the_next_steps_needs_a_checksum_and_no_more(tmp_path):
    (declared,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(declared.splitlines()) <= 10
    file = tmp_path / "featurise.yaml"
    file.write_text(declared)
    assert not [one for one in load(file) if isinstance(one, FeatureSetSpec)], (
        "what check printed is still to be put in"
    )
    file.write_text(declared.replace("<what check printed>", "ab" * 32))
    (spec,) = load(file)
    assert isinstance(spec, FeatureSetSpec)
    assert (spec.bucket, spec.prefix, spec.launcher) == ("my-images", "photos/", "process")
