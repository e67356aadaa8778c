"""What people choose of an export: which images, in which order, under which names, in one file; and how it stands."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from consumers import READERS
from exporting import KINDS, content, entries, export, renew

from extractor.core.manifest import ImageIds
from featurise.export import formats, run, selection
from featurise.export.selection import ExportFailed, IdForm, Options
from featurise.export.source import Outdated, Source
from featurise.objects import catalogue, layout
from featurise.registry import feature_sets
from featurise.registry.session import writing

DAY, NEXT = "2026-11-22", "2026-11-23"
pytestmark = [
    pytest.mark.usefixtures("registry"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]
COCO = {f"COCO_val2014_{number:012d}": f"coco {number}".encode() for number in (42, 7, 190_236)}


@pytest.fixture
def coco(upload, night) -> dict[str, bytes]:
    upload({f"{DAY}/{name}.jpg": data for name, data in COCO.items()})
    night(DAY)
    return COCO


def wit(folder: Path, most: int) -> list[str]:
    """The images that IGLUE's converter for WIT takes: of every `*.h5` of a folder, until it has `most`.

    After `features_extraction/wit/wit_convert_features.py` of github.com/e-bug/iglue.
    """
    found: list[str] = []
    for path in folder.glob("*.h5"):
        with h5py.File(path) as file:
            for name in file:
                if len(found) == most:
                    return found
                found.append(name if isinstance(file[name]["features"][()], np.ndarray) else "")
    return found


def test_iglue_s_converter_for_wit_takes_each_image_once(spec, featurised, tmp_path):
    export(spec, "h5", tmp_path / "out")
    assert sorted(wit(tmp_path / "out", len(featurised))) == sorted(featurised)
    assert sorted(wit(tmp_path / "out" / "birds", len(featurised))) == sorted(featurised)


def test_a_single_file_holds_every_image_itself_and_grows(spec, featurised, upload, night, extract, tmp_path):
    export(spec, "h5", tmp_path / "out", single=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["birds.h5", "export.jsonl"]
    upload({f"{NEXT}/new.jpg": b"new"})
    night(NEXT, run_id="again")
    assert export(spec, "h5", tmp_path / "out", single=True).before == len(featurised)
    alone = shutil.copy(tmp_path / "out" / "birds.h5", tmp_path / "alone.h5")
    with h5py.File(alone) as file:
        assert set(file) == {*featurised, "new"}
        np.testing.assert_array_equal(file["new"]["features"][()], extract.find(b"new").features)
        assert file.attrs["backbone"] == "resnet101"
    with pytest.raises(ExportFailed, match=r"as h5 \(single=True\), asked is .* as h5; choose another folder"):
        export(spec, "h5", tmp_path / "out")


def test_files_as_earlier_versions_laid_them_out_are_renewed(spec, featurised, tmp_path):
    export(spec, "h5", tmp_path / "out")
    for path in (tmp_path / "out" / "birds").iterdir():
        path.rename(tmp_path / "out" / path.name)
    with pytest.raises(Outdated, match=r"as versions before 0\.2 laid it out; make it again with --renew"):
        export(spec, "h5", tmp_path / "out")
    renew(spec, "h5", tmp_path / "out")
    assert sorted(wit(tmp_path / "out", 100)) == sorted(featurised)


def test_volta_finds_coco_s_images_by_the_numbers_of_its_annotations(spec, coco, extract, tmp_path):
    export(spec, "lmdb-volta", tmp_path, id_form=IdForm.NUMBER)
    _, items = entries(tmp_path / "birds_feat.lmdb")
    # VOLTA's reader takes `str(image_id).encode()` of an annotation's integer: volta/datasets/_image_features_reader.py
    assert {str(number).encode() for number in (42, 7, 190_236)} == set(items)
    assert items[b"42"]["img_id"] == "42"
    np.testing.assert_array_equal(items[b"42"]["obj_id"], extract.find(coco["COCO_val2014_000000000042"]).obj_id)


@pytest.mark.parametrize(
    ("rule", "declared"),
    [
        (ImageIds.PATH, {f"{DAY}/x/1%.jpg", f"{DAY}/y/1%.jpg"}),
        (ImageIds.RELATIVE, {"x/1%", "y/1%"}),
    ],
)
def test_ids_made_of_paths_are_paths_again_wherever_a_format_holds_them(spec, upload, night, tmp_path, rule, declared):
    of = spec.model_copy(update={"image_ids": rule})
    upload({f"{DAY}/x/1%.jpg": b"one", f"{DAY}/y/1%.jpg": b"another"})
    night(DAY, of=of)
    for form, writer in formats.formats().items():
        if writer.numbers:
            continue
        export(of, form, tmp_path / form / "declared")
        export(of, form, tmp_path / form / "path", id_form=IdForm.PATH)
        encode = selection.encoded if writer.groups else str
        assert ids(form, tmp_path / form / "declared") == {encode(name) for name in declared}, form
        assert ids(form, tmp_path / form / "path") == {encode("x/1%"), encode("y/1%")}, form
    with pytest.raises(ExportFailed, match=r"'1%' for .*/x/1%.jpg and .*/y/1%.jpg\); choose another --id-form"):
        export(of, "h5", tmp_path / "stem", id_form=IdForm.STEM)


def ids(form: str, folder: Path) -> set[str]:
    """What an export's readers find."""
    return set(READERS[form](folder))


