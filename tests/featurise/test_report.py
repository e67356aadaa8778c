"""The page of a run: self-contained, complete, escaped; and one line that says it all."""

import base64
import datetime
import json
import re
from pathlib import Path

import pytest
from steps import discovered, finish, planned

from extractor.core import storage
from extractor.core.exit_codes import Summary
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.failures.classify import Evidence, classify
from featurise.objects import layout
from featurise.registry import attempts
from featurise.steps.report import gallery, html, run_summary
from featurise.steps.report import step as report
from featurise.steps.report.html import render
from featurise.steps.report.links import Links
from featurise.steps.report.step import Reported
from featurise.steps.validate.shard_file import class_names

DAY, BEFORE = "2026-11-23", "2026-11-22"
RUN = f"scheduled__{DAY}"
SMALL = Path("tests/golden/images/chelsea_gray.jpg")
"""Every thumbnail of the stand-in for the extractor."""
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
    assert page.count('role="img" aria-label="Boxes per image"') == 0
    assert '<h3>Boxes per image</h3><p class="soft">36 in every image.</p>' in page
    assert page.count('role="img" aria-label="Confidence of boxes"') == 1
    assert page.count('role="img" aria-label="Classes, the most frequent"') == 1
    assert "<script" not in page
    assert "data:image/jpeg;base64," in page
    assert page.count('<rect class="box"') == 2 * 8
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
    assert re.search(r"<title>class \d+: \d", page), "and in the chart"


def test_classes_have_visual_genome_s_names_where_the_weights_are_one_file(spec):
    file = spec.weights.model_copy(update={"uri": "s3://models/faster_rcnn_from_caffe_attr.pkl"})
    names = class_names(spec.model_copy(update={"weights": file}))
    assert (len(names), names[:2]) == (1600, ("yolk", "goal"))


def test_an_image_of_any_size_and_kind_is_shown_by_its_thumbnail_and_why_it_was_chosen(spec, upload, night):
    upload({f"{DAY}/large.tiff": PHOTO.read_bytes() + bytes(500_000), f"{DAY}/odd.bin": b"odd"})
    night()
    storage.delete([f"s3://{spec.bucket}/{spec.prefix}{DAY}/{name}" for name in ("large.tiff", "odd.bin")])
    _, page = told(spec)
    assert page.count(base64.b64encode(SMALL.read_bytes()).decode()) == 2
    assert re.search(r"<h3>Typical</h3>.*large with its surest boxes.*<h3>Most confident</h3>.*odd with", page, re.S)
    assert re.search(r'large<br><span class="soft">mean norm \d+\.\d\d, mean confidence 0\.\d\d</span>', page)


def test_an_image_without_thumbnail_says_why(spec, upload, night):
    upload({f"{DAY}/gone.jpg": PHOTO.read_bytes()})
    night()
    _, page = told(spec)
    assert "data:image" not in page
    assert 'gone<br><span class="soft">not shown: it was listed and is gone</span>' in page


def test_a_reject_is_shown_by_its_thumbnail_or_by_its_file_where_that_is_small(spec, upload, night):
    whole, broken = PHOTO.read_bytes(), b"bad" + bytes(10)
    upload({f"{DAY}/a/{n}.jpg": whole + b"%d" % n for n in range(3)} | {f"{DAY}/broken.jpg": broken})
    upload({f"{DAY}/b/2.jpg": whole + bytes(500_000)})
    night()
    _, page = told(spec)
    rejected = page[page.index("<h2>Rejected (2)") : page.index("<h2>Images with")]
    tiles = re.findall(r'<div class="card">(.*?)</div>', rejected, re.S)
    (small,) = [tile for tile in tiles if "b/2.jpg" in tile]
    assert f'<img src="data:image/jpeg;base64,{base64.b64encode(SMALL.read_bytes()).decode()}"' in small
    assert "data:" not in next(tile for tile in tiles if "broken.jpg" in tile)


