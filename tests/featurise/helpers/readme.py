"""What the README has a newcomer copy."""

import re
import textwrap
from pathlib import Path

TEXT = (Path(__file__).parents[3] / "README.md").read_text()
BLOCKS = [
    *re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL),
    *(textwrap.dedent(block) for block in re.findall(r"\n\n((?:    .*\n)+)", TEXT)),
]


def block(line: str) -> str:
    """The one block that has this in it, without what its lines are told to be."""
    (found,) = (one for one in BLOCKS if line in one)
    return re.sub(r"  +# .*", "", found)