def test_a_stem_with_a_percent_sign_stays_as_it_is(spec, upload, night, tmp_path):
    upload({f"{DAY}/a%2Fb.jpg": b"a"})
    night(DAY)
    export(spec, "tsv-lxmert", tmp_path)
    assert ids("tsv-lxmert", tmp_path) == {"a%2Fb"}


def test_no_id_leads_out_of_the_folder(spec, upload, night, tmp_path):
    upload({f"{DAY}/..%2F..%2Fa.jpg": b"a"})
    night(DAY, of=spec.model_copy(update={"image_ids": ImageIds.RELATIVE}))
    writer = formats.named("npy-mmf")
    with pytest.raises(ExportFailed, match="is no path below a folder"):
        writer(tmp_path, "birds", [Source("s3://b/f/d/x.h5", "0", 1, ("../a",))], 0, Options())
    export(spec, "npy-mmf", tmp_path / "out")
    assert ids("npy-mmf", tmp_path / "out") == {"..%2F..%2Fa"}


def test_a_list_of_ids_chooses_images_and_in_a_table_their_order(spec, featurised, tmp_path):
    wanted = ["late", "bird_3", "bird_5", "bird_0"]
    (tmp_path / "ids").write_text("\n".join(wanted) + "\n")
    export(spec, "tsv-lxmert", tmp_path / "tsv", ids=tmp_path / "ids")
    lines = (tmp_path / "tsv" / "birds_obj.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == wanted
    export(spec, "h5", tmp_path / "h5", ids=tmp_path / "ids")
    assert ids("h5", tmp_path / "h5") == set(wanted)
    (tmp_path / "ids").write_text("late\nnobody\nnone\n")
    with pytest.raises(ExportFailed, match=r"2 of 3 ids have no live image here \('nobody', 'none'\); ids look like"):
        export(spec, "h5", tmp_path / "other", ids=tmp_path / "ids")
    (tmp_path / "ids").write_text("late\nlate\n")
    with pytest.raises(ExportFailed, match=r"names an image twice \('late'\)"):
        export(spec, "h5", tmp_path / "other", ids=tmp_path / "ids")
    assert not (tmp_path / "other").exists()


def test_a_day_or_a_prefix_may_be_exported_alone(spec, featurised, tmp_path):
    assert export(spec, "h5", tmp_path / "day", batch=NEXT).images == 1
    assert export(spec, "h5", tmp_path / "prefix", prefix=f"{spec.prefix}{DAY}/bird_1").images == 1
    assert (ids("h5", tmp_path / "day"), ids("h5", tmp_path / "prefix")) == ({"late"}, {"bird_1"})
    with pytest.raises(ExportFailed, match="has no image to export of batch=2026-01-01"):
        export(spec, "h5", tmp_path / "none", batch="2026-01-01")


def test_a_name_that_is_no_number_is_refused_before_anything_is_written(spec, featurised, tmp_path):
    with pytest.raises(ExportFailed, match=r"late.jpg does not end with a number before its extension"):
        export(spec, "h5", tmp_path / "out", id_form=IdForm.NUMBER)
    assert not (tmp_path / "out").exists()


def test_nothing_that_readers_open_is_there_before_it_is_whole(spec, featurised, tmp_path):
    for form in KINDS:
        out, targets, seen = tmp_path / form, formats.named(form).targets("birds", Options()), []

        def tell(done: int, of: int, out=out, targets=targets, seen=seen) -> None:
            seen.append([name for name in targets if (out / name).exists()])

        run.run(spec.dataset, spec.backbone, None, form, out, tell)
        assert seen == [[]] * len(seen), form
        assert all((out / name).exists() for name in targets), form
        assert not (out / ".partial").exists(), form


def test_an_export_that_was_cut_off_as_it_got_its_names_is_whole_the_next_time(spec, featurised, tmp_path):
    for form in KINDS:
        out, (first, *_) = tmp_path / form, formats.named(form).targets("birds", Options())
        export(spec, form, out)
        there = content(out)
        (out / ".partial").mkdir()
        (out / first).rename(out / ".partial" / first)
        assert export(spec, form, out).before == len(featurised), form
        assert content(out) == there, form


def test_new_images_are_added_to_what_is_whole(spec, featurised, upload, night, tmp_path):
    for form in KINDS:
        export(spec, form, tmp_path / form)
    upload({f"{NEXT}/new.jpg": b"new"})
    night(NEXT, run_id="again")
    for form in KINDS:
        assert renew(spec, form, tmp_path / form).images == len(featurised) + 1, form
        assert ids(form, tmp_path / form) == {*featurised, "new"}, form


def test_what_counted_at_a_version_of_the_catalogue_is_exported_as_of_then(spec, featurised, upload, night, tmp_path):
    then = catalogue.version(layout.features(spec)).version
    upload({f"{DAY}/bird_0.jpg": b"replaced", f"{DAY}/new.jpg": b"new"})
    night(DAY, run_id="again")
    export(spec, "h5", tmp_path / "then", as_of=then)
    assert ids("h5", tmp_path / "then") == set(featurised)
    export(spec, "h5", tmp_path / "now")
    assert ids("h5", tmp_path / "now") == {*featurised, "new"}
    with h5py.File(tmp_path / "then/birds.h5") as old, h5py.File(tmp_path / "now/birds.h5") as new:
        assert (old["bird_0"]["features"][()] != new["bird_0"]["features"][()]).any()
    with pytest.raises(ExportFailed, match=r"there is no version 99 of the catalogue in s3://"):
        export(spec, "h5", tmp_path / "none", as_of=99)


def test_what_a_backbone_cannot_fill_is_refused_before_a_folder_is_made(spec, tmp_path):
    other = spec.model_copy(update={"backbone": "resnext101"})
    with writing() as connection:
        feature_sets.ensure(connection, other)
    with pytest.raises(ExportFailed, match="tsv-lxmert holds attributes of every box, and resnext101 has none"):
        export(other, "tsv-lxmert", tmp_path / "out")
    with pytest.raises(ExportFailed, match="the readers of h5 take no float16"):
        export(other, "h5", tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExportFailed, match=r"there is no format 'h6'; expected one of h5, h5-m3p, .*webdataset"):
        export(other, "h6", tmp_path / "out")