def test_a_report_shows_the_thumbnails_of_its_first_files_and_says_how_many_it_leaves_out(
    spec, upload, night, monkeypatch
):
    monkeypatch.setattr(gallery, "FILES", 2)
    monkeypatch.setattr(html, "TILES", 1)
    upload({f"{DAY}/{n:02}.jpg": b"%d" % n for n in range(12)})
    night()
    _, page = told(spec)
    assert "Of the first 2 of 4 files; the thumbnails of the other 2 lie beside this page." in page
    assert page.count("with its surest boxes") == 2 * 3
    assert page.count("<details><summary>1 more</summary>") == 3
    run = Run(spec, DAY, RUN)
    beside = {f"s3://{spec.bucket}/{item.key}" for item in storage.listing(f"{layout.report(run)}.shard")}
    assert beside == {layout.report_thumbnails(run, file.name) for file in run_summary.of_run(run).files}


def test_a_shard_whose_extractor_made_no_thumbnails_is_reported_without(spec, upload, night, extract):
    extract.thumbnails = False
    upload({f"{DAY}/a.jpg": PHOTO.read_bytes()})
    night()
    done, page = told(spec)
    assert done.text == "1 of 1 new images featurised, 0 rejected; 1 file (synthetic weights)"
    assert "Images with their boxes" not in page


@pytest.mark.parametrize("line", [b"<script>no line</script>", b'{"image_id": "a", "key": "a", "why": "liked"}'])
def test_thumbnails_that_cannot_be_read_are_said_and_fail_nothing(spec, upload, night, line):
    upload({f"{DAY}/a.jpg": b"a"})
    night()
    uri = layout.report_thumbnails(Run(spec, DAY, RUN), "shard-00001")
    storage.write_bytes(uri, line)
    _, page = told(spec)
    assert f"{uri}, line 1: " in page
    assert "<script" not in page


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
    shown = render(spec, run, "", Links(spec.dag_id, "run"))
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
    page = render(spec, found, "", Links(spec.dag_id, "run"))
    assert "FAILED" in page
    assert "clear the run&#39;s failed tasks" in page


def test_rejects_are_counted_by_reason_below_the_numbers(spec, upload, night):
    upload({f"{DAY}/{name}.jpg": b"bad" + name.encode() for name in "ab"} | {f"{DAY}/c.jpg": b"c"})
    night(DAY)
    page = told(spec)[1]
    assert page.index("<h2>Numbers") < page.index("<h2>Rejected (2)")
    assert re.search(r'<p class="soft">\w+ 2</p>', page)


def test_box_counts_are_a_chart_where_they_vary(spec, upload, night, extract):
    find = extract.find
    extract.find = lambda data: find(data, rows=10 + len(data))
    upload({f"{DAY}/a.jpg": b"a", f"{DAY}/b.jpg": b"bb"})
    night(DAY)
    page = told(spec)[1]
    assert page.count('role="img" aria-label="Boxes per image"') == 1
    assert "in every image" not in page


def test_norms_stand_between_the_limits_that_validation_keeps(spec, upload, night):
    upload({f"{BEFORE}/{n}.jpg": str(n).encode() for n in range(40)})
    night(BEFORE)
    upload({f"{DAY}/today {n}.jpg": f"{n} today".encode() for n in range(4)})
    night(DAY)
    page = told(spec)[1]
    chart = page[page.index('aria-label="Mean feature norm by night"') :]
    chart = chart[: chart.index("</svg>")]
    usual = float(re.search(r"Dashed: 10% from earlier nights&#39; ([\d.]+), where a file is warned of;", page)[1])
    shown = {name: float(value) for name, value in re.findall(r"<title>([+-]10%): ([\d.]+)</title>", chart)}
    assert shown == {"+10%": pytest.approx(1.1 * usual, rel=1e-3), "-10%": pytest.approx(0.9 * usual, rel=1e-3)}
    axis = chart.partition('class="axis y')[2].partition("</g></g>")[0]
    labels = [float(label) for label in re.findall(r"<text[^>]*>([\d.]+)</text>", axis)]
    assert min(labels) > 0.8 * usual, "an axis from zero would hide what differs"


