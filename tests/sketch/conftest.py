from __future__ import annotations

import pytest

from torchboard.sketch import host_compiled


@pytest.fixture(params=["compiled", "torch"])
def on_host(request, monkeypatch):
    """Which of the two ways tensors in the host's memory are folded by."""
    if request.param == "torch":
        monkeypatch.setattr(host_compiled, "_library", None)
    elif not host_compiled.available():
        pytest.skip("the compiled code was not built: there is no compiler")
    return request.param
