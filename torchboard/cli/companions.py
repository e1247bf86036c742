"""What TensorBoard reads of a log beside its event files: embeddings for the projector, and profiles."""

from __future__ import annotations

import os
import shutil

from google.protobuf import text_format

from torchboard import proto
from torchboard.values.projector import CONFIG

_PLUGINS = "plugins"


def copy_companions(log_dir: str, target: str) -> int:
    """Copies them to the same places below another directory, and gives how many files they are.

    Raises:
        OSError: a file cannot be read or written.
    """
    paths: set[str] = set()
    for directory, names, files in os.walk(log_dir, followlinks=False):
        if _PLUGINS in names:
            below = os.walk(os.path.join(directory, _PLUGINS))
            paths |= {os.path.join(place, name) for place, _, found in below for name in found}
            names.remove(_PLUGINS)
        if CONFIG in files:
            paths |= _embeddings(directory)
    for path in sorted(paths):
        copy = os.path.join(target, os.path.relpath(path, log_dir))
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copy2(path, copy)
    return len(paths)


def _embeddings(directory: str) -> set[str]:
    """A list of embeddings and the files beside or below it that it names."""
    path = os.path.join(directory, CONFIG)
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    try:
        entries = text_format.Parse(text, proto.ProjectorConfig(), allow_unknown_field=True).embeddings
    except text_format.ParseError:
        return {path}
    named = {
        os.path.realpath(os.path.join(directory, name))
        for entry in entries
        for name in (entry.tensor_path, entry.metadata_path, entry.bookmarks_path, entry.sprite.image_path)
        if name
    }
    root = os.path.realpath(directory)
    inside = {os.path.join(directory, os.path.relpath(name, root)) for name in named if name.startswith(root + os.sep)}
    return {path, *(name for name in inside if os.path.isfile(name))}
