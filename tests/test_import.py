"""What importing torchboard does, and does not do, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_alone_brings_no_torch_matplotlib_or_torchvision_and_starts_no_thread():
    heavy = "{'torch', 'torchvision', 'matplotlib', 'PIL', 'google.protobuf', 'numpy'}"
    code = f"import torchboard, sys, threading; print(sorted({heavy} & set(sys.modules)), threading.active_count())"
    assert run(code) == "[] 1"


def test_the_monitor_brings_no_matplotlib_and_no_torchvision():
    code = "from torchboard import Monitor; import sys; print(sorted({'torchvision', 'matplotlib'} & set(sys.modules)))"
    assert run(code) == "[]"


PACKAGES = ("torchboard.values", "tensorboard.compat.proto.event_pb2", "tensorboardX", "torch.utils.tensorboard")


@pytest.mark.parametrize("order", [PACKAGES, PACKAGES[::-1], PACKAGES[1:] + PACKAGES[:1]], ids="-".join)
def test_it_can_be_imported_with_the_other_writers_in_any_order(order):
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in order)
    code += "\nfrom torchboard import proto; print(proto.Event(step=3).step)"
    assert run(code) == "3"
