"""One training run with one choice of hyperparameters: when it began, with what, and how it ended."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from torchboard.errors import ClosedError, InvalidValueError, RunError
from torchboard.hparams.domains import Discrete, HParam, Metric
from torchboard.hparams.experiment import experiment_of
from torchboard.hparams.flat import flattened
from torchboard.hparams.sessions import Session, start_session
from torchboard.reader import read
from torchboard.resume import reopen_trial
from torchboard.run import Run, open_run
from torchboard.values import Value
from torchboard.values.hparams import (
    EXPERIMENT_TAG,
    SESSION_END_TAG,
    SESSION_START_TAG,
    Plain,
    SessionEnd,
    SessionStart,
    plain,
)

Choice = Mapping[HParam, Any] | Mapping[str, Any] | Mapping[HParam | str, Any] | Any
"""Hyperparameters and their values: a mapping or a dataclass, as ``flattened`` takes them."""


class Trial:
    """One trial: says what it was given when it begins, and how it ended when it ends.

    Metrics are the scalars that anything writes into the same directory or below: a ``SummaryWriter(log_dir)``, or a
    ``Monitor(model, log_dir)``, whose metrics are in the groups ``train`` and ``validation``. TensorBoard has to be pointed
    at a directory above the trial's: for a trial in the very directory it is pointed at, it shows metrics only where
    ``hparams_config`` declares them with no group.

    Args:
        log_dir: the trial's directory. TensorBoard keeps to the first hyperparameters written there.
        hparams: ``HParam`` or name -> boolean, number or text; NumPy scalars and 0-d tensors are unwrapped, paths, members
            of enums and None are texts. Dicts and dataclasses, also inside each other: their parts are ``outer.inner``.
        trial_id: trials with one id are one row, with their metrics averaged: give repetitions the same. By default a hash
            of the hyperparameters.

    Attributes:
        hparams: name -> plain value, flat.
        trial_id: the id in use.

    Raises:
        InvalidValueError: a value is of another type or outside its domain, a name comes twice, or the id is not a text.

    Until it ends TensorBoard shows its status as unknown. A signal that ends the process, such as SIGTERM, is a failure.

    Example:
        >>> with Trial("runs/search/0", {"lr": 0.1, "depth": 4}):
        ...     train()
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        hparams: Choice,
        trial_id: str | None = None,
    ) -> None:
        self.hparams = plain_hparams(hparams)
        self.trial_id = trial_id_of(trial_id, self.hparams)
        self._log_dir = log_dir
        self._run: Run | None = None
        self._session: Session | None = None
        self._used = False

    def __enter__(self) -> Trial:
        """Begins the trial; that is on disk when this returns.

        A trial that the directory holds already begins again, if it is the same one, and how it ended before is
        forgotten. Its points stay: ``SummaryWriter(log_dir, purge_step=0)`` hides them.

        Raises:
            ClosedError: it has begun before.
            InvalidValueError: the directory holds a trial with other hyperparameters or another id.
            RunError: the directory cannot be used.
            RunInUseError: another process is writing in it.
        """
        if self._used:
            raise ClosedError("a trial that begins again", "its directory holds one trial", "make a new Trial")
        _check_same(self._log_dir, self.hparams, self.trial_id)
        reopen_trial(self._log_dir)
        self._run = open_run(self._log_dir)
        self._used = True
        self._session = start_session(self._run, self.hparams, self.trial_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends it: as a success, or as a failure where an exception leaves the block, which then is the text
        ``trial/failure``. It is on disk when this returns."""
        run, self._run = self._run, None
        if run is None or self._session is None:
            return
        try:
            self._session.end(error)
            run.flush()
        finally:
            run.close()


def trial_of(hparams: Choice | None, trial_id: str | None) -> tuple[dict[str, Plain], str] | None:
    """A trial's hyperparameters and its id, as ``start_session`` takes them; None where there are none.

    Raises:
        InvalidValueError: there is an id only, or a value is of another type or outside its domain.
    """
    if hparams is None:
        if trial_id is not None:
            raise InvalidValueError(f"trial_id={trial_id!r}", "there are no hyperparameters", "give hparams too")
        return None
    plain = plain_hparams(hparams)
    return plain, trial_id_of(trial_id, plain)


def _check_same(log_dir: str | os.PathLike[str], hparams: Mapping[str, Plain], trial_id: str) -> None:
    """Refuses a directory with another trial: TensorBoard would show the one with what the other measured."""
    try:
        (known,) = read(log_dir).values(SESSION_START_TAG, ".").values[:1]
    except (InvalidValueError, RunError):
        return
    if (dict(known.hparams), known.group) != (dict(hparams), trial_id):
        differ = sorted(name for name in {*known.hparams, *hparams} if known.hparams.get(name) != hparams.get(name))
        raise InvalidValueError(
            f"a trial in {os.fspath(log_dir)!r}",
            f"there is one with another {', '.join(map(repr, differ[:5])) or 'id'}, and TensorBoard would keep to that",
            "give each trial a directory of its own, or remove the old one",
        )


def finished_trial(
    hparams: Mapping[str, Plain], tags: Iterable[str], domains: Mapping[str, Iterable[Plain]] | None
) -> tuple[tuple[str, Value], ...]:
    """Tags and values of a trial that is over as it begins, a row of its own in the table.

    Only where ``domains`` are given does it declare an experiment, of these hyperparameters and metrics: it would hide those
    of all other trials.

    Raises:
        InvalidValueError: a value is of another type or outside its domain, or a domain is of no hyperparameter.
    """
    listed = {name: Discrete(values) for name, values in (domains or {}).items()}
    for name in sorted(set(listed) - set(hparams)):
        raise InvalidValueError(
            f"a domain of {name!r}", "it is not one of the hyperparameters", f"give {name!r} a value, or leave it out"
        )
    declared = {HParam(name, listed.get(name)): value for name, value in hparams.items()}
    now = time.time()
    pairs = [
        (SESSION_START_TAG, SessionStart(plain_hparams(declared), "", now)),
        (SESSION_END_TAG, SessionEnd(True, now)),
    ]
    if listed:
        pairs.insert(0, (EXPERIMENT_TAG, experiment_of(declared, map(Metric, tags))))
    return tuple(pairs)


def plain_hparams(hparams: Choice) -> dict[str, Plain]:
    """Name -> plain value, checked against the domains of those given by an ``HParam``; nested ones as ``outer.inner``.

    Raises:
        InvalidValueError: a value is of another type or outside its domain, or a name comes twice.
    """
    found: dict[str, Plain] = {}
    for name, domain, given in flattened(hparams):
        value = plain(name, given)
        if name in found:
            raise InvalidValueError(f"hyperparameter {name!r}", "it is given twice", "give it once, by HParam or name")
        if domain is not None and value not in domain:
            raise InvalidValueError(
                f"hyperparameter {name!r} = {value!r}", f"it is outside {domain!r}", "choose a value inside"
            )
        found[name] = value
    return found


def trial_id_of(trial_id: str | None, hparams: Mapping[str, Plain]) -> str:
    """The id given, or else the SHA-256 of the hyperparameters as sorted, compact JSON, as TensorBoard's own API makes it."""
    if trial_id is None:
        text = json.dumps(dict(hparams), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
    if not isinstance(trial_id, str) or not trial_id:
        raise InvalidValueError(f"trial_id={trial_id!r}", "an id is a text with at least one letter", "give a str")
    return plain("trial_id", trial_id)  # type: ignore[return-value]
