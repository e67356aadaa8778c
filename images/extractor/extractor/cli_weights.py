"""The commands of `extractor weights`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from extractor.core.backbone_specs import specs
from extractor.core.exit_codes import Exit, UsageError
from extractor.tools import inspect as inspection

app = App(name="weights", help="Synthetic checkpoints in the published formats, and what a checkpoint is.")


def check_backbone(backbone: str) -> None:
    """Raises UsageError when no such backbone is installed."""
    if backbone not in specs():
        raise UsageError(f"--backbone {backbone}: there is no such backbone; expected {' or '.join(specs())}")


@app.command
def make(
    backbone: str,
    path: Path,
    /,
    *,
    seed: int = 0,
    prefix: str = "",
    spread: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write a synthetic checkpoint in the format in which a backbone's weights are published.

    Its numbers exercise every part of the network; its boxes and labels mean nothing.

    Parameters
    ----------
    backbone
        One that is installed, such as `resnet101`.
    path
        The file to write.
    seed
        Another seed, other numbers.
    prefix
        Put before every tensor's name, such as `module.` as torch's DataParallel does.
    spread
        Spread confidences as those of a trained network, to compare precisions.
    """
    from extractor.tools import synthetic_checkpoint

    check_backbone(backbone)
    try:
        tensors = synthetic_checkpoint.make(backbone, path, seed=seed, prefix=prefix, spread=spread)
    except LookupError as error:
        raise UsageError(f"no synthetic checkpoint of {backbone} can be made ({error.args[0]})") from error
    print(f"{path}: synthetic {backbone} checkpoint, tensors {tensors}")
    return Exit.OK


@app.command
def check(uri: str, /, *, backbone: str | None = None, sha256: str | None = None, as_json: bool = False) -> int:
    """Load a checkpoint as a run would, and say what it is and its SHA-256.

    Parameters
    ----------
    uri
        A checkpoint, or a folder with it and its YAML configuration: a path or s3://…
    backbone
        `resnet101` or `resnext101`; told from the file's ending unless given.
    sha256
        What the SHA-256 must be.
    as_json
        For programs.
    """
    if backbone is not None:
        check_backbone(backbone)
    found = inspection.checkpoint(uri, backbone=backbone, sha256=sha256)
    print(found.model_dump_json() if as_json else found)
    return Exit.OK


@app.command
def fetch(
    backbone: str,
    folder: Path,
    /,
    *,
    network: str | None = None,
    sha256: str | None = None,
    config_sha256: str | None = None,
    source: str | None = None,
) -> int:
    """Download a backbone's published checkpoint and configuration; a download that broke off is resumed.

    Parameters
    ----------
    backbone
        `resnext101`; the checkpoint of `resnet101` is to be brought by hand.
    folder
        Where they go; a run takes it as `--weights`.
    network
        `X-101`, the default, or `X-152`.
    sha256
        What the checkpoint's SHA-256 must be.
    config_sha256
        What the configuration's SHA-256 must be.
    source
        Another folder's URL than the published one, such as a mirror's.
    """
    from extractor.backbone import fetcher

    check_backbone(backbone)
    options = {"network": network, "sha256": sha256, "config_sha256": config_sha256, "source": source}
    try:
        download = fetcher(backbone)
    except LookupError as error:
        raise UsageError(f"no address is known for the files of {backbone}: {error}") from error
    for name, found in download(folder, **{key: value for key, value in options.items() if value is not None}).items():
        print(f"{folder / name}: SHA-256 {found}")
    return Exit.OK
