"""The thumbnails that a report shows: those that the extractor chose and made, as they lie beside the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from extractor.core import manifest, storage, vocabulary
from extractor.core.exit_codes import ManifestInvalid
from extractor.core.thumbnails import Thumbnail, Why
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.objects import layout
from featurise.steps.report.run_summary import RunSummary

FILES = 24
"""Files of a run whose thumbnails its page shows, the first ones: each has eight at the most."""


@dataclass(frozen=True)
class Shown:
    """A thumbnail, and the names of its boxes' classes."""

    thumbnail: Thumbnail
    names: list[str]


@dataclass(frozen=True)
class Gallery:
    """Featurised images by why they were chosen, rejected ones by key, and the files whose thumbnails are left out."""

    chosen: dict[Why, list[Shown]] = field(default_factory=dict)
    rejected: dict[str, Thumbnail] = field(default_factory=dict)
    left: int = 0
    unreadable: list[str] = field(default_factory=list)


def of(spec: FeatureSetSpec, run: RunSummary, names: Sequence[str] | None) -> Gallery:
    """The thumbnails of a run; a shard whose extractor made none has none.

    Raises storage.StorageError.
    """
    found = Gallery(left=max(len(run.files) - FILES, 0))
    this = Run(spec, run.batch, run.run_id)
    for one in _lines(found, [layout.report_thumbnails(this, file.name) for file in run.files[:FILES]]):
        if one.why is Why.REJECTED:
            found.rejected[one.key] = one
        else:
            classes = one.look.classes if one.look is not None else []
            shown = Shown(one, [vocabulary.name(number, names) for number in classes])
            found.chosen.setdefault(one.why, []).append(shown)
    return found


def _lines(found: Gallery, uris: Sequence[str]) -> Iterator[Thumbnail]:
    for uri in uris:
        try:
            yield from manifest.fetch(Thumbnail, uri)
        except storage.NotFound:
            continue
        except ManifestInvalid as error:
            found.unreadable.append(str(error))
