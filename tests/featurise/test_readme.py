"""What the README has a newcomer copy; `tests/e2e/test_newcomer.py` follows it to a night."""

import subprocess

import readme

from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.load import load


def test_the_declaration_of_the_next_steps_needs_a_checksum_and_no_more(tmp_path):
    declared = readme.block("defaults:")
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


def test_a_demo_of_one_s_own_folder_is_given_that_folder():
    command = readme.block("weights fetch").splitlines()[-1]
    shown = subprocess.run(
        ["/bin/sh", "-ec", command.replace("make", "make -n")], capture_output=True, text=True, check=True
    )
    assert 'featurise_demo up --images "folder"' in shown.stdout
