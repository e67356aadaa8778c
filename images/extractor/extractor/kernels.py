"""The same CPU kernels on every x86-64 machine, so that an image's numbers do not depend on where it was featurised.

torch and its libraries choose kernels by the processor, and kernels for wider vectors add in another order. Rounding
that differs moves a class probability by up to 1e-4, and boxes whose confidences are closer than that change places.
AVX2, which every x86-64 server has had since 2015, is what the references' recorded outputs were computed with.
"""

import os
import platform

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


WORKSPACE_MIB = {"CUDNN_CONV_WSCAP_DBG": "4096"}
"""No convolution may ask a GPU for more beside its operands and result (PyTorch's documentation, "CUDA environment
variables"). cuDNN's FFT algorithms ask for tens of GiB, and one of them was found to be wrong."""


def use_the_same() -> None:
    """Choose them, where the environment does not say otherwise; to be called before torch computes anything."""
    for name, value in WORKSPACE_MIB.items():
        os.environ.setdefault(name, value)
    if platform.machine() == "x86_64":
        for name, value in AVX2.items():
            os.environ.setdefault(name, value)
