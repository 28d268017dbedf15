"""Builds the compiled modules: every .py below nutproxy/ that has a .pxd beside it.

Everything else about the package is in setup.cfg. NUTPROXY_DEBUG=1 builds with bounds checks,
assertions and line tracing.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("NUTPROXY_DEBUG", "") not in ("", "0")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,
    "linetrace": DEBUG,
}
MACROS = [("CYTHON_TRACE", "1")] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]
CFLAGS = ["-O1", "-g"] if DEBUG else ["-O3", "-g1"]


def extensions():
    for pxd in sorted(Path("nutproxy").rglob("*.pxd")):
        source = pxd.with_suffix(".py")
        if source.exists():
            yield Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                define_macros=MACROS,
                extra_compile_args=CFLAGS,
            )


setup(
    ext_modules=cythonize(
        list(extensions()),
        compiler_directives=DIRECTIVES,
        nthreads=os.cpu_count() or 1,
        force=DEBUG,
    )
)
