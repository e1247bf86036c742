"""Settings that all tests share."""

from __future__ import annotations

import os

import hypothesis

os.environ.setdefault("MPLBACKEND", "Agg")
hypothesis.settings.register_profile("torchboard", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("torchboard")
