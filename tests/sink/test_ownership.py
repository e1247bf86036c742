from __future__ import annotations

import pytest

from torchboard.errors import RunInUseError
from torchboard.sink import ownership
from torchboard.sink.ownership import disown, is_owned, own

fcntl = pytest.importorskip("fcntl")


def test_a_directory_is_owned_until_it_is_given_back(tmp_path):
    assert not is_owned(str(tmp_path))
    owner = own(str(tmp_path))
    assert is_owned(str(tmp_path)) and is_owned(str(tmp_path))
    with pytest.raises(RunInUseError, match="make the Monitor after init_process_group"):
        own(str(tmp_path))
    disown(owner)
    assert not is_owned(str(tmp_path))


def test_who_looks_for_a_moment_keeps_nobody_out(tmp_path, monkeypatch):
    lookers = [own(str(tmp_path))]
    monkeypatch.setattr(ownership.time, "sleep", lambda seconds: lookers and disown(lookers.pop()))
    disown(own(str(tmp_path)))
    assert not lookers


def test_of_a_directory_that_is_not_there_nobody_can_tell(tmp_path):
    with pytest.raises(FileNotFoundError):
        is_owned(str(tmp_path / "gone"))
