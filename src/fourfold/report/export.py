"""The same rows for programs: JSON with everything, CSV with a line a row."""

import csv
import json
from dataclasses import asdict
from io import StringIO
from typing import Any

from fourfold.report.groups import AXES, Group, group, problems, rate_of
from fourfold.report.read import Sweep


def sweep_json(sweep: Sweep) -> str:
    """{sweep, command, running, rows, problems, refused}; every figure with mean, interval and count."""
    content = {
        "sweep": sweep.id,
        "command": sweep.command,
        "running": sweep.running,
        "rows": [row_data(row) for row in group(sweep.cells, by_row=True)],
        "problems": [
            {"state": state, "message": message, "cells": [cell.name for cell in cells]}
            for state, message, cells in problems(sweep.cells)
        ],
        "refused": [{"overrides": overrides, "why": why} for overrides, why in sweep.refused],
    }
    return json.dumps(content, indent=1)


def row_data(row: Group) -> dict[str, Any]:
    """A row as plain data; ``rate`` says its unit and what its interval is over."""
    rate = rate_of(row)
    return {
        "row": row.row,
        **{axis: getattr(row, axis) for axis in AXES},
        "variant": row.variant,
        "evidence": row.evidence,
        "oracle": row.oracle,
        "seeds": row.seeds,
        "states": row.states,
        "cells": [cell.name for cell in row.cells],
        "rate": None if rate is None else {**asdict(rate), "unit": row.unit},
        "figures": {name: asdict(summary) for name, summary in row.figures.items()},
    }


def sweep_csv(sweep: Sweep) -> str:
    """A header, then a line a row: axes, states, rate, and of every figure the mean and the ends of its interval."""
    rows = group(sweep.cells, by_row=True)
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "row",
            *AXES,
            "variant",
            "evidence",
            "oracle",
            "cells",
            "states",
            "unit",
            "rate",
            "rate_low",
            "rate_high",
            "rate_interval",
        ]
        + [f"{name}{end}" for name in names for end in ("", "_interval_low", "_interval_high")]
    )
    for row in rows:
        rate = rate_of(row)
        line: list[Any] = [row.row, *(getattr(row, axis) for axis in AXES)]
        line += [row.variant, row.evidence, row.oracle, len(row.cells)]
        line += ["; ".join(f"{count} {state}" for state, count in row.states.items()), row.unit]
        line += [None] * 4 if rate is None else [rate.mean, rate.low, rate.high, rate.over]
        for name in names:
            found = row.figures.get(name)
            line += [None] * 3 if found is None else [found.mean, found.low, found.high]
        writer.writerow(line)
    return stream.getvalue().rstrip("\n")
