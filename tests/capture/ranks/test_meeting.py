"""Which monitors of a job are merged, and what becomes of epochs that only some ranks end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import meeting_jobs
import pytest
import torch
from test_ranks import _start
from torch.distributed import HashStore

from torchboard.capture.ranks.mail import Mail
from torchboard.capture.ranks.peers import new_card
from torchboard.sketch import layout


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _start(meeting_jobs.on_two_ranks, 2, tmp_path_factory.mktemp("meeting"))


def examples(kept: dict) -> dict[int, int]:
    """Epoch -> of how many examples the outputs were seen; a layer puts two numbers out."""
    named = {name: rows for name, rows in kept.items() if name[1] == "activations/0"}
    return {epoch: int(rows[1][layout.COUNT]) // 2 for (_, _, epoch), rows in named.items()}


def means(kept: dict) -> list[float]:
    return [value for (_, tag, _), value in sorted(kept.items()) if tag == "epoch_loss"]


def test_monitors_made_before_the_job_do_not_keep_ranks_from_meeting(two):
    kept, told, _ = torch.load(two / "after_a_trial-0")
    assert examples(kept) == {0: 30, 1: 32} and not told


def test_a_rank_that_leaves_every_second_end_of_an_epoch_out_is_merged_in_the_others(two):
    kept, told, waits = torch.load(two / "every_second-0")
    assert examples(kept) == {0: 10, 1: 41 + 11, 2: 12, 3: 45 + 13, 4: 14, 5: 49 + 15} and len(told) == 1
    assert waits <= 3 + 1 + 1, "all patience once, and then a second"


def test_a_rank_that_ends_more_epochs_than_the_first_is_merged_in_all_of_its(two):
    kept, told, _ = torch.load(two / "first_every_third-0")
    assert examples(kept).keys() == {0, 1, 2} and not told
    assert all(count > 3 * 10 + 20 for count in examples(kept).values())
    _, told, _ = torch.load(two / "first_every_third-1")
    assert len(told) == 1 and "waited 0.3 s for rank 0" in told[0]


def test_a_rank_that_is_a_training_ahead_is_waited_for(two):
    kept, told, _ = torch.load(two / "ahead-0")
    assert examples(kept) == {0: 2, 1: 4} and not told
    assert not torch.load(two / "ahead-1")[1]


@pytest.mark.parametrize("job", ["tried_again", "tried_again_to_resume"])
def test_a_monitor_that_could_not_be_made_is_nobodys_peer(two, job):
    mean, told, _ = torch.load(two / f"{job}-0")
    assert mean == 0.5 and not told and not torch.load(two / f"{job}-1")[1]


@pytest.mark.parametrize(
    "one, other", [("runs/log", Path("runs/./log")), ("runs/log/", "file://runs/log"), ("s3://log/", "s3://log")]
)
def test_it_makes_no_difference_how_a_directory_is_spelled(one, other):
    assert new_card(one, {}).log_dir == new_card(other, {}).log_dir


class Vanishing:
    """A store in which nothing stays that somebody has seen."""

    def __init__(self) -> None:
        self._store = HashStore()
        self._store.set_timeout(timedelta(milliseconds=10))

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def check(self, keys: list[str]) -> bool:
        found = self._store.check(keys)
        self._store.delete_key(keys[0])
        return found


def test_what_is_taken_back_while_it_is_read_did_not_come():
    mail = Mail(Vanishing())
    mail.give("post", b"said")
    assert mail.read("post") is None
    mail.give("post", b"said")
    assert mail.take("post", 0.0) is None


def test_a_rank_that_left_an_end_of_an_epoch_out_is_merged_again_in_the_next(two):
    (kept, epochs), told, waits = torch.load(two / "skips-0")
    assert len(told) == 1 and "waited 1 s in log_epoch() for rank 1 of 2" in told[0]
    assert epochs == [1, 2, 3, 4, 5, 6, 7, 8]
    assert torch.load(two / "skips-1")[0][1][-5:] == [4, 5, 6, 7, 8]
    found, loss = examples(kept), means(kept)
    assert {epoch: found[epoch] for epoch in (0, 4, 6)} == {epoch: 30 + 2 * epoch for epoch in (0, 4, 6)}
    assert loss[0] == 15 and loss[1] == 11 and loss[4:] == [15 + epoch for epoch in (4, 5, 6, 7)]


def test_a_rank_is_merged_again_where_nobody_sees_steps(two):
    kept, told, _ = torch.load(two / "skips_without_steps-0")
    assert len(told) == 1
    assert means(kept)[0] == 0.5 and means(kept)[1] == 0 and means(kept)[4:] == [0.5] * 4


def test_an_end_of_an_epoch_that_rank_0_refuses_is_not_paired_with_the_next(two):
    (kept, epochs), told, _ = torch.load(two / "raises-0")
    assert epochs == [0, 1, 2, 3] and not told
    (_, epochs), told, _ = torch.load(two / "raises-1")
    assert epochs[-1] == 3 and not told
    assert examples(kept) == {0: 10 + 11 + 21, 1: 12 + 22, 2: 13 + 23}
    assert means(kept) == [(10 + 11 + 21) / 3, 17, 18]


@pytest.mark.parametrize(
    "job, expected", [("other_options", {epoch: 10 + epoch for epoch in range(4)}), ("none_on_first", {})]
)
def test_ranks_with_other_options_are_told_of_and_wait_for_nobody(two, job, expected):
    kept, told, waits = torch.load(two / f"{job}-0")
    assert len(told) == 1 and "histogram_freq=" in told[0] and "rank_timeout" not in told[0]
    assert examples(kept) == expected and means(kept) == [15, 16, 17, 18]
    assert torch.load(two / f"{job}-1")[1] == []


@pytest.mark.parametrize("job", ["classes", "one_more", "no_dir"])
def test_monitors_of_one_directory_are_of_one_training(two, job):
    kept, told, _ = torch.load(two / f"{job}-0")
    assert examples(kept) == {0: 30, 1: 32} and means(kept) == [15, 16]
    if job == "one_more":
        assert len(told) == 1 and "There is no Monitor on rank 1 of 2 with rank 0's log_dir ('average')" in told[0]
    else:
        assert not told


def test_the_order_in_which_monitors_are_made_does_not_matter_where_they_have_directories(two):
    logs, told, _ = torch.load(two / "swapped-0")
    assert not told
    assert examples(logs["left"]) == {0: 2} and examples(logs["right"]) == {0: 4}


def test_trainings_of_their_own_in_one_job_are_not_mixed_and_told_of(two):
    kept, told, waits = torch.load(two / "others-0")
    assert len(told) == 1 and "('log of 0'; there is one with 'log of 1')" in told[0] and not waits
    assert examples(kept) == {epoch: 10 + epoch for epoch in range(4)}
    _, told, waits = torch.load(two / "others-1")
    assert len(told) == 1 and "nothing of what this rank sees is written" in told[0] and not waits


def test_passes_in_which_a_pipeline_finds_shapes_out_are_no_training(two):
    kept, _, _ = torch.load(two / "pipeline-0")
    for stage in ("activations/stage0", "activations/stage1"):
        _, moments, _ = kept["train", stage, 0]
        assert moments[layout.COUNT] == 2 * 4 * 3
        assert -moments[layout.NEGATED_MIN] == moments[layout.MAX] == 1


def test_of_a_pipeline_there_is_what_every_stage_saw_and_no_norm_before_gradients_are_scaled(two):
    kept, _, _ = torch.load(two / "pipeline-0")
    scalars = {tag: value for (_, tag, _), value in kept.items() if isinstance(value, float)}
    assert scalars["update_ratio/stage0/weight"] == scalars["update_ratio/stage1/weight"] == 0
    assert scalars["units_dead/gate"] == 1
    assert scalars["gradient_norm"] > 0 and "gradient_norm_before_clipping" not in scalars


@pytest.mark.parametrize("job", ["empty", "fewer"])
def test_it_is_told_once_where_rank_0_has_fewer_steps_than_another(two, job):
    kept, told, _ = torch.load(two / f"{job}-0")
    assert examples(kept) == {"empty": {0: 4, 1: 8}, "fewer": {0: 16, 1: 16, 2: 20}}[job]
    assert len([message for message in told if "Rank 0 has captured fewer steps of the training" in message]) == 1


@pytest.mark.parametrize("job", ["skips", "raises", "others", "pipeline"])
def test_nothing_is_told_of_steps_where_all_ranks_take_as_many(two, job):
    _, told, _ = torch.load(two / f"{job}-0")
    assert not [message for message in told if "fewer steps" in message]
