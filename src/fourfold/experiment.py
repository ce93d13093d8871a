"""The life of a cell: acquire the device, make the stream, learn and be judged, leave a record."""

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from fourfold import checkpoint, compatibility, ranks, room, tracing, trials, tuning
from fourfold.benchmarks import interface as benchmarks
from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.models import parameter_count
from fourfold.composition import cell_hash, cell_name
from fourfold.environment import environment
from fourfold.errors import DONE, FAILED, INTERRUPTED, BatchTooLarge, Failed, FourfoldError, Refused
from fourfold.experience import NAN_REMEDY, Experience, Run
from fourfold.hardware.device import Device, acquire
from fourfold.hardware.engine import Engine, rank, ranks_started
from fourfold.keeper import BEFORE_ALL, FileKeeper
from fourfold.measure import memory
from fourfold.measure.flops import StepCount
from fourfold.measure.monitor import Monitor, open_monitor
from fourfold.measure.startup import compile_seconds, process_seconds
from fourfold.measure.until import Until
from fourfold.measure.work import GradientWatch, random_state
from fourfold.methods import interface as methods
from fourfold.methods.buffers import stored_bytes
from fourfold.metrics import figures
from fourfold.metrics.efficiency import executed_per_unit
from fourfold.metrics.verification import fingerprint
from fourfold.pulse import Pulse
from fourfold.randomness import seed_of
from fourfold.rankkeeper import RankKeeper
from fourfold.recipe import Recipe, resolve
from fourfold.record import STEP_FLOPS, Record
from fourfold.rules import interface as rules
from fourfold.rules.watched import Watched
from fourfold.settings import stream as streams
from fourfold.settings.protocols import AFTER_A_PHASE
from fourfold.settings.stream import Stream

log = logging.getLogger(__name__)


