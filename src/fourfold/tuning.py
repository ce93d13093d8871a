"""Choosing a method's values before it is judged, by a protocol that says what was looked at.

first_k_tasks: the first contexts of the stream, judged on held-out training samples; validation_stream: the whole
stream, judged on held-out training samples; oracle: the whole stream, judged on its test samples. The space searched
is ``method.search``: each key a value of the method, or a dotted key of the cell, with the values to try.
"""

import copy
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fourfold.benchmarks.libraries import library
from fourfold.errors import Failed, Refused, nearest
from fourfold.members import target
from fourfold.record import replacing

SEARCH = "method.search"
NOT_SEARCHED = ("name", "_target_", "search", "limits", "check", "needs", "uses", "offers", "oracle", "rule")
# (cell with the values of a trial, contexts of the stream or None for all) -> its figure; None if it broke
Score = Callable[[Mapping[str, Any], int | None], float | None]


def check(cell: Mapping[str, Any]) -> None:
    """Raises Refused if there is nothing to search, a key that the cell does not have, too many contexts, or no such
    figure to choose by."""
    tune, method = cell["tune"], cell["method"]
    if tune["protocol"] == "off":
        return
    if tune["figure"] is not None:
        direction_of(tune["figure"])
    if not method["search"]:
        raise Refused(
            f"tune={tune['protocol']}: method {method['name']} has no search space (method.search); "
            "+method.search.KEY=[VALUE,...] makes one, of values of the method or dotted keys of the cell"
        )
    if not isinstance(method["search"], Mapping):
        raise Refused(f"method.search={method['search']}: must be keys with the values to try, {{KEY:[VALUE,...]}}")
    for key, values in method["search"].items():
        if not isinstance(values, list) or not values:
            raise Refused(f"method.search.{key}={values}: must be a list of the values to try, one or more")
        node, name = _place(cell, key)
        known = [one for one in method if one not in NOT_SEARCHED]
        if not isinstance(node, Mapping) or name not in node or (node is method and name not in known):
            raise Refused(f"method.search.{key}: {method['name']} has no such value{nearest(key, known)}")
        if isinstance(node[name], Mapping):
            raise Refused(
                f"method.search.{key}: holds several values; name one of them, {key}.{next(iter(node[name]), 'KEY')}"
            )
    if tune["protocol"] != "oracle" and (cell["benchmark"]["data"] or {}).get("modes"):
        name = cell["benchmark"]["name"]
        raise Refused(
            f"tune={tune['protocol']}: benchmark {name} draws its stream from all samples and holds none out; "
            "choose tune=oracle"
        )
    most = cell["setting"].get("contexts", 1)
    if tune["contexts"] is not None and tune["contexts"] > most:
        raise Refused(f"tune.contexts={tune['contexts']}: setting {cell['setting']['name']} has {most}")


def idle_search(planned: Iterable[tuple[Iterable[str], Mapping[str, Any]]]) -> str | None:
    """One line where the overrides give a search space to cells none of which is tuned, else None.

    planned: (overrides, composed configuration) of each cell.
    """
    given = [cell for overrides, cell in planned if any(word.lstrip("+").startswith(SEARCH) for word in overrides)]
    if not given or any(cell["tune"]["protocol"] != "off" for cell in given):
        return None
    return f"{SEARCH} is not searched with tune=off; tune=first_k_tasks, validation_stream or oracle searches it"


