"""What the platform knows of `tiny` without loading it."""

from extractor.core.backbone_specs import BackboneSpec, Choice


def choose(low: int | None, high: int | None, threshold: float | None) -> Choice:
    """Four boxes, one for each quarter of the image."""
    most = high if high is not None else max(4, low or 0)
    return low if low is not None else most, most, threshold or 0.0


SPEC = BackboneSpec(
    name="tiny",
    numerics=1,
    checkpoint="tiny.pt",
    choose=choose,
    classes=20,
    class_probabilities=True,
    feature_width=32,
)
