"""Lets detectron2 0.6 be imported beside today's libraries, without its compiled extension.

Every compiled operator that this network needs is torchvision's. Importing any module of this package runs this first.
"""

import sys
import warnings
from types import ModuleType

from PIL import Image

if "detectron2._C" not in sys.modules:
    sys.modules["detectron2._C"] = ModuleType("detectron2._C")
if not hasattr(Image, "LINEAR"):
    Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]  # gone since Pillow 10

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # detectron2 scripts functions, which torch discourages now
    import detectron2.modeling  # noqa: F401
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release", category=UserWarning)
