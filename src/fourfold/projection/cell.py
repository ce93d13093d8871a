"""A projected cell: no device is acquired, nothing is learned; the record holds what would happen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fourfold.benchmarks import interface as benchmarks
from fourfold.hardware.strategies import check_precision
from fourfold.projection.model import Sizes, Table, project
from fourfold.projection.trace import Facts, trace
from fourfold.recipe import Recipe, resolve
from fourfold.record import Record
from fourfold.settings import stream as streams

EVIDENCE = "projected"
TOKENS = 1e-6  # megabytes of text for each token, one byte each
SPARE = 4  # batches of data to draw the one from that is traced


def fill(cell: Mapping[str, Any], record: Record) -> None:
    """Traces the step of the cell and writes what the hardware would make of it into the record."""
    hardware = cell["hardware"]
    recipe = resolve(cell, accelerator=True)
    check_precision(cell["strategy"], hardware["devices"] * hardware["nodes"], recipe.precision)
    record.evidence, record.recipe = EVIDENCE, recipe.as_dict()
    record.device = {
        "kind": None,
        "backend": hardware["backend"],
        "name": hardware["name"],
        "memory": hardware["memory"],
    }
    facts = facts_of(cell, recipe)
    strategy = "ddp" if cell["strategy"] == "auto" else cell["strategy"]
    calls = facts.operators
    table = Table(calls, hardware, recipe.precision)
    found = project(table, sizes_of(facts), hardware, strategy, cell["calibration"])
    record.measurements = {
        "unit": facts.unit,
        "parameters": facts.parameters,
        "projection": {
            **found,
            "flop_per_unit": sum(call.flops * call.calls for call in calls) / facts.units,
            "bytes_per_unit": sum(call.bytes * call.calls for call in calls) / facts.units,
            "launches": sum(call.calls for call in calls if call.bytes),
        },
    }


def sizes_of(facts: Facts) -> Sizes:
    """The part of a trace that the model of a device reads besides its operators."""
    return Sizes(facts.units, facts.samples, facts.gradients, facts.static, facts.peak)


def facts_of(cell: Mapping[str, Any], recipe: Recipe) -> Facts:
    """The traced step of a cell. Only as much data is made as one step draws."""
    less = replace(recipe, data=enough_data(recipe))
    benchmark = benchmarks.build(cell, less)
    return trace(cell, less, benchmark, streams.build(cell["setting"], benchmark, cell["seed"], cell["method"]))


def enough_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe's data, less of it where its amount is a number that a step does not depend on."""
    data = dict(recipe.data)
    if data.get("samples"):
        data["samples"] = min(data["samples"], SPARE * recipe.batch)
    if data.get("megabytes"):
        data["megabytes"] = min(data["megabytes"], max(0.2, SPARE * recipe.batch * data["sequence"] * TOKENS))
    return data
