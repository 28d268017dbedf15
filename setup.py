"""Builds the compiled modules: every .py file in nutproxy/ with a .pxd file of the same name.

All other settings of the package are in setup.cfg. NUTPROXY_DEBUG=1 builds with bounds checks,
assertions and line tracing. NUTPROXY_SANITIZE=1 builds with AddressSanitizer and
UndefinedBehaviorSanitizer, for an interpreter that is linked with both (`make asan`).
"""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


def wanted(name):
    return os.environ.get(name, "") not in ("", "0")


DEBUG = wanted("NUTPROXY_DEBUG")
SANITIZE = wanted("NUTPROXY_SANITIZE")
FLAVOUR = "sanitize" if SANITIZE else "debug" if DEBUG else "release"

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
CFLAGS = ["-O1", "-g"] if DEBUG or SANITIZE else ["-O3", "-g1"]
LDFLAGS = []
if SANITIZE:
    LDFLAGS = ["-fsanitize=address,undefined"]
    # Uninitialized variables get a pattern, so that reading one is not correct by accident.
    CFLAGS += [*LDFLAGS, "-fno-omit-frame-pointer", "-ftrivial-auto-var-init=pattern"]


def extensions():
    for pxd in sorted(Path("nutproxy").rglob("*.pxd")):
        source = pxd.with_suffix(".py")
        if source.exists():
            yield Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                define_macros=MACROS,
                extra_compile_args=CFLAGS,
                extra_link_args=LDFLAGS,
            )


def require_toolchain():
    """Ends the build and names the missing packages, if there is no compiler or no Python.h."""
    missing = []
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        missing.append(f"a C compiler ({compiler!r} is not on PATH)")
    paths = sysconfig.get_paths()
    places = dict.fromkeys([paths["include"], paths["platinclude"]])
    if not any(Path(place, "Python.h").exists() for place in places):
        missing.append(f"the Python headers (no Python.h in {' or '.join(places)})")
    if missing:
        raise SystemExit(
            f"\nnutproxy is compiled on installation; missing: {', and '.join(missing)}.\n"
            "  Debian, Ubuntu:  sudo apt-get install gcc libc6-dev python3-dev\n"
            "  Fedora, RHEL:    sudo dnf install gcc glibc-devel python3-devel\n"
        )


class BuildCompiled(build_ext):
    """Runs Cython only in the build step, so that an sdist contains no generated C."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self):
        require_toolchain()
        marker = Path(self.build_temp, "flavour")
        # Timestamps do not show whether the objects were built with other flags.
        if not marker.exists() or marker.read_text() != FLAVOUR:
            self.force = True
        generated = cythonize(
            self.extensions,
            build_dir=f"build/cython-{FLAVOUR}",
            compiler_directives=DIRECTIVES,
            nthreads=os.cpu_count() or 1,
            quiet=not self.verbose,
        )
        for extension, translated in zip(self.extensions, generated, strict=True):
            extension.sources = translated.sources
            extension.depends = translated.depends
        super().run()
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(FLAVOUR)


class BuildWithExamples(build_py):
    """Copies the example files into the package, where `nutproxy examples` finds them."""

    def examples(self):
        """Each file and the path that it is copied to."""
        share = Path(self.build_lib, "nutproxy", "share")
        for pattern in ("conf/*.yml", "contrib/nutproxy.*"):
            for file in sorted(Path().glob(pattern)):
                yield file, share / file.name

    def run(self):
        super().run()
        # An editable install reads them from conf/ and contrib/.
        if not self.editable_mode:
            for file, place in self.examples():
                self.mkpath(str(place.parent))
                self.copy_file(str(file), str(place))

    def get_outputs(self, include_bytecode=True):
        return [
            *super().get_outputs(include_bytecode),
            *(str(place) for _, place in self.examples()),
        ]


# Cython's worker processes may import this file again.
if __name__ == "__main__":
    setup(
        ext_modules=list(extensions()),
        cmdclass={"build_ext": BuildCompiled, "build_py": BuildWithExamples},
    )
