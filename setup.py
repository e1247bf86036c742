"""Builds the part of the sketches that is written in C; whoever has no compiler gets the package without it."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "torchboard.sketch._host_fold",
            ["torchboard/sketch/host_fold/module.c"],
            depends=sorted(glob("torchboard/sketch/host_fold/*.h")),
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
