"""Scalars as tables."""

from __future__ import annotations

import csv
import io
import json
import sys

import numpy as np
import pytest
from handmade import scalar, write

from torchboard.cli import export, main


def test_csv_goes_to_a_file_and_to_stdout(log, capsys):
    assert main(["export", str(log), "--out", str(log / "all.csv")]) == 0
    text = (log / "all.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 10
    assert rows[1] == {"run": "train", "tag": "loss", "step": "1", "wall_time": "1001.0", "value": "1.0"}
    assert [row["value"] for row in rows if row["tag"] == "odd"] == ["nan", "-inf"]
    capsys.readouterr()
    assert main(["export", str(log)]) == 0
    assert capsys.readouterr().out == text


def test_json_is_what_any_parser_reads(log, capsys):
    assert main(["export", str(log), "--out", str(log / "all.json")]) == 0
    rows = json.loads((log / "all.json").read_text(), parse_constant=pytest.fail)
    assert rows[1] == {"run": "train", "tag": "loss", "step": 1, "wall_time": 1001.0, "value": 1.0}
    assert [row["value"] for row in rows if row["tag"] == "odd"] == ["NaN", "-Infinity"]
    capsys.readouterr()
    assert main(["export", str(log), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_parquet_is_one_table_in_groups(log, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "_GROUP", 4)
    assert main(["export", str(log), "--out", str(log / "all"), "--format", "parquet"]) == 0
    file = parquet.ParquetFile(log / "all")
    assert [str(kind) for kind in file.schema_arrow.types] == ["string", "string", "int64", "double", "double"]
    assert file.num_row_groups == 2
    table = file.read().to_pydict()
    file.close()
    assert list(table) == ["run", "tag", "step", "wall_time", "value"]
    assert table["run"] == ["train"] * 6 + ["validation"] * 4
    assert table["step"] == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3] and table["wall_time"][1] == 1001.0
    assert np.array_equal(table["value"], [0, 1, 2, 3, np.nan, -np.inf, 0, 2, 4, 6], equal_nan=True)


def test_without_pyarrow_parquet_says_how_to_get_it(log, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", str(log), "--out", str(log / "all.parquet")]) == 2
    assert "pyarrow is not installed; run 'pip install pyarrow', or export .csv." in capsys.readouterr().err


def test_long_curves_go_out_in_pieces(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "_PIECE", 7)
    write(tmp_path, [scalar(step, value=step) for step in range(20)])
    assert main(["export", str(tmp_path)]) == 0
    assert [row.split(",")[2] for row in capsys.readouterr().out.splitlines()[1:]] == [str(step) for step in range(20)]


def test_globs_choose_runs_and_tags(log, capsys):
    assert main(["export", str(log), "--run", "tr*", "--tag", "o?d"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_cannot_be_read_is_said_and_a_failed_export_leaves_nothing(log, capsys, monkeypatch):
    path = log / "validation" / "events.out.tfevents.1"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["export", str(log), "--out", str(log / "all.csv")]) == 0
    assert "the file ends within it" in capsys.readouterr().err
    (log / "all.csv").unlink()
    monkeypatch.setattr(export, "_rows", lambda piece: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main(["export", str(log), "--out", str(log / "all.csv")]) == 2
    assert "No space left" in capsys.readouterr().err and not list(log.glob("all*"))
