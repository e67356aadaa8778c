"""The page of a run: self-contained, complete, escaped; and one line that says it all."""

import datetime
import json
import re
from pathlib import Path

import pytest
from steps import discovered, finish, planned

from extractor.core import storage
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.failures.classify import Evidence, classify
from featurise.registry import attempts
from featurise.steps.report import run_summary
from featurise.steps.report import step as report
from featurise.steps.report.html import render
from featurise.steps.report.step import Reported

DAY, BEFORE = "2026-11-23", "2026-11-22"
PHOTO = next(Path("tests/golden/images").glob("china.jpg"))
# Every night of `test_night` and `test_discover` writes its report from PostgreSQL, too.
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def told(spec: FeatureSetSpec, batch: str = DAY, run_id: str | None = None) -> tuple[Reported, str]:
    done = report.run(Run(spec, batch, run_id or f"scheduled__{batch}"))
    return done, storage.read_bytes(done.uri).decode()


def test_a_page_shows_counts_rejects_charts_and_images_and_loads_nothing(spec, upload, night):
    upload({f"{BEFORE}/{n}.jpg": str(n).encode() for n in range(3)})
    night(BEFORE)
    photo = PHOTO.read_bytes()
    upload({f"{DAY}/photo.jpg": photo, f"{DAY}/other.jpg": b"other", f"{DAY}/broken.jpg": b"bad"})
    night(DAY)
    done, page = told(spec)
    assert done.text == "2 of 3 new images featurised, 1 rejected; 1 file (synthetic weights)"
    assert done.counts == {
        "found": 6,
        "new": 3,
        "late": 0,
        "refused": 0,
        "done": 2,
        "rejected": 1,
        "pending": 0,
        "files": 1,
    }
    assert json.loads(storage.read_bytes(done.uri.replace(".html", ".json")))["synthetic"] is True
    assert "synthetic weights" in page
    assert f"images/birds/{DAY}/broken.jpg" in page
    assert "starts with `bad`" in page
    assert "rejected at once" not in page
    assert f"Grey: the batch before it, {BEFORE}. " in page
    assert page.count('role="img" aria-label="Boxes per image"') == 1
    assert page.count('role="img" aria-label="Classes, the most frequent"') == 1
    assert "<script" not in page
    assert "data:image/jpeg;base64," in page
    assert page.count('<rect class="box"') == 8
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page


def test_an_empty_night_says_no_new_images(spec, night):
    night()
    done, page = told(spec)
    assert done.text == "no new images"
    assert "no new images" in page


def test_another_runs_claim_a_dry_run_and_a_failed_discovery_are_said(spec, upload, night):
    assert told(spec)[0].text == "discovery did not finish; see its task's log"
    upload({f"{DAY}/a.jpg": b"a"})
    night(run_id="dry", options=RunOptions(dry_run=True))
    assert told(spec, run_id="dry")[0].text == "dry run: 1 new images in 1 shards"


def test_names_from_the_store_are_escaped(spec, upload, night):
    upload({f"{DAY}/<img src=x onerror=alert(1)>.jpg": b"bad"})
    night()
    _, page = told(spec)
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_classes_have_names_when_the_weights_bring_them(spec, bucket, upload, night):
    names = "\n".join(f"class {n},synonym" for n in range(1600))
    storage.write_bytes(f"s3://{bucket}/weights/objects_vocab.txt", names.encode())
    named = spec.model_copy(update={"weights": spec.weights.model_copy(update={"uri": f"s3://{bucket}/weights"})})
    upload({f"{DAY}/a.jpg": PHOTO.read_bytes()})
    night(of=named)
    _, page = told(named)
    assert re.search(r">class \d+ \d\.\d\d</text>", page)
    assert "synonym" not in page


def test_a_large_image_is_left_out_of_the_page(spec, upload, night):
    upload({f"{DAY}/a.jpg": PHOTO.read_bytes() + bytes(500_000)})
    night()
    _, page = told(spec)
    assert "data:image" not in page
    size = PHOTO.stat().st_size + 500_000
    assert f'<div class="card">a<br><span class="soft">too large to show ({size / 1000:.0f} kB)</span></div>' in page


def test_an_image_that_is_gone_or_that_no_browser_shows_is_said(spec, upload, night):
    upload({f"{DAY}/gone.jpg": PHOTO.read_bytes(), f"{DAY}/odd.jpg": b"odd"})
    night()
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{DAY}/gone.jpg"])
    _, page = told(spec)
    assert 'gone<br><span class="soft">no longer in the store</span>' in page
    assert 'odd<br><span class="soft">of a kind that browsers do not show</span>' in page


def test_what_discovery_rejects_at_once_has_a_tile_of_its_own(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"a"})
    night(BEFORE)
    upload({f"{DAY}/a.jpg": b"another a", f"{DAY}/broken.jpg": b"bad", f"{DAY}/c.jpg": b"c"})
    night()
    _, page = told(spec)
    assert "<b>1</b>rejected</div>" in page
    assert "<b>1</b>rejected at once</div>" in page
    assert "Rejected (2)" in page