def space(cell: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values that a cell's tuning tries, by key; none where nothing is tuned."""
    return {} if cell["tune"]["protocol"] == "off" else dict(cell["method"]["search"])


def direction_of(figure: str) -> int:
    """1 where more of a figure is better, -1 where less is. Raises Refused for what is no figure to choose by."""
    from fourfold.metrics.directions import directions

    known = directions()
    if figure not in known:
        raise Refused(
            f"tune.figure={figure}: no figure to choose values by{nearest(figure, known)}; null takes the benchmark's "
            "own, others are average_accuracy, forgetting_max, online_accuracy, average_perplexity (docs/metrics.md)"
        )
    return known[figure]


def figure_of(cell: Mapping[str, Any]) -> str:
    """The figure that a cell's values are chosen by: the one asked for, else the benchmark's own at the end of the
    stream; over the predictions before each label where a setting judges by these alone."""
    asked = cell["tune"]["figure"]
    if asked is not None:
        return str(asked)
    benchmark = target(cell["benchmark"])
    if "matrix" in cell["setting"]["protocol"]:
        return f"average_{getattr(benchmark, 'metric_name', 'accuracy')}"
    return f"cumulative_{getattr(benchmark, 'score_name', 'accuracy').replace(' ', '_')}"


def require(cell: Mapping[str, Any]) -> None:
    """Raises Unavailable if the library of a cell's sampler is not here."""
    if cell["tune"]["protocol"] != "off" and cell["tune"]["sampler"] == "tpe":
        library("optuna", "tuning")


def chosen(cell: Mapping[str, Any], score: Score, kept: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cell with the best values of its search space, and how they were found (as recorded).

    ``kept``: where finished trials are written, so that a cell that was interrupted goes on with the next one. Of
    equally good values the first in the space's order win. Raises Failed if every trial broke.
    """
    figure = figure_of(cell)
    tune = {**cell["tune"], "figure": figure}
    sign = direction_of(figure)
    done = Finished(kept)

    def tried(values: Mapping[str, Any]) -> float | None:
        if values not in done:
            made = with_values(cell, {**values, "tune.figure": figure})
            made["evaluate_on"] = "test" if tune["protocol"] == "oracle" else "validation"
            done.add(values, score(made, tune["contexts"]))
        return done.score(values)

    search, most, seed = cell["method"]["search"], tune["trials"], cell["seed"]
    if tune["sampler"] == "tpe":
        trials = by_optuna(search, most, seed, tried, "maximize" if sign > 0 else "minimize")
    else:
        trials = on_a_grid(search, most, seed, tried)
    finite = [trial for trial in trials if trial["score"] is not None and math.isfinite(trial["score"])]
    if not finite:
        raise Failed(
            f"tune={tune['protocol']}: none of the {len(trials)} trials gave a figure {figure}", reason="tuning"
        )
    best = max(finite, key=lambda trial: sign * trial["score"])["values"]
    return with_values(cell, best), {**tune, "trials": trials, "chosen": best}


class Finished:
    """The scores of trials that are done, each written down as it ends; none of an earlier life without a file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        try:
            self.trials: Trials = json.loads(path.read_text()) if path else []
        except (OSError, ValueError):
            self.trials = []

    def __contains__(self, values: Mapping[str, Any]) -> bool:
        return any(trial["values"] == values for trial in self.trials)

    def score(self, values: Mapping[str, Any]) -> float | None:
        return next(trial["score"] for trial in self.trials if trial["values"] == values)

    def add(self, values: Mapping[str, Any], score: float | None) -> None:
        self.trials.append({"values": dict(values), "score": score})
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                file.write(json.dumps(self.trials).encode())


Trials = list[dict[str, Any]]  # {values, score} of each, in order
Tried = Callable[[Mapping[str, Any]], float | None]


def on_a_grid(search: Mapping[str, list[Any]], most: int, seed: int, tried: Tried) -> Trials:
    """Tries all combinations, or a seeded choice of ``most``."""
    return [{"values": values, "score": tried(values)} for values in combinations(search, most, seed)]


def by_optuna(
    search: Mapping[str, list[Any]], most: int, seed: int, tried: Tried, direction: str = "maximize"
) -> Trials:
    """Tries ``most`` combinations, each proposed after the scores before it by tree-structured Parzen estimators
    (Bergstra et al. 2011), Optuna's. A combination that is proposed again is not tried again.

    Values are taken as ordered as they are listed. Raises Unavailable without the package.
    """
    optuna = library("optuna", "tuning")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.TPESampler(seed=seed))
    indices = {key: optuna.distributions.IntDistribution(0, len(values) - 1) for key, values in search.items()}
    known: dict[tuple[int, ...], dict[str, Any]] = {}
    for _ in range(most):
        proposed = study.ask(indices)
        at = tuple(proposed.params[key] for key in search)
        if at not in known:
            values = {key: search[key][index] for key, index in zip(search, at, strict=True)}
            known[at] = {"values": values, "score": tried(values)}
        score = known[at]["score"]
        if score is None or not math.isfinite(score):
            study.tell(proposed, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(proposed, score)
    return list(known.values())


def combinations(search: Mapping[str, list[Any]], most: int, seed: int) -> list[dict[str, Any]]:
    """All combinations of the values, in order; if they are more than ``most``, a seeded choice of so many."""
    every = [dict(zip(search, values, strict=True)) for values in itertools.product(*search.values())]
    if len(every) <= most:
        return every
    kept = sorted(random.Random(f"trials {seed}").sample(range(len(every)), most))
    return [every[index] for index in kept]


def with_values(cell: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the cell with other values."""
    made = copy.deepcopy(dict(cell))
    for key, value in values.items():
        node, name = _place(made, key)
        assert node is not None
        node[name] = value
    return made


def _place(cell: Mapping[str, Any], key: str) -> tuple[Any, str]:
    """(the node that holds a key, its name there): a value of the method, or a dotted key of the cell."""
    *path, name = key.split(".")
    node: Any = cell if path else cell["method"]
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node, name