def run_cell(cell: Mapping[str, Any], folder: Path, overrides: list[str]) -> Record:
    """Runs one cell and leaves its record in ``folder``. Whatever goes wrong is told by the record's state.

    cell: the plain, resolved, checked configuration. Raises OSError if the record cannot be written.
    """
    record = Record(cell_name(cell), axes_of(cell), dict(cell), overrides, oracle=bool(cell["method"]["oracle"]))
    series: dict[str, np.ndarray] = {}
    try:
        if cell["tune"]["protocol"] != "off":
            cell = tuned(cell, folder, record)
        whole_life(cell, folder, record, series)
        record.state = DONE
    except FourfoldError as error:
        record.state, record.reason, record.message = error.state, error.reason, str(error)
    except (torch.OutOfMemoryError, MemoryError) as error:
        _out_of_memory(record, error, cell)
    except KeyboardInterrupt:
        record.state, record.message = INTERRUPTED, "ended by the user"
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch's words for the host's memory, in a RuntimeError
            _out_of_memory(record, error, cell)
        else:
            _broke(record, "bug", f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
    unkept = (record.measurements.get("checkpoints") or {}).get("none")
    if record.state == INTERRUPTED and unkept:
        record.message = f"{record.message}; there are no checkpoints ({unkept}), so that it starts anew"
    record.ended = time.time()
    record.environment = environment()
    if rank() == 0:
        record.write(folder, series)
        alone = ranks_started() == 1  # what looks like a bug may be another rank's death
        if (
            record.state == DONE or record.reason in ("nan", "tuning") or (record.reason == "bug" and alone)
        ):  # no help in going on
            checkpoint.discard(folder)
    if record.traceback:
        log.info("%s", record.traceback)  # to the cell's own log; the message says enough on a terminal
    return record


def tuned(cell: Mapping[str, Any], folder: Path, record: Record) -> Mapping[str, Any]:
    """The cell with the values that its tuning protocol chooses; the record says how, and holds them from now on.

    Trials that an earlier life of the same cell has finished are not run again, but where several processes learn it.
    """
    begun = time.perf_counter()
    kept = folder / f"{checkpoint.TRIALS}.{cell_hash(cell)}.json" if ranks_started() == 1 else None
    found, record.tuning = tuning.chosen(cell, trial, kept)
    record.config, record.tuning["seconds"] = dict(found), time.perf_counter() - begun
    return found


def trial(cell: Mapping[str, Any], contexts: int | None) -> float | None:
    """The figure that tuning looks at, after learning the first contexts of a cell's stream (None: all)."""
    record = Record("trial", axes_of(cell), dict(cell), [], oracle=bool(cell["method"]["oracle"]))
    try:
        _, benchmark, stream, run, method, rule = assembled(cell, record, contexts)
        method.setup(benchmark, stream.view(run.engine.device), run, rule)
        learn_and_judge(method, stream, run, record)
    except Failed:
        return None  # a loss that is not finite: these values are no good
    record.measurements = {"contexts": stream.describe(), "score": benchmark.score_name}
    return figures(record, run.meter.series()).get(cell["tune"]["figure"])


def whole_life(cell: Mapping[str, Any], folder: Path, record: Record, series: dict[str, np.ndarray]) -> None:
    """The cell, after the trials that find its batch size and before its repeats, if these were asked for."""
    searched = cell["batch"] == "auto"
    if searched:
        default = resolve(cell, acquire(cell["hardware"]).accelerator).batch
        cell = trials.with_best_batch(cell, live, default, record)
    search = record.measurements
    try:
        live(cell, folder, record, series)
    finally:
        record.measurements |= search
        if searched and record.recipe:
            record.recipe["batch_from"] = "auto"
    if cell["repeats"] > 1:
        trials.repeat(cell, live, record, series)


def live(cell: Mapping[str, Any], folder: Path, record: Record, series: dict[str, np.ndarray]) -> None:
    """The cell itself, from device to last evaluation. Fills the record and the series as facts become known."""
    if cell["mode"] == "projected":
        from fourfold.projection.cell import fill

        fill(cell, record)
        return
    begun, process = time.perf_counter(), process_seconds()
    device, benchmark, stream, run, method, rule = assembled(cell, record)
    monitor = watch(cell, device, run.engine, folder)
    if rule is not None and cell["diagnose_every"] is not None:
        rule = Watched(rule, cell["diagnose_every"], run.meter)
    engine, until = run.engine, run.until
    method.setup(benchmark, stream.view(engine.device), run, rule)
    if rule is not None and (told := rule.findings()):
        run.findings["rule"] = told
    if cell["measure"]["flops"] == "on" and tracing.countable(cell, engine):
        run.count = StepCount(lambda flops, at: run.meter.note(STEP_FLOPS, flops, at), lambda: run.meter.steps)
    run.watch.add({"setup": time.perf_counter() - begun})

    unkept = not_kept(cell, run, method)
    if unkept is None:
        keeper = FileKeeper if engine.world == 1 else RankKeeper
        run.keeper = keeper(folder, cell, method, run, record)
        if not run.keeper.resume():
            monitor.close()
            live(cell, folder, record, series)
            return
    watched, randomness = GradientWatch(), random_state(engine.device)
    monitor.begin(run.meter.zero)
    try:
        with run.keeper, beating(folder, run):
            learn_and_judge(method, stream, run, record)
    except Failed as failed:
        raise told_by_the_rule(failed, rule) from None
    finally:
        run.count.end()
        monitor.close()
        watched.close()
        run.bar.close()
        series.update(run.meter.series() | method.series() | monitor.series())
        first_step = float(series["step_seconds"][0]) if run.meter.steps else None
        around = {"process": process, "compile": compile_seconds(), "first_step": first_step}
        if isinstance(rule, Watched):
            series.update(rule.series())
        network = getattr(method, "network", None)
        record.measurements = {
            "unit": benchmark.unit,
            "steps": run.meter.steps,
            "units": run.meter.units,
            "parameters": None if network is None else parameter_count(network),
            "bytes": _bytes_of(method),
            "held": run.held,
            "data": _data_of(stream, benchmark),
            "trained_parameters": None if network is None else parameter_count(network, trained=True),
            "stopped_by": until.reason,
            "seconds": {**run.watch.read(), **run.meter.phase_seconds(), **around},
            "cpu_seconds": run.keeper.cpu_seconds(),
            "checkpoints": run.keeper.written | ({} if unkept is None else {"none": unkept}),
            "memory": memory.peaks(engine.device, monitor.most_memory()),
            "monitor": monitor.as_dict(),
            "gradients_zeroed": watched.zeroed(),
            "fingerprint": fingerprint(series["loss"]),
            "device_randomness": not torch.equal(randomness, random_state(engine.device)),
            "contexts": stream.describe(),
            "score": benchmark.score_name,
            "method": run.findings,
        }
    if counts_flops(cell, run.recipe.scale, device.accelerator):
        record.measurements["flops"] = flops = tracing.work(cell, run.recipe, benchmark, stream)
        if STEP_FLOPS in series:
            flops["executed"] = executed_per_unit(series)
    if record.measurements["gradients_zeroed"] is False:
        raise Failed("gradients of one update were still there at the next: this is not training", reason="work")
    ranks.together(run, series, record.measurements)
    losses = series["loss"]
    if len(losses) and not np.isnan(losses).all() and not np.isfinite(losses[-1]):
        message = f"the loss is not finite at the end, after {len(losses)} steps; {NAN_REMEDY}"
        raise told_by_the_rule(Failed(message, reason="nan"), rule)


def told_by_the_rule(failed: Failed, rule: Any) -> Failed:
    """The failure, of a loss that is not finite, with what of the rule's own is not finite either."""
    own = rule.not_finite() if failed.reason == "nan" and rule is not None else None
    if own is None or own in str(failed):
        return failed
    return Failed(f"{failed}; {own} are not finite either: see method.rule.feedback_rate", reason="nan")


def beating(folder: Path, run: Run) -> AbstractContextManager[Any]:
    """Tells others how far the cell is, from its first rank."""
    meter = run.meter
    return Pulse(folder, lambda: (meter.steps, meter.units), meter.unit, run.until) if rank() == 0 else nullcontext()


def assembled(
    cell: Mapping[str, Any], record: Record, contexts: int | None = None
) -> tuple[Device, Benchmark, Stream, Run, Any, Any]:
    """What a cell consists of, the method not yet set up; the stream ends after ``contexts`` (None: all of them)."""
    torch.manual_seed(seed_of(cell["seed"], "global"))
    device = acquire(cell["hardware"])
    record.evidence, record.device = device.evidence, device.as_dict()
    recipe = resolve(cell, device.accelerator, list(device.offers))
    record.recipe = recipe.as_dict()
    engine = Engine(device, recipe.precision, cell["strategy"], cell["hardware"]["nodes"], recipe.weights_precision)
    memory.reset(engine.device)
    benchmark = benchmarks.build(cell, recipe)
    room.check(cell, recipe, benchmark, device)
    stream = streams.build(cell["setting"], benchmark, cell["seed"], cell["method"])
    rule_of_length = recipe.until
    if contexts is not None:
        rule_of_length = shortened(rule_of_length, contexts / len(stream.contexts))
        stream = streams.first_contexts(stream, contexts)
    check_batch(recipe, stream)
    until = Until(rule_of_length, cell["timeout"])
    run = Run(cell["seed"], benchmark, engine, recipe, until, show_progress(cell["progress"]), record.oracle)
    method = methods.build(cell["method"])
    method.require()
    if recipe.accumulate > 1 and not method.accumulates:
        name = cell["method"]["name"]
        raise Refused(
            f"accumulate={recipe.accumulate}: method {name} makes its updates in its own way; leave accumulate=1"
        )
    return device, benchmark, stream, run, method, rules.build(cell["method"]["rule"], engine)


def check_batch(recipe: Recipe, stream: Stream) -> None:
    """Raises BatchTooLarge where each step would be smaller than the record says; a drawn stream has its own sizes."""
    listed = any(phase.draw is None for phase in stream.phases)
    if listed and stream.train is not None and recipe.batch > len(stream.train):
        raise BatchTooLarge(
            f"batch={recipe.batch}: these data have {len(stream.train)} training samples; "
            f"choose batch={len(stream.train)} or less, or more benchmark.data.samples="
        )


def shortened(until: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The same rule for a share of the stream: its steps and seconds are those of the whole."""
    scaled = {key: until.get(key) and until[key] * share for key in ("steps", "seconds")}
    return {**until, **scaled}


def not_kept(cell: Mapping[str, Any], run: Run, method: Any) -> str | None:
    """Why the cell writes no checkpoints; None where it does."""
    if not (cell["checkpoint"]["seconds"] or cell["checkpoint"]["steps"]):
        return "checkpoint.seconds and checkpoint.steps are null"
    if run.until.rule["rule"] == "steady":
        return "a rate is measured"
    if run.engine.world > 1 and cell["strategy"] not in ("auto", "ddp"):
        return f"strategy={cell['strategy']}: no rank holds the whole network, or each takes steps of its own"
    if not method.state_dict():
        return f"method {cell['method']['name']} has no state that can be written as plain data"
    return None


def learn_and_judge(method: Any, stream: Stream, run: Run, record: Record) -> None:
    """Learns phase after phase; judges before the first and after each, and at hidden changes within a phase.

    A cell that was interrupted goes on at the keeper's place: in a phase, or between two.
    """

    def judge(after: int) -> None:
        with run.watch.on("evaluate"):
            for protocol in AFTER_A_PHASE.keys() & set(stream.protocol):
                record.evaluations += AFTER_A_PHASE[protocol](method, stream, run.benchmark, run.engine.device, after)
            kept = {**_bytes_of(method), "samples": method.sample_bytes(), **run.count.taken()}
            run.held.append({"after": after, **kept})

    keeper, told = run.keeper, "boundaries_train" in stream.grants
    if keeper.place.phase == BEFORE_ALL:
        if stream.pretraining is not None:
            with run.watch.on("pretrain"):
                method.pretrain(Experience(stream, stream.pretraining, run), run)
        if len(stream.contexts) > 1:
            judge(after=0)
        keeper.go_to(0)
    for number, phase in enumerate(stream.phases[keeper.place.phase :], keeper.place.phase):
        experience = Experience(stream, phase, run, hidden_changes(stream, phase, run, judge))
        with run.watch.on("learn"):
            if told and not keeper.place.begun:
                method.begin_context(phase.index)
                keeper.place.begun = True
            method.learn(experience, run)
            if told:
                with run.count.ending():
                    method.end_context(experience)
        judge(after=sum(len(each.contexts) for each in stream.phases[: number + 1]))  # one that comes back counts again
        if phase is not stream.phases[-1]:
            keeper.go_to(number + 1)


def hidden_changes(stream: Stream, phase: Any, run: Run, judge: Any) -> dict[int, list[Any]]:
    """In a phase that runs through several contexts in order: what is to be judged after which step.

    A context, but the last, is judged once all of its samples were learned: after the batch that holds the last one.
    Batches as large as contexts end several at once.
    """
    if not phase.ordered or len(phase.contexts) == 1:
        return {}
    ends = np.cumsum([len(stream.contexts[index].train) for index in phase.contexts])[:-1]
    size = run.recipe.batch * run.engine.parts
    found: dict[int, list[Any]] = {}
    for number, end in enumerate(ends, start=1):
        found.setdefault(-(-int(end) // size), []).append(partial(judge, number))
    return found


def axes_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The names of a cell's members, and its seed."""
    names = {axis: cell[axis]["name"] for axis in compatibility.AXES}
    return {**names, "rule": (cell["method"].get("rule") or {}).get("name"), "seed": cell["seed"]}


def watch(cell: Mapping[str, Any], device: Device, engine: Engine, folder: Path) -> Monitor:
    """The monitor of the devices of this node, for the process that writes the record; it has seen them idle."""
    asked = cell["measure"]
    nodes = cell["hardware"]["nodes"]
    why = {
        "measure.period=null": asked["period"] is None,
        "a stand-in device": device.stand_in,
        f"hardware.nodes={nodes}: only one node would be seen, and a part is not the whole": nodes > 1,
    }
    reasons = [reason for reason, holds in why.items() if holds]
    if engine.rank != 0 or reasons:
        return Monitor([], {"all": "; ".join(reasons)} if reasons else {}, 1.0)
    identities = []
    if device.accelerator:
        module = torch.get_device_module(device.kind)
        uuids = [getattr(module.get_device_properties(i), "uuid", "") for i in range(device.count)]
        identities = [uuid.hex() if isinstance(uuid, bytes) else str(uuid) for uuid in uuids]
    monitor = open_monitor(device.backend, identities, asked["period"], folder)
    monitor.watch_idle(asked["idle"])
    return monitor


def counts_flops(cell: Mapping[str, Any], scale: str, accelerator: bool) -> bool:
    """auto: where a comparison with a device's peak can be of use."""
    asked = cell["measure"]["flops"]
    return asked == "on" or (asked == "auto" and (accelerator or scale == "full"))


def show_progress(asked: str) -> bool:
    """auto: only where a person watches."""
    return asked == "on" or (asked == "auto" and sys.stderr.isatty())


def _bytes_of(method: Any) -> dict[str, int]:
    """What a method holds at the end, in bytes: the network's parameters, optimizers, and all else that it keeps."""
    state = method.state_dict()
    network, optimizers = state.pop("network", None) or {}, state.pop("optimizers", None)
    parameters = {name: values for name, values in network.items() if not method.is_idle(name)}
    return {
        "parameters": _tensor_bytes(parameters),
        "optimizer": _tensor_bytes(optimizers),
        "kept": _tensor_bytes(state),
    }


def _data_of(stream: Stream, benchmark: Benchmark) -> dict[str, Any] | None:
    """The training data of a stream that lists it: the bytes of all samples as a memory keeps them, and the units of
    work in a pass over each context."""
    if stream.train is None or any(context.train is None for context in stream.contexts):
        return None
    one = stream.train.batch(torch.zeros(1, dtype=torch.long))
    units = benchmark.units(one)
    size = sum(stored_bytes(part) for part in tree_leaves((one.inputs, one.targets)) if isinstance(part, torch.Tensor))
    counts = [len(context.train) for context in stream.contexts if context.train is not None]
    return {"bytes": size * sum(counts), "units": [units * count for count in counts]}


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_tensor_bytes, parts))


def _out_of_memory(record: Record, error: BaseException, cell: Mapping[str, Any]) -> None:
    first = next(iter(str(error).splitlines()), "") or "no memory left"
    device = record.device.get("memory") or (record.evidence == "simulated" and cell["hardware"]["memory"]) or None
    _broke(record, "out of memory", f"{first}; {room.remedy(cell, device)}")


def _broke(record: Record, reason: str, message: str) -> None:
    record.state, record.reason, record.message = FAILED, reason, message
    record.traceback = traceback.format_exc()