def test_an_id_that_another_run_got_meanwhile_makes_a_reject(spec, upload, extract):
    upload({f"{BEFORE}/a.jpg": b"a", f"{DAY}/a.jpg": b"another a", f"{DAY}/b.jpg": b"b"})
    shards = {day: planned(spec, discovered(spec, day, day, lookback_days=0), day) for day in (BEFORE, DAY)}
    for day, (shard,) in shards.items():
        extract(spec, shard, day)
        finish(Run(spec, day, day), shard)
    assert told(spec, BEFORE, BEFORE)[0].text == "1 of 1 new images featurised, 0 rejected; 1 file (synthetic weights)"
    assert told(spec, DAY, DAY)[0].text == "1 of 2 new images featurised, 1 rejected; 1 file (synthetic weights)"


def test_an_attempt_that_its_task_left_open_is_closed(spec, upload):
    upload({f"{DAY}/a.jpg": b"a"})
    discovered(spec, DAY, "run")
    run = Run(spec, DAY, "run")
    attempts.begin(run, "shard-00001", number=1, try_number=1, launcher="kubernetes", place="pod-1")
    assert "while nobody watched the attempt" in told(spec, DAY, "run")[1]
    assert not attempts.of(run, "shard-00001")[0].running


def test_several_nights_before_are_named_by_their_first_and_last(spec, upload, night):
    for day in ("2026-11-21", BEFORE, DAY):
        upload({f"{day}/{day}.jpg": day.encode()})
        night(day)
    assert f"Grey: the 2 batches before it, 2026-11-21 to {BEFORE}. " in told(spec)[1]


def test_an_attempt_s_message_keeps_its_lines(spec):
    started = datetime.datetime(2026, 11, 24, 2, tzinfo=datetime.UTC)
    failed = run_summary.Tried(
        shard="shard-00001",
        number=1,
        place="pod",
        reason="timeout",
        action="retry",
        message="timeout: too long\n  seen: <nothing>",
        images=0,
        images_per_second=0,
        started_at=started,
        ended_at=started,
    )
    run = run_summary.RunSummary(feature_set=spec.feature_set, batch=DAY, run_id="run", attempts=[failed])
    shown = render(spec, run, "")
    assert '<td class="soft long message" colspan="6">timeout: too long\n  seen: &lt;nothing&gt;</td>' in shown


def test_a_failed_run_says_so_first_with_its_reasons_and_what_waits(spec, upload):
    upload({f"{DAY}/{name}.jpg": name.encode() for name in "abc"})
    run = Run(spec, DAY, "run")
    (shard,) = planned(spec, discovered(spec, DAY, "run"), "run")
    for number, node in ((1, "gpu-4"), (2, "gpu-5")):
        launch = attempts.begin(run, shard.name, number=number, try_number=number, launcher="kubernetes", place="pod")
        failure = classify(Evidence(node=node, exit_code=22, message=f"CUDA error on <{node}>"))
        attempts.failed(
            launch, failure.evidence, failure.reason, "retry", f"{failure.reason}\n  seen: {failure.detail}"
        )
    page = told(spec, DAY, "run")[1]
    body = page[page.index("<body>") :]
    assert body.index('<span class="state failed">FAILED</span>') < body.index("numbers")
    assert f"1 of 1 shards failed: {shard.name}." in body
    assert "3 images wait, and nothing is lost. The nights of the next 3 days look for them, too;" in body
    assert "<b>gpu_fault</b>: the GPU or its driver failed<br>\n2 attempts at 1 shard, " in body
    assert "on gpu-4, gpu-5<br>" in body
    assert "CUDA error on &lt;gpu-5&gt;</span>" in body
    assert "<details open><summary>2 of the extractor" in body


def test_after_the_repair_what_went_before_is_folded_away(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"a"})
    night(DAY)
    page = told(spec)[1]
    assert '<span class="state">FINISHED</span> 1 of 1 new images featurised' in page
    assert "<details open>" not in page


def test_a_run_without_discovery_has_failed(spec):
    found = run_summary.RunSummary(feature_set=spec.feature_set, batch=DAY, run_id="run")
    page = render(spec, found, "")
    assert "FAILED" in page
    assert "clear the run&#39;s failed tasks" in page


def test_rejects_are_counted_by_reason_below_the_numbers(spec, upload, night):
    upload({f"{DAY}/{name}.jpg": b"bad" + name.encode() for name in "ab"} | {f"{DAY}/c.jpg": b"c"})
    night(DAY)
    page = told(spec)[1]
    assert page.index("<h2>Numbers") < page.index("<h2>Rejected (2)")
    assert re.search(r'<p class="soft">\w+ 2</p>', page)
