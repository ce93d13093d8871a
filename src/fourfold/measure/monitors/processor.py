"""The cell's own process; the host: RAPL's energy counters, where they can be read (often by root only), and use."""

from collections.abc import Mapping
from pathlib import Path

RAPL = Path("/sys/class/powercap")


def sources(kind: str, folder: Path = RAPL) -> list["Rapl"]:
    """The processor's packages; ``kind``: device if the processor is what serves the cell.

    Raises FileNotFoundError if RAPL tells of none, PermissionError if the counters are there and may not be read.
    """
    packages = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
    found = [Rapl(path, kind) for path in packages if (path / "energy_uj").is_file()]
    if not found:
        raise FileNotFoundError(f"no energy counter of a processor in {folder}")
    return found


class Rapl:
    """One processor package: its own energy and that of its memory (AMD's processors have the same files)."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.name = "cpu_" + folder.name.split(":")[1]
        self.kind = kind
        memory = [part for part in folder.glob(f"{folder.name}:*") if _word(part / "name") == "dram"]
        self.counters = [Counter(part) for part in (folder, *memory)]

    def read(self) -> Mapping[str, float]:
        return {"energy": sum(counter.joules() for counter in self.counters)}

    def close(self) -> None:
        """Files are opened for each look."""


class Counter:
    """A counter of microjoules that begins again at its end."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "energy_uj"
        self.end = int(_word(folder / "max_energy_range_uj") or 2**32)
        self.last = int(self.file.read_text())
        self.total = 0

    def joules(self) -> float:
        now = int(self.file.read_text())
        self.total += (now - self.last) % (self.end + 1)
        self.last = now
        return self.total * 1e-6


class Host:
    """How busy the processor's cores are, and how much of the memory is in use."""

    name, kind = "host", "host"

    def __init__(self) -> None:
        import psutil

        self.psutil = psutil
        psutil.cpu_percent(None)  # the first answer is about nothing

    def read(self) -> Mapping[str, float]:
        used = self.psutil.virtual_memory()
        return {"utilisation": self.psutil.cpu_percent(None) / 100, "memory": float(used.total - used.available)}

    def close(self) -> None:
        """Nothing to give back."""


class Process:
    """The memory that this process holds, and the files in the cell's folder: what it needs of a host."""

    name, kind = "process", "host"

    def __init__(self, folder: Path) -> None:
        import psutil

        self.process, self.folder = psutil.Process(), folder

    def read(self) -> Mapping[str, float]:
        return {"memory": float(self.process.memory_info().rss), "disk": float(_bytes_in(self.folder))}

    def close(self) -> None:
        """Nothing to give back."""


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a checkpoint that has just taken its place
            continue
    return total


def _word(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
