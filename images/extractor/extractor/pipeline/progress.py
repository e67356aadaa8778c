"""How far a shard is: counts, rate and time left, told as structured lines; on a terminal, by a bar."""

import time
from collections.abc import Iterable

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from extractor import log as output
from extractor.core.exit_codes import Exit, Summary
from extractor.log import log
from extractor.pipeline.parts import Result

EVERY_SECONDS = 5.0


class Progress:
    """Counts of one shard of `of` images."""

    def __init__(self, of: int, no_boxes_given: int = 0) -> None:
        self.of = of
        self.no_boxes_given = no_boxes_given
        self.flagged = 0
        self.featurised = 0
        self.rejected = 0
        self._resumed = 0
        self._started = time.monotonic()
        self._told = 0.0
        self._bar: Bar | None = None

    @property
    def done(self) -> int:
        """Images with an outcome, earlier attempts' included."""
        return self.featurised + self.rejected

    @property
    def rate(self) -> float:
        """Images a second of this attempt."""
        return (self.done - self._resumed) / max(time.monotonic() - self._started, 1e-9)

    def resume(self, settled: Iterable[Result]) -> None:
        """Take what earlier attempts saved into account; from here on time counts."""
        for result in settled:
            self.count(result)
        self._resumed = self.done
        self._started = time.monotonic()
        if self._resumed:
            log.info("resumed", done=self.done, of=self.of)

    def complete(self, rejected: int, *, synthetic: bool) -> Summary:
        """The summary when an earlier attempt had completed all of it."""
        self.rejected = rejected
        self.featurised = self.of - rejected
        self._resumed = self.of
        return self.summary(synthetic=synthetic)

    def count(self, result: Result) -> None:
        """Take one image's outcome into account."""
        if result.reject is None:
            self.featurised += 1
            if result.done is not None and result.done.flagged:
                self.flagged += result.done.flagged
                log.warning("given boxes without features", key=result.done.key, boxes=result.done.flagged)
        else:
            self.rejected += 1
            reject = result.reject
            log.warning("rejected", key=reject.key, reason=reject.reason.value, detail=reject.detail)

    def tell(self, *, now: bool = False) -> None:
        """Log a progress line, at most one every few seconds unless `now`; or bring the bar up to date."""
        if output.terminal is not None:
            self._show(output.terminal)
            return
        if not now and time.monotonic() - self._told < EVERY_SECONDS:
            return
        self._told = time.monotonic()
        rate = self.rate
        log.info(
            "progress",
            done=self.done,
            of=self.of,
            rejected=self.rejected,
            images_per_second=round(rate, 3),
            seconds_left=round((self.of - self.done) / rate) if rate > 0 else None,
        )

    def _show(self, terminal: output.Terminal) -> None:
        if self._bar is None:
            told = TextColumn("{task.fields[rate]:.2f} images/s, {task.fields[rejected]} rejected,")
            columns = (BarColumn(), MofNCompleteColumn(), told, TimeRemainingColumn(), TextColumn("left"))
            self._bar = Bar(*columns, console=terminal.console, redirect_stdout=False, redirect_stderr=False)
            self._bar.add_task("", total=self.of, rate=0.0, rejected=0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self.done, rate=self.rate, rejected=self.rejected)

    def summary(self, *, exit_code: Exit = Exit.OK, message: str = "", synthetic: bool | None = None) -> Summary:
        """What to leave in the termination message; the bar ends."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        return Summary(
            exit_code=exit_code,
            reason=exit_code.name.lower(),
            message=message[:2000],
            images=self.of,
            featurised=self.featurised,
            rejected=self.rejected,
            flagged=self.flagged,
            no_boxes_given=self.no_boxes_given,
            images_per_second=round(self.rate, 3),
            synthetic=synthetic,
        )
