"""Logs drawn in the terminal."""

from __future__ import annotations

import re

import numpy as np
import PIL.Image
import pytest
from handmade import event, scalar, write

from torchboard.cli import main
from torchboard.cli.chart import Style, bars, draw, smoothed
from torchboard.values import Audio, Histogram, Image

PLAIN = Style(24, 3, unicode=False)


def test_curves_of_all_runs_lie_over_each_other_and_other_kinds_follow(log, capsys):
    assert main(["show", str(log), "--width", "60"]) == 0
    out = capsys.readouterr().out
    assert "loss  (scalars)\n  * train: 4 points, steps 0 to 3, last 3 at step 3\n  o validation: 4 points" in out
    assert "one *line*\nanother \N{REPLACEMENT CHARACTER}[31m\n" in out
    assert "train: 2 points, steps 0 to 1, last -inf at step 1, 2 not finite\n            no finite value\n" in out
    assert re.search(r"  train: 1 histogram, steps 1 to 1\n  step 1 │▂+█+│ 10\n +0 +2\n", out)
    assert "train: 1 point, the last at step 1; --save DIR writes them" in out
    assert max(len(line) for line in out.splitlines() if set("┤│") & set(line)) == 60 and "\x1b" not in out


def test_globs_choose_runs_and_tags(log, capsys):
    assert main(["show", str(log), "--tag", "lo*", "--run", "val*"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("loss  (scalars)\n  validation: 4 points") and re.search(
        "6 ┤[\u2800-\u28ff]+[\u2801-\u28ff]\n", out
    )
    assert "train" not in out


def test_a_chart_is_as_wide_as_the_terminal(log, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    main(["show", str(log), "--tag", "loss", "--run", "train"])
    assert max(map(len, capsys.readouterr().out.splitlines())) == 50


def test_a_terminal_gets_colours_unless_it_wants_none(log, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["show", str(log), "--tag", "loss"])
    out = capsys.readouterr().out
    assert "\x1b[36mtrain\x1b[0m: 4 points" in out and re.search("\x1b\\[33m[\u2800-\u28ff]+", out)
    monkeypatch.setenv("NO_COLOR", "1")
    main(["show", str(log), "--tag", "loss"])
    assert "\x1b" not in capsys.readouterr().out


def test_ascii_only_is_that(log, capsys):
    main(["show", str(log), "--ascii", "--tag", "[lw]*"])
    assert capsys.readouterr().out.isascii()


def test_pictures_and_sounds_are_saved_under_run_and_tag(tmp_path, capsys):
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    one = Image(pixels[:1])
    sound = Audio((np.zeros((1, 8), np.int16),), 8000)
    messages = [event(5, "a/../p", Image(pixels)), event(6, "a/../p", one), event(1, "sound", sound)]
    write(tmp_path / "log" / "run", messages)
    assert main(["show", str(tmp_path / "log"), "--save", str(tmp_path / "out")]) == 0
    saved = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    place = "run/a/%2E%2E/p"
    assert saved == {f"{place}/step-5-0.png", f"{place}/step-5-1.png", f"{place}/step-6.png", "run/sound/step-1.wav"}
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "out" / place / "step-5-1.png")), pixels[1])
    assert "3 pictures written to " in capsys.readouterr().out


def test_a_chart_goes_from_corner_to_corner():
    assert draw([(np.arange(9), np.arange(9.0))], PLAIN) == [
        "          8 |       ****",
        "            |    ***    ",
        "          0 |****       ",
        "             0         8",
    ]


def test_a_line_is_broken_where_a_value_is_not_finite():
    values = np.array([0.0, 0.0, 0.0, 0.0, np.nan, np.inf, np.nan, np.nan, np.nan, 0.0, 0.0])
    assert draw([(np.arange(11), values)], PLAIN)[1] == "            |****     **"
    long = np.where(np.arange(50_000) // 10_000 == 2, np.nan, 1.0)
    assert re.fullmatch(r" +\|\*{4,5} +\*{4,6}", draw([(np.arange(50_000), long)], PLAIN)[1])


def test_two_curves_have_one_scale_and_a_mark_each():
    assert draw([(np.arange(3), np.zeros(3)), (np.arange(2, 5), np.full(3, 9.0))], PLAIN) == [
        "          9 |     oooooo",
        "            |           ",
        "          0 |******     ",
        "             0         4",
    ]


def test_a_logarithmic_axis_leaves_out_what_is_not_positive():
    lines = draw([(np.arange(5), np.array([1.0, 10.0, 100.0, 0.0, -1.0]))], Style(24, 3, unicode=False, log=True))
    assert [line[:12].split() for line in lines] == [["100"], [], ["1"], []]
    assert [row.count("*") > 0 for row in lines[:3]] == [True, True, True]
    assert draw([(np.arange(2), np.array([0.0, -1.0]))], Style(24, log=True)) == ["            no positive value"]


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [-1.7e308, 1.7e308], [np.nan, 1.0], list(range(100_000))])
def test_a_chart_draws_any_values(values):
    lines = draw([(np.arange(len(values)), np.array(values, np.float64))], Style(60))
    assert {len(line) for line in lines} == {60}
    assert any("\u2801" <= letter <= "\u28ff" for line in lines for letter in line)


def test_smoothing_is_that_of_tensorboard():
    values = np.array([1.0, 0.0, np.nan, 2.0])
    first = 1.0
    second = (0.5 * 0.5) / 0.75
    fourth = (0.25 * 0.5 + 0.5 * 2.0) / 0.875
    assert np.allclose(smoothed(values, 0.5), [first, second, np.nan, fourth], equal_nan=True)


def test_bars_keep_the_mass_where_it_is():
    (row,), low, high = bars([np.array([[0.0, 2.0, 8.0], [2.0, 4.0, 0.0], [4.0, 4.0, 4.0]])], 4)
    assert (row, low, high) == ("██ █", 0.0, 4.0)
    assert bars([np.zeros((0, 3))], 3) == (["   "], 0.0, 0.0)
    assert bars([np.array([[5.0, 5.0, 3.0]])], 3, unicode=False)[0] == [" @ "]


def test_at_most_eight_histograms_are_drawn_the_first_and_the_last_among_them(tmp_path, capsys):
    write(tmp_path, [event(step, "h", Histogram(np.array([[0.0, 1.0, 2.0]]))) for step in range(100)])
    main(["show", str(tmp_path)])
    steps = re.findall(r"step +(\d+) │", capsys.readouterr().out)
    assert len(steps) == 8 and (steps[0], steps[-1]) == ("0", "99")


def test_more_runs_than_marks_are_named(tmp_path, capsys):
    for run in range(10):
        write(tmp_path / f"run{run}", [scalar(0)])
    main(["show", str(tmp_path)])
    assert "and 2 runs more, which are not drawn: choose with --run" in capsys.readouterr().out
