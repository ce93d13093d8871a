"""A row of a suite in Milabench's columns, by its formulas; what it really ran with stands beside it."""

from collections.abc import Iterable, Mapping, Sequence

from fourfold import errors
from fourfold.metrics.score import MilabenchRow, milabench_row
from fourfold.metrics.statistics import Summary
from fourfold.metrics.utilisation import devices_of
from fourfold.record import Record
from fourfold.report.read import Cell

# Milabench's own columns, and the precision.
HEAD = ["bench", "fail", "n", "ngpu", "perf", "sem%", "std%", "peak_memory", "score", "weight", "precision"]
UNLIKE_MARK = "*"
PRECISIONS = {"fp32", "tf32", "fp16", "bf16", "fp8"}


def of_cells(cells: Sequence[Cell]) -> MilabenchRow | None:
    """Processes are imported cells that had a device each, or the copies of a cell, which all seeds have anew."""
    rates = [rates for cell in cells for rates in cell.rates]
    failed, count = processes(cells)
    if any(len(cell.rates) > 1 for cell in cells):
        return milabench_row(rates, failed, count, summed=True, runs=sum(any(cell.rates) for cell in cells))
    return milabench_row(rates, failed, count, apart([cell for cell in cells if cell.record]))


def apart(cells: Iterable[Cell]) -> bool:
    """Whether these are processes that each had a device of its own."""
    return all(cell.record and (cell.record.config.get("milabench") or {}).get("plan") == "per_gpu" for cell in cells)


def processes(cells: Iterable[Cell]) -> tuple[int, int]:
    """(failed, all): a copy on a device of its own is a process; one that fails ends its whole cell."""
    counts = [(cell.state != errors.DONE, _copies(cell)) for cell in cells]
    return sum(copies for failed, copies in counts if failed), sum(copies for _, copies in counts)


def texts(
    name: str, weight: float, cells: Sequence[Cell], figures: Mapping[str, Summary], found: MilabenchRow | None
) -> list[str]:
    """A text for each of HEAD."""
    record = next((cell.record for cell in cells if cell.record), None)
    failed, count = processes(cells)
    memory = figures.get("device_peak_bytes") or figures.get("allocated_peak_bytes")
    spread = [f"{found.perf:.2f}", f"{found.sem_percent:.1f}%", f"{found.std_percent:.1f}%"] if found else [""] * 3
    return [
        name, str(failed), str(count), _devices(name, record), *spread,
        "" if memory is None else f"{memory.mean / 2**20:.0f}", "" if found is None else f"{found.score:.2f}",
        f"{weight:g}", precision_text(name, record),
    ]  # fmt: skip


def unlike_its_name(name: str, record: Record | None) -> bool:
    """Whether a row ran in another precision, or on fewer devices or nodes, than Milabench's way of naming says."""
    return record is not None and (_other_precision(name, record) or _fewer_devices(name, record))


def precision_text(name: str, record: Record | None) -> str:
    """The precision that a row ran in, marked where it is named for another."""
    precision = str(record.recipe.get("precision") or "") if record else ""
    return precision + (UNLIKE_MARK if record and _other_precision(name, record) else "")


def _devices(name: str, record: Record | None) -> str:
    if record is None:
        return ""
    return str(devices_of(record)) + (UNLIKE_MARK if _fewer_devices(name, record) else "")


def _other_precision(name: str, record: Record) -> bool:
    """bert-tf32-fp16 is named for two, of which either will do."""
    named, precision = PRECISIONS & set(name.split("-")), record.recipe.get("precision")
    return bool(named and precision and precision not in named)


def _fewer_devices(name: str, record: Record) -> bool:
    nodes = int((record.config.get("hardware") or {}).get("nodes") or 1)
    return (name.endswith("-gpus") and devices_of(record) == 1) or (name.endswith("-nodes") and nodes == 1)


def _copies(cell: Cell) -> int:
    alone = cell.record is not None and cell.record.config.get("strategy") == "replicas"
    return devices_of(cell.record) if cell.record and alone else max(len(cell.rates), 1)
