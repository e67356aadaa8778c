"""One attempt at a shard: which one is next, the extractor's job for it, and what follows when it has ended.

Both launchers take these steps: `prepare`, `begin`, start the job and wait for it, `conclude`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from extractor.core import storage
from extractor.core.backbone_specs import FeaturesDtype, GivenRule, Rule, specs
from extractor.core.defaults import BATCH_SIZE
from extractor.core.exit_codes import Exit
from featurise.declaration.run import Run
from featurise.errors import FeaturiseError
from featurise.failures.classify import Evidence, classify, text
from featurise.failures.taxonomy import RULES, Failed, Reason, Step, batch_divisor, memory_factor, next_step
from featurise.registry import attempts, leases, nodes, shards
from featurise.registry.attempts import Past
from featurise.registry.nodes import Avoid
from featurise.registry.session import reading, writing
from featurise.settings import settings
from featurise.steps.plan import Shard


class AttemptFailed(FeaturiseError):
    """Raised when an attempt at a shard failed; the message says why, where, how far it came and what happens next."""

    def __init__(self, message: str, reason: Reason, step: Step) -> None:
        super().__init__(message)
        self.reason = reason
        self.step = step


class Attempt(BaseModel):
    """What the next attempt at a shard does differently from the first."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=1, description="images; by default the extractor decides")
    memory_factor: float = Field(default=1.0, ge=1, description="of the declared memory")


