"""The digits job on every page of TensorBoard, through both of its readers."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import PIL.Image
import pytest
from digits_job import EPOCHS, DigitsJob
from google.protobuf import text_format
from serving import Board
from tensorboard.compat.proto import config_pb2, graph_pb2

STEPS = list(range(EPOCHS))


def parameter_tags(digits: DigitsJob, kind: str) -> dict[str, str]:
    return {f"{kind}/{name.replace('.', '/')}": name for name in digits.parameters}


def check_buckets(buckets: list[list[float]]) -> None:
    edges = np.array(buckets)
    assert edges.ndim == 2 and edges.shape[1] == 3 and 0 < len(edges) <= 64
    left, right, counts = edges.T
    assert np.isfinite(edges).all()
    assert (left <= right).all() and (left[1:] == right[:-1]).all() and (counts >= 0).all()


def graph(board: Board, **query: str) -> graph_pb2.GraphDef:
    media_type, body = board.fetch("plugin/graphs/graph", **{"run": "train", **query})
    assert media_type == "text/x-protobuf"
    return text_format.Parse(body, graph_pb2.GraphDef())


def pictures(board: Board, run: str, tag: str, sample: int) -> list[tuple[int, PIL.Image.Image]]:
    found = []
    for entry in board.plugin("images", "images", run=run, tag=tag, sample=sample):
        media_type, body = board.fetch(f"plugin/images/individualImage?{entry['query']}")
        assert media_type == "image/png"
        picture = PIL.Image.open(io.BytesIO(body))
        picture.load()
        found.append((entry["step"], picture))
    return found


def test_the_runs_are_train_and_validation(digits_board):
    assert sorted(digits_board.get("runs")) == ["train", "validation"]


def test_every_page_that_has_data_is_on(digits_board):
    listing = digits_board.get("plugins_listing")
    for page in ("timeseries", "scalars", "images", "graphs", "distributions", "histograms", "text"):
        assert listing[page]["enabled"], page
    for page in ("audio", "hparams", "mesh", "pr_curves"):
        assert not listing[page]["enabled"], page


def test_scalars_are_what_was_logged(digits_board, digits):
    tags = digits_board.plugin("scalars", "tags")
    over_steps = {("validation", f"evaluation_{name}_vs_iterations") for name in ("accuracy", "loss")}
    measured = {("train", f"update_ratio/{name.replace('.', '/')}") for name in digits.parameters}
    measured |= {("train", "gradient_norm")}
    dead = {(run, tag) for run in tags for tag in tags[run] if tag.startswith("units_dead/")}
    assert dead == {("train", f"units_dead/blocks/{block}/relu{call}") for block in (0, 1) for call in ("", ".2")}
    logged_tags = {(run, tag) for run in tags for tag in tags[run]}
    assert logged_tags == {*digits.scalars, *over_steps, *measured, *dead}
    for run, tag in measured:
        assert all(value > 0 for _, value in digits_board.points(run, tag)), tag
    for (run, tag), logged in digits.scalars.items():
        points = digits_board.points(run, tag)
        assert [step for step, _ in points] == STEPS
        assert [value for _, value in points] == pytest.approx(logged, rel=1e-6, abs=1e-30)
        wall_times = [wall for wall, _, _ in digits_board.series("scalars", run, tag)]
        assert wall_times == sorted(wall_times)
    for run, tag in over_steps:
        steps, values = zip(*digits_board.points(run, tag))
        assert steps == tuple((epoch + 1) * 47 for epoch in STEPS)
        assert values == pytest.approx(digits.scalars[run, f"epoch_{tag.split('_')[1]}"])
    rates = [np.float32(0.025 * (1 + math.cos(math.pi * epoch / EPOCHS))) for epoch in STEPS]
    assert [value for _, value in digits_board.points("train", "epoch_learning_rate")] == rates


def test_validation_accuracy_counts_whole_pictures(digits_board):
    for _, accuracy in digits_board.points("validation", "epoch_accuracy"):
        assert accuracy * 297 == pytest.approx(round(accuracy * 297), abs=1e-4)


def test_time_series_lists_and_draws_all_kinds(digits_board, digits):
    tags = digits_board.plugin("timeseries", "tags")
    assert tags["scalars"]["runTagInfo"]["validation"] == [
        *("epoch_accuracy", "epoch_loss", "evaluation_accuracy_vs_iterations", "evaluation_loss_vs_iterations")
    ]
    assert set(parameter_tags(digits, "gradients")) <= set(tags["histograms"]["runTagInfo"]["train"])
    maps = tags["images"]["tagRunSampledInfo"]["feature_maps/stem"]
    assert maps == {"train": {"maxSamplesPerStep": 1}}
    requests = [
        {"plugin": "scalars", "tag": "epoch_loss"},
        {"plugin": "histograms", "tag": "gradients/stem/weight", "run": "train"},
        {"plugin": "images", "tag": "feature_maps/stem", "run": "train", "sample": 0},
    ]
    scalars, histograms, images = digits_board.plugin("timeseries", "timeSeries", requests=json.dumps(requests))
    assert set(scalars["runToSeries"]) == {"train", "validation"}
    for answer in (scalars, histograms, images):
        for run, series in answer["runToSeries"].items():
            assert [point["step"] for point in series] == STEPS, (answer["plugin"], run)
    bins = histograms["runToSeries"]["train"][0]["bins"]
    assert bins and all(bin["min"] <= bin["max"] for bin in bins)
    media_type, _ = digits_board.fetch(
        "plugin/timeseries/imageData", imageId=images["runToSeries"]["train"][0]["imageId"]
    )
    assert media_type == "image/png"


def test_every_parameter_gradient_update_and_activation_has_a_histogram_an_epoch(digits_board, digits):
    expected = {tag for kind in ("parameters", "gradients", "updates") for tag in parameter_tags(digits, kind)}
    expected |= {f"activations/{layer}" for layer in digits.layers}
    tags = digits_board.plugin("histograms", "tags")
    assert set(tags["train"]) == expected | {f"activation_gradients/{layer}" for layer in digits.layers}
    assert set(tags["validation"]) == {f"activations/{layer}" for layer in digits.layers}
    for run in tags:
        for tag in tags[run]:
            series = digits_board.series("histograms", run, tag)
            assert [step for _, step, _ in series] == STEPS, (run, tag)
            for _, _, buckets in series:
                check_buckets(buckets)


def test_parameter_histograms_hold_every_element_between_the_true_ends(digits_board, digits):
    for tag, name in parameter_tags(digits, "parameters").items():
        for (_, _, buckets), parameter in zip(digits_board.series("histograms", "train", tag), digits.parameters[name]):
            assert sum(count for _, _, count in buckets) == pytest.approx(parameter.size, rel=1e-12)
            assert (buckets[0][0], buckets[-1][1]) == (parameter.min(), parameter.max())


def test_update_histograms_hold_every_element_of_the_captured_steps(digits_board, digits):
    for tag, name in parameter_tags(digits, "updates").items():
        for _, _, buckets in digits_board.series("histograms", "train", tag):
            captured = sum(count for _, _, count in buckets) / digits.parameters[name][0].size
            assert captured == pytest.approx(5, abs=1.01) and captured == pytest.approx(round(captured), rel=1e-9)


def test_validation_activations_hold_one_pass_over_all_pictures(digits_board):
    for _, _, buckets in digits_board.series("histograms", "validation", "activations/head"):
        assert sum(count for _, _, count in buckets) == pytest.approx(297 * 10, rel=1e-12)


def test_distributions_follow_the_histograms(digits_board, digits):
    tags = digits_board.plugin("distributions", "tags")
    assert tags == digits_board.plugin("histograms", "tags")
    for tag, name in parameter_tags(digits, "parameters").items():
        series = digits_board.series("distributions", "train", tag)
        assert [step for _, step, _ in series] == STEPS
        for (_, _, quantiles), parameter in zip(series, digits.parameters[name]):
            points, values = np.array(quantiles).T
            assert points.tolist() == [0, 668, 1587, 3085, 5000, 6915, 8413, 9332, 10000]
            assert (np.diff(values) >= 0).all()
            assert [values[0], values[-1]] == pytest.approx([parameter.min(), parameter.max()], rel=1e-12)
            span = parameter.max() - parameter.min()
            true = np.quantile(parameter, points / 10_000)
            assert np.abs(values - true).max() <= 0.05 * span + 1e-12 or parameter.size < 100


def test_every_convolution_has_a_picture_of_its_maps_an_epoch(digits_board, digits):
    tags = digits_board.plugin("images", "tags")
    maps = {tag for tag in tags["train"] if not tag.startswith("units_dead_map/")}
    assert maps == {f"feature_maps/{name}" for name in digits.convolutions}
    for name, convolution in digits.convolutions.items():
        info = tags["train"][f"feature_maps/{name}"]
        assert info["samples"] == 1 and f"{convolution.out_channels} channels, 8 x 8" in info["description"]
        shown = pictures(digits_board, "train", f"feature_maps/{name}", 0)
        assert [step for step, _ in shown] == STEPS
        for _, picture in shown:
            assert picture.width >= 350, "what TensorBoard makes of a picture when it is not clicked"
            assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 10
        assert len({picture.tobytes() for _, picture in shown}) == EPOCHS


def test_the_confusion_matrix_and_the_mistakes_are_in_the_validation_run(digits_board, digits):
    tags = digits_board.plugin("images", "tags")["validation"]
    assert set(tags) == {"confusion_matrix", "mistakes"}
    matrices = pictures(digits_board, "validation", "confusion_matrix", 0)
    assert [(step, picture.size) for step, picture in matrices] == [(step, (500, 500)) for step in STEPS]
    assert tags["mistakes"]["samples"] == max(digits.mistakes)
    for sample in range(max(digits.mistakes)):
        shown = pictures(digits_board, "validation", "mistakes", sample)
        assert [step for step, _ in shown] == [step for step, count in enumerate(digits.mistakes) if count > sample]
        assert {picture.size for _, picture in shown} == {(8, 8)}


def test_texts_tell_the_facts_and_the_model(digits_board, digits):
    assert sorted(digits_board.plugin("text", "tags")["train"]) == ["run/facts", "run/layers", "run/model"]
    ((facts,), (model,)) = (
        digits_board.plugin("text", "text", run="train", tag=tag) for tag in ("run/facts", "run/model")
    )
    total = sum(values[0].size for values in digits.parameters.values())
    for words in ("<table>", "DigitNet", f"{total:,}", "histogram_freq", "cpu", "torch"):
        assert words in facts["text"], words
    for words in (
        "<pre><code>",
        "DigitNet(",
        "(conv1): Conv2d(16, 16",
        "(head): Linear(in_features=256, out_features=10",
    ):
        assert words in model["text"], words


def test_graphs_are_the_operations_with_their_costs_and_the_layers_of_both_phases(digits_board):
    info = digits_board.plugin("graphs", "info")
    assert set(info) == {"train", "validation"}
    for run in info.values():
        assert run["run_graph"] and set(run["tags"]) == {"model", "step1"}
        assert run["tags"]["model"]["conceptual_graph"] and run["tags"]["step1"]["profile"]


def test_the_graph_of_the_validation_run_has_no_dropout(digits_board):
    ops = {run: {node.op for node in graph(digits_board, run=run).node} for run in ("train", "validation")}
    assert ops["train"] - ops["validation"] == {"dropout"}
    assert ops["validation"] <= ops["train"]


def test_the_profile_colours_the_operations_of_the_graph(digits_board, digits):
    media_type, body = digits_board.fetch("plugin/graphs/run_metadata", run="train", tag="step1")
    assert media_type.startswith("text/")
    (device,) = text_format.Parse(body, config_pb2.RunMetadata()).step_stats.dev_stats
    stats = {entry.node_name: entry for entry in device.node_stats}
    assert device.device == "/device:CPU:0"
    assert set(stats) == {node.name for node in graph(digits_board).node if node.op[0].islower()}
    assert all(entry.all_start_micros > 0 and entry.all_end_rel_micros > 0 for entry in stats.values())
    for name in digits.convolutions:
        assert [memory.total_bytes for memory in stats[f"DigitNet/{name}/conv2d"].memory] == [4 * 32 * 16 * 8 * 8]


def test_the_layers_are_a_table_of_what_they_cost(digits_board, digits):
    (table,) = digits_board.plugin("text", "text", run="train", tag="run/layers")
    assert table["text"].count("<tr>") > len(digits.convolutions)
    parameters = sum(parameter.numel() for parameter in digits.model.parameters())
    assert f"{parameters:,}" in table["text"] and "<code>head</code>" in table["text"]


def test_the_graph_of_operations_is_whole(digits_board, digits):
    nodes = {node.name: node for node in graph(digits_board).node}
    for name in digits.convolutions:
        operations = [
            node for node in nodes.values() if node.name.startswith(f"DigitNet/{name}/") and node.op == "conv2d"
        ]
        assert len(operations) == 1, name
        assert [dim.size for dim in operations[0].attr["_output_shapes"].list.shape[0].dim] == [32, 16, 8, 8]
    referred = {source.removeprefix("^").split(":")[0] for node in nodes.values() for source in node.input}
    assert referred <= set(nodes)
    boxes = {name.rsplit("/", depth)[0] for name in nodes for depth in range(1, name.count("/") + 1)}
    assert not boxes & set(nodes)
    assert all("_output_shapes" in nodes[source].attr for source in referred)


def test_the_graph_holds_what_the_model_did_and_nothing_that_the_monitor_did(digits_board):
    called = {"conv2d", "batch_norm", "relu", "add", "max_pool2d", "flatten", "dropout", "linear"}
    assert {node.op for node in graph(digits_board).node} == called | {"Placeholder", "Parameter", "Buffer", "Output"}


def test_an_operation_tells_the_arguments_that_it_was_called_with(digits_board):
    attributes = {
        node.name: {key: value.s.decode() for key, value in node.attr.items()} for node in graph(digits_board).node
    }
    convolution = attributes["DigitNet/stem/conv2d"]
    assert (convolution["padding"], convolution["stride"], convolution["dtype"]) == ("[1, 1]", "[1, 1]", "float32")
    assert attributes["DigitNet/dropout"].get("p", "0.1") == "0.1"


def test_data_flows_from_the_picture_through_every_layer_to_the_scores(digits_board, digits):
    nodes = {node.name: node for node in graph(digits_board).node}
    (output,) = (node for node in nodes.values() if node.op == "Output")
    reached, waiting = set(), [output.name]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [source.removeprefix("^").split(":")[0] for source in nodes[name].input]
    assert {node.name for node in nodes.values() if node.op == "Placeholder"} <= reached
    for layer in digits.layers[1:]:
        assert any(f"{name}/".startswith(f"DigitNet/{layer}/") for name in reached), layer


def test_the_graph_of_layers_nests_and_connects_them(digits_board, digits):
    nodes = {node.name: node for node in graph(digits_board, tag="model", conceptual="true").node}
    classes = {name: node.attr["keras_class"].s.decode() for name, node in nodes.items()}
    for name in digits.convolutions:
        assert any(path.startswith(f"DigitNet/{name}") and "Conv2d" in kind for path, kind in classes.items()), (
            name,
            classes,
        )
    referred = {source for node in nodes.values() for source in node.input}
    assert referred and referred <= set(nodes)
    (head,) = (node for name, node in nodes.items() if name.startswith("DigitNet/head"))
    assert head.input
