"""The compiled half of rtp/; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

from setuptools import Extension, setup

FLAGS = ["-O3", "-fno-strict-aliasing"]

setup(
    ext_modules=[
        Extension("rtp._dsp", ["rtp/_dsp.pyx"], extra_compile_args=FLAGS),
        Extension(
            "rtp._plane",
            ["rtp/_plane.pyx"],
            depends=["rtp/_plane.pxd", "rtp/_posix.pxd"],
            extra_compile_args=FLAGS,
            libraries=["pthread"],
        ),
    ]
)
