"""Box rules and revisions: what options mean, and what makes two feature sets incomparable."""

import pytest
from pydantic import ValidationError

from extractor.core.backbone_specs import BoxRule, ClsProb, Precision, Preprocessing, box_rule, revision


@pytest.mark.parametrize(
    ("backbone", "options", "expected"),
    [
        ("resnet101", {}, (36, 36, 0.0)),
        ("resnet101", {"min_boxes": 10, "max_boxes": 100}, (10, 100, 0.2)),
        ("resnet101", {"confidence_threshold": 0.3}, (10, 100, 0.3)),
        ("resnet101", {"max_boxes": 20}, (20, 20, 0.0)),
        ("resnext101", {}, (100, 100, 0.0)),
        ("resnext101", {"confidence_threshold": 0.2}, (10, 100, 0.2)),
        ("resnext101", {"max_boxes": 50}, (50, 50, 0.0)),
        ("resnext101", {"confidence_threshold": 0.2, "min_boxes": 20, "max_boxes": 60}, (20, 60, 0.2)),
    ],
)
def test_options_mean_the_references_rule(backbone, options, expected):
    rule = box_rule(backbone, **options)
    assert (rule.min_boxes, rule.max_boxes, rule.confidence_threshold) == expected


def test_contradicting_options_are_refused():
    with pytest.raises(ValidationError, match="min_boxes is 40, above max_boxes 20"):
        box_rule("resnext101", min_boxes=40, max_boxes=20)


RULE = BoxRule(min_boxes=36, max_boxes=36)


@pytest.mark.parametrize(
    "other",
    [
        ("resnet101", "b" * 64, RULE),
        ("resnet101", "a" * 64, BoxRule(min_boxes=10, max_boxes=36)),
        ("resnet101", "a" * 64, RULE, Precision.BF16),
        ("resnext101", "a" * 64, RULE),
    ],
)
def test_revision_changes_with_whatever_changes_a_number(other):
    assert revision(*other) != revision("resnet101", "a" * 64, RULE)


def test_revision_names_a_preprocessing_that_is_not_the_usual():
    usual = revision("resnext101", "a" * 64, RULE)
    assert revision("resnext101", "a" * 64, RULE, preprocessing=Preprocessing.IGLUE) == usual
    assert revision("resnext101", "a" * 64, RULE, preprocessing=Preprocessing.MMF) != usual


def test_revision_knows_which_fields_a_backbone_has():
    same = [revision("resnet101", "a" * 64, RULE, cls_prob=choice) for choice in ClsProb]
    other = [revision("resnext101", "a" * 64, RULE, cls_prob=choice) for choice in ClsProb]
    assert len(set(same)) == 1
    assert len(set(other)) == 2


def test_revision_is_the_same_on_every_machine():
    assert revision("resnet101", "a" * 64, RULE) == revision("resnet101", "a" * 64, RULE.model_copy())
