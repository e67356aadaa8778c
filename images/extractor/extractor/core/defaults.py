"""Defaults that the command line, the pipeline and the declaration share."""

BATCH_SIZE = 8
"""Images that share a pass on a GPU where they fit: more gain little and delay what waits for a batch."""
PART_IMAGES, PART_SECONDS = 256, 600
"""A part is saved after this many images, or this many seconds."""
MAX_REJECT_SHARE = 0.5
"""The share of rejected images above which a shard fails."""
