"""What all ranks of a job see, written by the first of them, against what one process sees of the same batches."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import rank_jobs
import torch
from torch import nn
from torch.multiprocessing import start_processes

import torchboard
from torchboard.capture.options import Capture
from torchboard.capture.recorder import Recorder
from torchboard.capture.sketches import Sketches
from torchboard.errors import InvalidValueError, TorchboardWarning
from torchboard.monitor import Monitor
from torchboard.sketch import layout

EXACT = [*range(layout.SUM), layout.NEGATED_MIN, layout.MAX]
GRADIENTS_OF_A_PART = {"ddp": 4, "fsdp": 4, "hsdp": 4, "both": 2, "tensor": 1, "dtensor": 1}
"""The loss of a part of the batch is a mean over fewer examples, by this factor."""

HIDDEN = [(layer, which) for layer in ("wide", "back") for which in ("weight", "bias")]
"""The parameters that are split."""


def _start(job: Callable[[int, str], None], processes: int, directory: Path) -> Path:
    """Runs a process for each rank, forked from one that has imported what they need."""
    path = os.pathsep.join([str(Path(torchboard.__file__).parents[1]), str(Path(__file__).parent)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        multiprocessing.set_forkserver_preload(["rank_jobs"])
        start_processes(job, (str(directory),), nprocs=processes, start_method="forkserver")
    return directory


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _start(rank_jobs.on_four_ranks, 4, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _start(rank_jobs.on_two_ranks, 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def whole() -> dict:
    return rank_jobs.whole()


def sketches(kept: dict) -> dict:
    return {name: rows for name, rows in kept.items() if isinstance(rows, list)}


@pytest.mark.parametrize("job", GRADIENTS_OF_A_PART)
def test_the_sketches_of_ranks_make_those_of_one_process(four, whole, job):
    kept, _, scale = torch.load(four / f"{job}-0")
    kept, expected = sketches(kept), sketches(whole)
    assert kept.keys() == expected.keys()
    for (run, tag, epoch), rows in kept.items():
        counts, moments, parameters = expected[run, tag, epoch]
        factor = GRADIENTS_OF_A_PART[job] if tag.startswith("activation_gradients") else 1
        factor = scale if tag.startswith(("gradients", "updates")) else factor
        moments = moments.clone()
        moments[layout.ADDITIVE :] *= factor
        assert torch.equal(rows[1][EXACT], moments[EXACT]), (tag, rows[1], moments)
        norms = [layout.norm(m.numpy(), p.numpy()) for m, p in ((rows[1], rows[2]), (moments, parameters))]
        assert math.isclose(norms[0], norms[1] * factor, rel_tol=1e-6), (tag, norms)
        if rows[2][layout.PIVOT] == parameters[layout.PIVOT]:
            assert torch.equal(rows[0], counts), tag


def test_specials_are_in_what_is_compared(whole):
    _, moments, _ = whole["train", "activations/side", 0]
    assert min(moments[[layout.NAN, layout.POS_INF, layout.NEG_INF, layout.ZEROS]]) > 0


@pytest.mark.parametrize("job", GRADIENTS_OF_A_PART)
def test_norms_and_means_are_those_of_one_process(four, whole, job):
    kept, _, scale = torch.load(four / f"{job}-0")
    factors = {"gradient_norm": scale, "gradient_norm_before_clipping": scale, "epoch_loss": 1}
    for (tag, factor), epoch in itertools.product(factors.items(), (0, 1)):
        assert math.isclose(kept["train", tag, epoch], factor * whole["train", tag, epoch], rel_tol=1e-6), tag


def test_the_norm_before_clipping_is_told_of_what_came_where_a_rank_with_a_part_does_not(two):
    kept = torch.load(two / "half-0")
    norm = kept["train", "gradient_norm", 0]
    assert norm > 1 and math.isclose(kept["train", "gradient_norm_before_clipping", 0], 2 * norm, rel_tol=1e-6)


@pytest.mark.parametrize("job", GRADIENTS_OF_A_PART)
def test_only_the_first_rank_writes_and_training_is_what_it_was(four, job):
    for rank in range(4):
        kept, same, _ = torch.load(four / f"{job}-{rank}")
        assert same and bool(kept) == (rank == 0)


def test_parameters_that_were_taken_out_of_the_model_are_told_of_and_there_is_no_norm(four, whole):
    kept, same, told = torch.load(four / "localized-0")
    assert (
        same and len([message for message in told if "DistributedDataParallel over tensor parallelism" in message]) == 1
    )
    found, expected = sketches(kept), sketches(whole)
    seen = {name for name in expected if name[1].startswith("activation")}
    assert seen == {name for name in found if name[1].startswith("activation")}
    assert all(found[name][1][layout.COUNT] == expected[name][1][layout.COUNT] for name in seen)
    hidden = {f"{kind}/{layer}/{which}" for kind in ("parameters", "gradients", "updates") for layer, which in HIDDEN}
    assert {tag for _, tag, _ in expected.keys() - found.keys()} == hidden
    tags = {tag for _, tag, _ in kept}
    assert {"monitor/left_out/parameters", "monitor/left_out/gradient_norm"} <= tags
    assert not [tag for tag in tags if tag.startswith("gradient_norm")]


@pytest.mark.parametrize("job", [*GRADIENTS_OF_A_PART, "localized"])
def test_units_are_dead_where_they_are_on_every_rank(four, whole, job):
    kept = torch.load(four / f"{job}-0")[0]
    names = {name for name in whole if name[1].startswith("units_dead")}
    assert names and names == {name for name in kept if name[1].startswith("units_dead")}
    assert all(kept[name] == whole[name] for name in names)


@pytest.mark.parametrize("job", ["tensor", "dtensor", "both", "localized"])
def test_units_that_lie_on_several_ranks_are_those_of_one_process(four, job):
    shares = {"units_dead/first_half": 0.75, "units_dead/gate": 0.25, "units_dead/tokens": 0.5}
    kept, expected = torch.load(four / f"units-{job}-0"), rank_jobs.units()
    assert expected == shares | {"units_dead/wide_half": 0.0}
    if job != "dtensor":
        del expected["units_dead/wide_half"]
        left_out = kept.pop("monitor/left_out/dead_units")
        assert "of `wide_half` ranks have parts that do not tell what they are parts of" in left_out
    assert kept == expected


def test_layers_and_phases_that_only_some_ranks_have_are_there(four):
    kept, told, notes = torch.load(four / "uneven-0")
    counts = {name: int(rows[1][layout.COUNT]) for name, rows in sketches(kept).items()}
    assert counts["train", "activations/0", 0] == 2 * (1 + 2 + 3 + 4)
    assert counts["train", "activations/more", 0] == 5 * 4
    assert counts["train", "parameters/0/weight", 0] == 4 and counts["train", "parameters/more/weight", 0] == 10
    assert counts["validation", "activations/0", 0] == 256
    assert {tag for _, tag, _ in kept if "update_ratio/more" in tag} == {
        "update_ratio/more/weight",
        "update_ratio/more/bias",
    }
    assert notes["activations/0"] == "a sample of 256 of 1,200 elements, in blocks of 256, on rank 2"
    assert kept["train", "epoch_loss", 0] == (0 + 1 + 2 + 3 + 2 + 2) / 6
    assert kept["validation", "epoch_loss", 0] == 3.5 and kept["train", "epoch_only", 0] == 7
    assert len([message for message in told if "Not every rank calls log_batch()" in message]) == 2


def test_ranks_that_do_not_end_an_epoch_are_told_of_once_and_not_waited_for_again(two):
    told, waits = torch.load(two / "told-0")
    assert [message.split(":")[0] for message in told["some"]] == [
        "Rank 0 waited 3 s in log_epoch() for rank 1 of 2, which did not call it or are gone"
    ]
    kept = sketches(torch.load(two / "some-0"))
    assert [int(kept["train", "activations/0", epoch][1][layout.COUNT]) for epoch in range(20)] == [6] * 20
    assert sum(waits["some"]) <= 3 + 1, "of 20 exchanges, one with all patience, and a second for the others together"


def test_a_rank_that_was_late_is_merged_again_when_it_comes(two):
    told, _ = torch.load(two / "told-0")
    assert len(told["late"]) == 1 and not torch.load(two / "told-1")[0]["late"]
    kept = sketches(torch.load(two / "late-0"))
    assert [int(kept["train", "activations/0", epoch][1][layout.COUNT]) for epoch in range(3)] == [6, 12, 12]


def test_a_rank_is_told_that_the_first_one_does_not_follow(two):
    told, _ = torch.load(two / "told-1")
    assert len(told["first"]) == 1 and "waited 0.5 s for rank 0" in told["first"][0]
    assert torch.load(two / "first-1") == {}


def test_a_rank_without_a_monitor_is_not_waited_for(two):
    kept, told = torch.load(two / "one-0")
    assert len(told) == 1 and "There is no Monitor on rank 1 of 2" in told[0]
    assert ("train", "activations/0", 0) in kept


def test_a_rank_that_dies_does_not_hold_up_the_others(two):
    kept, told = torch.load(two / "dies-0")
    kept = sketches(kept)
    assert [int(kept["train", "activations/0", epoch][1][layout.COUNT]) for epoch in range(3)] == [12, 6, 6]
    assert len(told) == 1 and "rank 1 of 2" in told[0]


def test_a_monitor_made_before_the_job_is_set_up_joins_it(two):
    kept = sketches(torch.load(two / "early-0"))
    assert int(kept["train", "activations/0", 0][1][layout.COUNT]) == 12
    assert torch.load(two / "early-1") == {}


def test_ranks_agree_on_the_captured_steps_and_on_where_a_log_goes_on(two):
    results = [torch.load(two / f"agreements-{rank}") for rank in range(2)]
    assert results[0][0] == {0: (9 << 20, b"\0"), 1: (9 << 20, b"\1")} and results[1][0] == {}
    assert results[0][1] == results[1][1] == [False, True, False, True]
    assert results[0][2] == results[1][2] == 2


def test_a_picture_that_would_need_the_other_ranks_is_left_out(two):
    kept, told = torch.load(two / "inside-0")
    assert len(told) == 1 and "feature maps" in told[0] and "allreduce" in told[0]
    assert int(kept["train", "activations/0", 0][1][layout.COUNT]) == 2 * 2 * 2 * 2


def test_a_loss_scaler_and_clipping_are_told_apart_where_gradients_are_sharded(two):
    kept, scale = torch.load(two / "scaled-0")
    before = 3 * scale * math.sqrt(8 * (1 + 9) / 2)
    assert math.isclose(kept["train", "gradient_norm_before_clipping", 0], before, rel_tol=1e-6)
    assert math.isclose(kept["train", "gradient_norm", 0], 0.5, rel_tol=1e-5)
    assert kept["train", "monitor/skipped_steps", 0] == 1


def test_what_another_version_sends_is_told_and_left_out_of_what_is_written(two):
    kept, told = torch.load(two / "other-0")
    assert all("rank 1 sent is no log of this version's" in message for message in told)
    assert len(told) == 3 + 5, (
        "posts without sense: JSON, arrays and a number; of the others each is wrong in its own way"
    )
    for epoch in range(2):
        assert int(kept["train", "activations/0", epoch][1][layout.COUNT]) == 2 * 3 * 2
        assert kept["train", "units_dead/1", epoch] == 1.0 and kept["train", "epoch_loss", epoch] == 1.0


def test_a_rank_to_which_another_version_says_where_to_go_on_is_told_and_looks_for_itself(two):
    began, told = torch.load(two / "progress-1")
    assert began == [0, 0, 0, 0, 2]
    assert len(told) == 4 and all("rank 0 sent is no log of this version's" in message for message in told)


def test_there_is_no_norm_of_gradients_whose_terms_lie_on_several_ranks_and_that_is_said(two):
    tags = torch.load(two / "terms-0")
    assert "monitor/left_out/gradient_norm" in tags and {"gradients/0/weight", "activations/0"} <= tags
    assert not {tag for tag in tags if tag.startswith(("gradient_norm", "gradients/1"))}


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_shards_that_do_not_tell_what_they_are_part_of_are_left_out_and_named(two, use_orig_params):
    kept, told = torch.load(two / f"flat-{use_orig_params}-0")
    for log in kept:
        tags = {tag for _, tag, _ in log}
        assert not {tag for tag in tags if tag.startswith(("gradient", "update", "parameters", "weights/"))}
        assert {"monitor/left_out/parameters", "monitor/left_out/weights"} <= tags
        assert int(log["train", "activations/0", 0][1][layout.COUNT]) == 2 * 2 * 3
        assert "FullyShardedDataParallel shards are not counted" in log["train", "run/layers", 0]
    assert "in the shards of this rank" in kept[1]["train", "run/facts", 0]
    parts = [message for message in told if "parameters of a FullyShardedDataParallel" in message]
    assert len(parts) == 2 and all("fully_shard, whose parts do" in message for message in parts)
    rows = [message for message in told if "embedding '1': its rows are sharded" in message]
    assert len(rows) == 2 and all("summon_full_params" in message for message in rows)
    assert not any("full_tensor" in message for message in told), "FSDP1's parameters have none"


def test_a_sharded_embedding_is_told_of_with_the_way_to_the_whole_one(two):
    (told,) = torch.load(two / "rows-0")
    assert "embedding '0': its rows are sharded" in told and "weight.full_tensor()" in told


def test_replicas_on_several_devices_make_one_sketch():
    numbers = torch.randn(3, 5)
    parts = [numbers, torch.cat([-numbers, torch.full((1, 5), torch.nan)]), torch.randn(2, 2)]
    apart, together = Sketches(), Sketches()
    for part, device, tag in zip(parts, ("cpu", "cpu:0", "cpu:0"), ("layer", "layer", "other")):
        apart.row(tag, torch.device(device)).observe_(part)
        together.row(tag, torch.device("cpu")).observe_(part)
    found, expected = (
        {tag: row for one in many.collect() for tag, *row in zip(one.tags, *one.copy.wait())}
        for many in (apart, together)
    )
    assert found.keys() == expected.keys() == {"layer", "other"}
    for tag, (counts, moments, _) in expected.items():
        assert (found[tag][0] == counts).all() and (found[tag][1][EXACT] == moments[EXACT]).all()


def test_what_a_replica_of_a_model_sees_is_recorded_with_the_rest():
    model = nn.Linear(2, 3)
    recorder = Recorder(model, Capture())
    recorder.arm(True)
    replicas = [model._replicate_for_data_parallel() for _ in range(2)]
    for replica, rows in zip(replicas, (4, 5)):
        replica.weight, replica.bias = model.weight, model.bias
        replica(torch.ones(rows, 2)).sum().backward()
    recorder.arm(False)
    (snapshot,) = recorder.collect("train")
    counts = dict(zip(snapshot.tags, snapshot.copy.wait()[1][:, layout.COUNT]))
    assert counts == {"activations/Linear": 27, "activation_gradients/Linear": 27}


def test_a_process_that_only_its_environment_calls_a_rank_is_told_that_it_does_not_write(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Monitor(nn.Linear(2, 2), tmp_path / "log") as monitor, pytest.warns(TorchboardWarning, match="Unset RANK"):
        monitor.log_epoch(loss=1.0)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), "60"])
def test_a_timeout_of_ranks_ends(seconds):
    with pytest.raises(InvalidValueError, match="rank_timeout"):
        Capture(rank_timeout=seconds)
