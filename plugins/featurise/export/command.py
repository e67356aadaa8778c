"""The command `featurise export`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from featurise.console import AsJson, progress, say, say_json, warn
from featurise.export import run as export
from featurise.export.selection import IdForm, Options


def export_features(  # long: its options and what they mean
    *,
    dataset: str,
    backbone: str,
    form: Annotated[str, Parameter(name="--format")],
    out: Path,
    revision: str | None = None,
    ids: Path | None = None,
    batch: str | None = None,
    prefix: str | None = None,
    as_of: int | None = None,
    id_form: IdForm | None = None,
    half: Annotated[bool, Parameter(negative="")] = False,
    single: Annotated[bool, Parameter(negative="")] = False,
    renew: Annotated[bool, Parameter(negative="")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a dataset's features in the format that a reader expects; called again, it continues where it stopped.

    Parameters
    ----------
    dataset
        The dataset.
    backbone
        The backbone.
    form
        h5 (VOLTA's and IGLUE's converters), h5-m3p, h5-meshed-memory, lmdb-volta, lmdb-mmf, npy-mmf, lmdb-vilbert-mt,
        lmdb-uniter, tsv-lxmert, tsv-caffe, tsv-oscar, npz (bottom-up-attention.pytorch), npz-openvqa, parquet (Hugging
        Face), webdataset.
    out
        The folder to write to; what is not whole yet lies in `.partial` there.
    revision
        The feature set's revision, where there are several.
    ids
        A file with an image's id on each line: only these, in a table in this order.
    batch
        Only the images of this day.
    prefix
        Only images whose key in the bucket starts like that.
    as_of
        The images that counted at this version of the catalogue in the bucket, instead of those that count now.
    id_form
        Name images by the `stem` of their file, their `path` below the batch, or the `number` that the stem ends with.
    half
        Features in float16, where the format's readers take it.
    single
        One real HDF5 file instead of one that links others (h5).
    renew
        Make an export again whose images have been replaced or removed since; it takes the old one's place when whole.
    as_json
        One JSON object with the counts and paths.
    """
    options = Options(id_form=id_form, ids=ids, batch=batch, prefix=prefix, as_of=as_of, half=half, single=single)
    work = export.renew if renew else export.run
    with progress(f"{dataset} as {form}") as tell:
        done = work(dataset, backbone, revision, form, out, tell, options)
    if done.synthetic:
        warn("these features come from SYNTHETIC weights: they mean nothing", style="bold yellow")
    if as_json:
        say_json(done.model_dump(mode="json"))
        return
    before = f", {done.before:,} of them there before" if done.before else ""
    say(f"{done.images:,} images of {done.feature_set} in {out}{before}")
