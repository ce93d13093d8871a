"""Writes the table of devices in docs/hardware.md anew from conf/hardware: python docs/hardware.py"""

import re
from pathlib import Path

from fourfold.cli.devices import table

FILE = Path(__file__).with_name("hardware.md")


def page(text: str) -> str:
    """The page with the table as it is now; the rest of it is written by hand."""
    found, count = re.subn(r"^\| hardware \| GB \|.*?(?=\n\n)", lambda _: table(), text, flags=re.DOTALL | re.MULTILINE)
    assert count == 1, "the page has one table of devices"
    return found


if __name__ == "__main__":
    FILE.write_text(page(FILE.read_text()))
