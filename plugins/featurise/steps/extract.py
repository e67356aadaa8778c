"""The extractor's job for one shard: one specification, whichever launcher starts it."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from extractor.core import storage
from extractor.core.backbone_specs import specs
from featurise.declaration.run import Run
from featurise.failures.taxonomy import Reason, batch_divisor, memory_factor
from featurise.steps.plan import Shard

GPU_BATCH = 8
"""Images that share a pass on a GPU unless the taxonomy asks for fewer: the extractor's own default."""


class Attempt(BaseModel):
    """What the next attempt at a shard does differently from the first."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=1, description="images; by default the extractor decides")
    memory_factor: float = Field(default=1.0, ge=1, description="of the declared memory")


def following(number: int, earlier: Sequence[Reason]) -> Attempt:
    """The attempt with this number, after earlier ones failed for these reasons."""
    divisor = batch_divisor(earlier)
    size = max(1, GPU_BATCH // divisor) if divisor > 1 else None
    return Attempt(number=number, batch_size=size, memory_factor=memory_factor(earlier))


class Job(BaseModel):
    """A process to start: arguments (the executable comes before them) and labels."""

    model_config = ConfigDict(frozen=True)

    argv: list[str]
    labels: dict[str, str]
    output_uri: str
    summary_path: str | None
    timeout_seconds: int


def output(shard: Shard) -> str:
    """Where the extractor puts a shard's file."""
    return storage.join(shard.work_uri, f"{shard.name}.h5")


def specification(run: Run, shard: Shard, attempt: Attempt, *, summary_path: str | None = None) -> Job:
    """The job for one attempt; `summary_path` is where its summary goes, by default to the termination message.

    Raises own.NotOwn.
    """
    shard.check(run)
    spec = run.spec
    argv = [
        *("run", "--backbone", spec.backbone),
        *("--manifest", shard.manifest_uri),
        *("--weights", spec.weights.uri, "--weights-sha256", str(spec.weights.sha256)),
        *("--output", output(shard)),
        *("--dataset", spec.dataset, "--batch", run.batch, "--revision", spec.revision),
        *("--precision", spec.precision.value),
        *("--min-boxes", str(spec.rule.min_boxes), "--max-boxes", str(spec.rule.max_boxes)),
        *("--confidence-threshold", str(spec.rule.confidence_threshold)),
        *("--part-images", str(spec.limits.part_images), "--part-seconds", str(spec.limits.part_seconds)),
        *("--max-reject-share", str(spec.limits.max_reject_share)),
    ]
    if specs()[spec.backbone].class_probabilities:
        argv += ["--cls-prob", spec.cls_prob.value]
    if len(specs()[spec.backbone].preprocessings) > 1:
        argv += ["--preprocessing", spec.preprocessing.value]
    if spec.rule.background:
        argv += ["--background"]
    if attempt.batch_size is not None:
        argv += ["--batch-size", str(attempt.batch_size)]
    if summary_path is not None:
        argv += ["--summary", summary_path]
    return Job(
        argv=argv,
        labels={
            "dataset": spec.dataset,
            "backbone": spec.backbone,
            "revision": spec.revision,
            "batch": run.batch,
            "shard": shard.name,
        },
        output_uri=output(shard),
        summary_path=summary_path,
        timeout_seconds=spec.limits.extract_timeout_minutes * 60,
    )
