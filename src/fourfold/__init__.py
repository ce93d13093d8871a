"""Fourfold: every benchmark x hardware x setting x method from one command."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourfold.record import Record

__version__ = "0.1.0"


def run(overrides: list[str] | None = None) -> "Record":
    """Runs one cell in this process and returns its record.

    ``fourfold.run(["benchmark=digits", "method=ewc"])`` takes the overrides of the shell.
    Raises ``fourfold.errors.Refused`` if the configuration makes no sense; a cell that fails
    returns a record whose ``state`` says so.
    """
    from fourfold.launch.single import run_here

    return run_here(overrides or [])
