"""What is asked of a decoder, and what a header says of an image."""

from dataclasses import dataclass
from enum import StrEnum


class Reader(StrEnum):
    """Which library's pixels are meant."""

    OPENCV = "opencv"
    """`cv2.imread`: upright by EXIF, in BGR order."""
    PILLOW = "pillow"
    """`Image.open`, as mmf's own script calls it: as the image lies, in RGB order."""


@dataclass(frozen=True)
class Header:
    """Sizes in pixels. `tile` is the width and height of a TIFF's tiles, which are decoded whole."""

    width: int
    height: int
    frames: int = 1
    scans: int = 1
    tile: tuple[int, int] = (0, 0)

    @property
    def pixels(self) -> int:
        """How many pixels the image has."""
        return self.width * self.height