def following(number: int, earlier: Sequence[Reason]) -> Attempt:
    """The attempt with this number, after earlier ones failed for these reasons."""
    divisor = batch_divisor(earlier)
    size = max(1, BATCH_SIZE // divisor) if divisor > 1 else None
    return Attempt(number=number, batch_size=size, memory_factor=memory_factor(earlier))


@dataclass(frozen=True)
class Launch:
    """How far a shard is in this round of tries (since its task was last cleared), and its next attempt."""

    run: Run
    shard: Shard
    earlier: tuple[Failed, ...]
    """The round's failed attempts, oldest first."""
    attempt: Attempt
    """The one that is under way, else the next."""
    avoid: Avoid
    """Nodes that the attempt is to keep away from."""
    registered: str | None = None
    """The address of the shard's published file: then nothing is left to do."""
    row: int | None = None
    """The registry's number of the attempt that is under way."""
    done: Past | None = None
    """An attempt of the round that did all of the shard."""
    final: AttemptFailed | None = None
    """Why no further attempt of the round is made."""

    @property
    def told(self) -> str:
        """What is to be done, for the first line of a log."""
        spec, batch = self.run.spec, self.run.batch
        before = f" after {', '.join(each.reason for each in self.earlier)}" if self.earlier else ""
        what = f"{self.shard.images:,} images of {spec.dataset}, {batch}, by {spec.backbone}"
        return f"{self.shard.name}: {what}; attempt {self.attempt.number}{before}"

    @property
    def tries(self) -> int:
        """Counted attempts that the round may use."""
        return self.run.spec.limits.retries + 1


def prepare(run: Run, shard: Shard, since_try: int) -> Launch:
    """What the registry knows of a shard, in the round of tries that began with this one.

    Raises RegistryUnavailable.
    """
    registered = shards.find(run, shard.name)
    past = attempts.of(run, shard.name)
    of_round = [each for each in past if each.try_number >= since_try]
    earlier = tuple(Failed(each.reason, each.ended_at) for each in of_round if each.reason and each.ended_at)
    under_way = past[-1] if past and past[-1].running else None
    number = under_way.number if under_way else len(past) + 1
    launch = Launch(
        run=run,
        shard=shard,
        earlier=earlier,
        attempt=following(number, [each.reason for each in earlier]),
        registered=registered.uri if registered is not None else None,
        row=under_way.id if under_way else None,
        done=next((each for each in of_round if each.succeeded), None),
        avoid=_avoid(of_round),
    )
    return replace(launch, final=_final(launch, past))


def _final(launch: Launch, past: Sequence[Past]) -> AttemptFailed | None:
    """The verdict that has ended the round already.

    Airflow tries again all the same where the task that came to it did not live to say so, or was not heard: the
    scheduler takes a task for dead that was resumed before it had noted the deferral (apache/airflow#72716).
    """
    if not launch.earlier or past[-1].reason is None:
        return None
    *before, last = launch.earlier
    step = next_step(last, before, launch.tries, settings().outage, settings().retry_delay)
    return None if step.retry else AttemptFailed(past[-1].message, last.reason, step)


def _avoid(of_round: Sequence[Past]) -> Avoid:
    """The nodes that are held back from all, and those whose GPUs have failed this shard."""
    own = {each.node for each in of_round if each.reason and RULES[each.reason].machine and each.node}
    with reading() as connection:
        return nodes.avoid(connection, datetime.now(UTC), sorted(own))


def write_off_lost(run: Run, shard: Shard, why: str) -> None:
    """Close the shard's attempts that are still open, for a launcher whose attempts end with their tasks.

    Raises RegistryUnavailable.
    """
    for lost in (each for each in attempts.of(run, shard.name) if each.running):
        attempts.failed(lost.id, Evidence(node=lost.node), Reason.UNKNOWN, "retry", why)


def begin(launch: Launch, *, try_number: int, launcher: str, place: str, map_index: int | None = None) -> Launch:
    """Write the attempt down before it is started: it counts even if all who watch it die with it.

    It may be the one that tries a node again which has been held back for long enough.

    Raises RegistryUnavailable, or leases.LeaseLost when another run holds the batch: no GPU is requested in vain.
    """
    leases.renew(launch.run)
    row = attempts.begin(
        launch.run,
        launch.shard.name,
        number=launch.attempt.number,
        try_number=try_number,
        launcher=launcher,
        place=place,
        batch_size=launch.attempt.batch_size,
        map_index=map_index,
    )
    return replace(launch, row=row, avoid=_with_a_trial(launch.avoid))


def _with_a_trial(avoid: Avoid) -> Avoid:
    """What the attempt keeps away from, less the node that it is to try."""
    if not (avoid.required or avoid.preferred):
        return avoid
    with writing() as connection:
        tried = nodes.try_again(connection, datetime.now(UTC))
    return Avoid(
        tuple(node for node in avoid.preferred if node != tried),
        tuple(node for node in avoid.required if node != tried),
    )


def conclude(launch: Launch, evidence: Evidence) -> None:
    """Write down how the attempt that is under way has ended.

    Raises AttemptFailed when it failed, or RegistryUnavailable.
    """
    if launch.row is None:
        raise ValueError(f"no attempt at {launch.shard.name} is under way")
    if evidence.exit_code == Exit.OK:
        attempts.succeeded(launch.row, evidence.node, evidence.summary)
        return
    failure = classify(evidence)
    failed, patience, pace = Failed(failure.reason, datetime.now(UTC)), settings().outage, settings().retry_delay
    step = next_step(failed, launch.earlier, launch.tries, patience, pace)
    error = AttemptFailed(text(failure, step), failure.reason, step)
    attempts.failed(launch.row, evidence, failure.reason, step.text, str(error))
    raise error


class Job(BaseModel):
    """A process to start: arguments (the executable comes before them) and labels."""

    model_config = ConfigDict(frozen=True)

    argv: list[str]
    labels: dict[str, str]
    output_uri: str
    summary_path: str | None
    timeout_seconds: int


def _boxes(rule: Rule) -> list[str]:
    """The arguments of a box rule."""
    if isinstance(rule, GivenRule):
        return ["--given-boxes", "manifest", *(["--with-global"] if rule.with_global else [])]
    chosen = ["--min-boxes", str(rule.min_boxes), "--max-boxes", str(rule.max_boxes)]
    return [*chosen, "--confidence-threshold", str(rule.confidence_threshold)]


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
        *_boxes(spec.rule),
        *("--part-images", str(spec.limits.part_images), "--part-seconds", str(spec.limits.part_seconds)),
        *("--max-reject-share", str(spec.limits.max_reject_share)),
        *("--outage-seconds", str(settings().outage_seconds)),
    ]
    if specs()[spec.backbone].class_probabilities:
        argv += ["--cls-prob", spec.cls_prob.value]
    if spec.outputs.features_dtype is not FeaturesDtype.FLOAT32:
        argv += ["--features-dtype", spec.outputs.features_dtype.value]
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
