"""Build the operators against PyTorch's stable interface: one library works with PyTorch 2.10 and later."""

import platform
import sys

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

PYTORCH_2_10 = "0x020a000000000000ULL"

if sys.platform == "win32":
    FLAGS = ["/O2", "/std:c++20", f"/DTORCH_TARGET_VERSION={PYTORCH_2_10}"]
else:
    FLAGS = [
        "-O3",
        "-std=c++20",
        "-fvisibility=hidden",
        # nothing reads errno or floating-point exceptions here, and without them loops can be vectorised
        "-fno-math-errno",
        "-fno-trapping-math",
        *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" and sys.platform == "linux" else []),
        f"-DTORCH_TARGET_VERSION={PYTORCH_2_10}",
    ]

setup(
    ext_modules=[
        CppExtension(
            "convlstm_native._kernels",
            ["kernels.cpp"],
            extra_compile_args=FLAGS,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
