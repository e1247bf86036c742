"""Builds the part of the sketches that is written in C; whoever has no compiler gets the package without it."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "torchboard.sketch._host_fold",
            ["torchboard/sketch/host_fold/fold.c"],
            depends=[f"torchboard/sketch/host_fold/{name}.h" for name in ("numbers", "elements", "row", "codes")],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
