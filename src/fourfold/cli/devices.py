"""python -m fourfold.cli.devices: the catalogue of devices as the table of docs/hardware.md."""

from typing import Any

from fourfold.composition import config_directory
from fourfold.hardware.catalogue import PRECISIONS, catalogue

HEAD = ("hardware", "GB", "GB/s", *(f"{name} TFLOP/s" for name in PRECISIONS), "W", "GB/s to a neighbour", "gres")


def table() -> str:
    """One line for each device that is recognised by its name, a site's own left out."""
    found = catalogue(config_directory() / "hardware")
    rows = [_row(name, facts) for name, facts in found.items() if facts["match"] and "/" not in name]
    rule = ["---", *["--:"] * (len(HEAD) - 2), "---"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEAD, rule, *rows))


def _row(name: str, facts: dict[str, Any]) -> list[str]:
    rates = [f"{facts['peak'][each] / 1e12:g}" if facts["peak"].get(each) else "" for each in PRECISIONS]
    gres = facts["launcher"]["gres"].split(":${")[0]
    link = f"{facts['interconnect']['node'] / 1e9:g}"
    return [
        name,
        f"{facts['memory'] / 1e9:g}",
        f"{facts['bandwidth'] / 1e9:g}",
        *rates,
        f"{facts['power']:g}",
        link,
        gres,
    ]


if __name__ == "__main__":
    print(table())
