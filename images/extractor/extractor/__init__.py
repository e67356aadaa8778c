"""The runtime that both backbones share: read a manifest, fetch, decode, batch, run, write, resume.

The light core (`contract`, `backbones`, `manifest`, `outcome`, `storage`, `weights`) imports neither torch nor OpenCV;
the control plane uses it to plan and to validate. The rest runs on GPUs.
"""

__version__ = "0.1.0"
