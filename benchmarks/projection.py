"""How far off projections are where rates are known, and what they say of every other device.

    python benchmarks/projection.py docs/results/a100_published.csv > docs/results/projection.md

Published figures of other devices have no part in it: what it says of them can be judged by them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from fourfold.composition import compose, config_directory, plain
from fourfold.errors import FourfoldError
from fourfold.hardware.catalogue import catalogue
from fourfold.projection.calibrate import Fit, Row, fit, rows_of_figures
from fourfold.projection.cell import sizes_of
from fourfold.projection.model import Table, memory, project

# Device memory in use by all processes (MiB), as the source of the figures reports it: context and caches included.
PUBLISHED_MEMORY = {
    "bert-fp32": 21170, "reformer": 25404, "t5": 34390, "whisper": 8520, "convnext_large-fp32": 55950,
    "convnext_large-tf32": 49650, "convnext_large-fp16": 27376, "regnet_y_128gf": 29762, "focalnet": 23536,
    "lightning": 27360, "resnet50-noio": 27480, "diffusion-single": 53994,
}  # fmt: skip


def main(rows: Sequence[Row], found: Fit) -> str:
    """The report, as Markdown."""
    lines = [HEADER, "| row | known | projected | off | memory projected | reported |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        off = found.errors[row.name]
        needed = memory(sizes_of(row.facts), row.hardware, 1, "ddp")["needed"] / 2**20
        reported = PUBLISHED_MEMORY.get(row.name)
        ratio = f"{reported:,} MiB ({100 * (needed / reported - 1):+.0f} %)" if reported else ""
        factor = 2.718281828459045**off
        lines.append(
            f"| {row.name} | {row.rate:.4g} | {row.rate * factor:.4g} | {100 * (factor - 1):+.0f} % "
            f"| {needed:,.0f} MiB | {ratio} |"
        )
    calibration = found.calibration
    lines.append(
        f"\nMedian error {100 * found.median_error:.0f} %; spread of the logarithm {calibration['spread']:.2f}."
    )
    lines.append("\n## Other devices, as ratios to the A100 80 GB SXM\n\n" + RATIOS)
    devices = [
        name for name, facts in catalogue(config_directory() / "hardware").items() if facts["match"] and "/" not in name
    ]
    lines.append("| device | " + " | ".join(row.name for row in rows) + " |")
    lines.append("|---|" + "--:|" * len(rows))
    base = plain(compose(["hardware=a100"]))["hardware"]
    for device in sorted(devices):
        hardware = plain(compose([f"hardware={device}"]))["hardware"]
        lines.append(f"| {device} | " + " | ".join(_ratio(row, hardware, base, calibration) for row in rows) + " |")
    return "\n".join(lines)


def _ratio(row: Row, hardware: dict, base: dict, calibration: dict) -> str:
    """Projected over projected: of the same recipe on both devices; n/a where the device lacks its precision."""
    if row.precision not in hardware["offers"]:
        return "n/a"
    both = []
    for device in (hardware, base):
        try:
            found = project(
                Table(row.facts.operators, device, row.precision), sizes_of(row.facts), device, "ddp", calibration
            )
        except FourfoldError:
            return "n/a"
        both.append(found)
    ratio = both[0]["units_per_second"] / both[1]["units_per_second"]
    return f"~{ratio:.2f}" + ("" if both[0]["memory"]["fits"] else "*")


HEADER = """# Projections against what is known

Made by `python benchmarks/projection.py docs/results/a100_published.csv`. The rates are Milabench's, of eight A100
80 GB SXM (each its own copy; November 2024), for single devices. Each row is projected under a fit to the rows of the
*other* benchmarks. Which rows have no part in it, and why, is in the last column of `a100_published.csv`: resnet50,
brax, torchatari and rlhf-single are host-bound, ppo and dqn have a clock that does not wait for the device, several
devices share a host, and some recipes are other ones here.

Reported memory is what the driver saw in use: context, workspaces and what the caching allocator keeps are in it, and
not in ours. It is no check of the 10 % that is asked against the allocator's own peak;
`tests/projection/test_memory.py` is one, on a CPU. t5 and reformer held far more there.
"""
RATIOS = """Under the fit to all rows, in one precision each; the fit is the A100's, so what a vendor's libraries reach
on another device is taken to be the same share of its peaks. `*`: does not fit in the device's memory at this batch;
n/a: the device lacks the precision, or states no rate for it.
"""

if __name__ == "__main__":
    known = rows_of_figures(Path(sys.argv[1]), lambda line: print(line, file=sys.stderr))
    print(main(known, fit(known, "a100", "published")))