def test_attempts_are_measured_by_earlier_nights(spec, upload, night):
    upload({f"{BEFORE}/a.jpg": b"a", f"{DAY}/b.jpg": b"b"})
    for day, rates in ((BEFORE, (2.0, 4.0, 6.0)), (DAY, (3.0, 1.0))):
        night(day, f"scheduled__{day}")
        run = Run(spec, day, f"scheduled__{day}")
        for number, rate in enumerate(rates, start=1):
            launch = attempts.begin(
                run, "shard-00001", number=number, try_number=number, launcher="process", place="host"
            )
            summary = Summary(exit_code=0, reason="done", images=1, images_per_second=rate)
            attempts.succeeded(launch, "gpu-1", summary)
    page = told(spec)[1]
    assert "Dashed: earlier nights&#39; median, 4, and 70% of it, below which a node counts as slow." in page
    assert "<title>slow: 2.8</title>" in page


def test_rejects_are_grouped_by_reason_and_shown_by_night(spec, upload, night):
    upload({f"{BEFORE}/{n}.jpg": b"bad %d" % n for n in range(2)} | {f"{BEFORE}/same.jpg": b"x"})
    night(BEFORE)
    upload({f"{DAY}/{n:03}.jpg": b"bad today %d" % n for n in range(30)} | {f"{DAY}/same.jpg": b"another"})
    night(DAY)
    page = told(spec)[1]
    assert '<p class="soft">not_an_image 30, duplicate_id 1</p>' in page
    assert page.index("<h3>not_an_image</h3>") < page.index("<h3>duplicate_id</h3>")
    assert "<summary>18 more</summary>" in page
    assert f"<title>{BEFORE}, not_an_image: 2</title>" in page
    assert f"<title>{DAY}, not_an_image: 30</title>" in page


def test_whatever_has_an_address_is_a_link(spec, upload):
    upload({f"{DAY}/a&b.jpg": b"a"})
    run = Run(spec, DAY, "manual__2026-11-24T10:00:00+00:00")
    (shard,) = planned(spec, discovered(spec, DAY, run.run_id), run.run_id)
    launch = attempts.begin(run, shard.name, number=1, try_number=2, launcher="kubernetes", place="pod", map_index=7)
    failure = classify(Evidence(node="gpu 4", exit_code=22, message="CUDA error"))
    attempts.failed(launch, failure.evidence, failure.reason, "retry", "gpu_fault")
    done = report.run(run, Links(spec.dag_id, run.run_id, "https://airflow.example/air"))
    page = storage.read_bytes(done.uri).decode()
    quoted = "manual__2026-11-24T10%3A00%3A00%2B00%3A00"
    links = set(re.findall(r'href="([^"]*)"', page))
    base = "https://airflow.example/air"
    assert f"{base}/dags/birds__resnet101/runs/{quoted}/tasks/shard.extract/mapped/7?try_number=2" in links
    assert f"{base}/featurise/attempts?node=gpu+4" in links
    assert f"{base}/featurise/report/birds__resnet101/{quoted}" in links


def test_a_run_under_way_says_what_has_failed_so_far(spec, upload):
    upload({f"{DAY}/a.jpg": b"a"})
    run = Run(spec, DAY, "run")
    (shard,) = planned(spec, discovered(spec, DAY, "run"), "run")
    launch = attempts.begin(run, shard.name, number=1, try_number=1, launcher="process", place="host")
    failure = classify(Evidence(exit_code=22, message="CUDA error"))
    attempts.failed(launch, failure.evidence, failure.reason, "retry", "gpu_fault")
    found = run_summary.of_run(run)
    page = render(spec, found, report.summary(found), Links(spec.dag_id, "run"), under_way=True)
    assert '<span class="state">UNDER WAY</span>' in page
    assert "0 of 1 shards are published." in page
    assert "<b>gpu_fault</b>" in page


def test_a_night_that_rejects_everything_says_so(spec, upload, night):
    upload({f"{DAY}/a.jpg": b"bad"})
    night(DAY)
    assert "Every new image was rejected; the reasons are below." in told(spec)[1]
