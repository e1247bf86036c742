"""The order of the house: who may import whom, what may stand where, and what is public."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import torchboard

ROOT = Path(torchboard.__file__).parent

ROOMS = [
    "cli",
    "monitor",
    "analysis",
    "silent",
    "summary",
    "writer",
    "scalars",
    "dashboards",
    "file_writer",
    "arrays",
    "hparams",
    "phases",
    "profile",
    "capture",
    "graph",
    "sketch",
    "resume",
    "reader",
    "notebook",
    "run",
    "live",
    "log_dir",
    "tags",
    "forgotten",
    "sink",
    "drawing",
    "values",
    "eventfile",
    "proto",
    "schedule",
    "errors",
]
"""From what users touch down to what touches nothing: a room imports only rooms that stand behind it in this list."""

NO_TORCH = ["cli", "hparams", *ROOMS[ROOMS.index("resume") :]]

FORBIDDEN = {
    r"\.item\(|\.cpu\(|\.numpy\(|\.tolist\(|synchronize": lambda path: (
        path.parts[0] in ("sketch", "capture") and path != Path("capture/snapshot.py")
    ),
    r"(?<![.\w])open\(": lambda path: (
        path.parts[0] not in ("sink", "eventfile", "reader", "cli") and path != Path("run.py")
    ),
    r"import threading|Thread\(": lambda path: path.parts[0] != "sink" and path != Path("run.py"),
    r"import triton\b": lambda path: path.parts[0] != "sketch" or not path.name.startswith("triton_"),
    r"(?<![.\w])print\(": lambda path: path.parts[0] != "cli",
    r"^\s*global ": lambda path: True,
}
"""Words, and the files in which they must not stand."""

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
COMPATIBLE = {
    Path("writer.py"),
    Path("summary/__init__.py"),
    Path("scalars.py"),
    Path("dashboards.py"),
    Path("monitor.py"),
}
"""Files whose signatures are somebody else's: they may take more parameters."""


def sources() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_file_stands_in_a_known_room():
    assert {room_of(path) for path in sources()} == {*ROOMS, "__init__"}


@pytest.mark.parametrize("path", [path for path in sources() if room_of(path) != "__init__"], ids=str)
def test_a_room_imports_only_rooms_below_it(path):
    allowed = ROOMS[ROOMS.index(room_of(path)) :]
    ours = [name.split(".") for name in imports(path) if name.startswith("torchboard")]
    assert [".".join(name) for name in ours if len(name) < 2 or name[1] not in allowed] == []


@pytest.mark.parametrize("path", [path for path in sources() if room_of(path) in NO_TORCH], ids=str)
def test_no_torch_below_the_line(path):
    assert [name for name in imports(path) if name.split(".")[0] in ("torch", "torchvision")] == []


def test_the_layout_of_sketches_needs_no_torch():
    assert [name for name in imports(Path("sketch/layout.py")) if name.split(".")[0] == "torch"] == []


@pytest.mark.parametrize("words", FORBIDDEN)
def test_forbidden_words_stand_nowhere(words):
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sources()
        if FORBIDDEN[words](path)
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if re.search(words, line.split("#")[0])
    ]
    assert found == []


@pytest.mark.parametrize("path", sources(), ids=str)
def test_files_and_functions_stay_small(path):
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = [
                arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
            ]
            assert (
                path in COMPATIBLE
                or len([name for name in parameters if name not in ("self", "cls")]) <= MAX_PARAMETERS
            ), function.name
            assert function.end_lineno - function.body[0].lineno < MAX_FUNCTION_LINES, function.name


def test_public_names_are_sorted_documented_and_all_there():
    assert torchboard.__all__ == sorted(torchboard.__all__)
    for name in torchboard.__all__:
        assert getattr(torchboard, name).__doc__, name
        assert name in dir(torchboard)


@pytest.mark.parametrize("path", sources(), ids=str)
def test_every_module_and_every_public_definition_says_what_it_is(path):
    tree = ast.parse((ROOT / path).read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        torchboard.nothing  # noqa: B018
