"""`explain suite=NAME`: its rows, what each runs, and which of them this hardware cannot hold."""

from hydra.core.global_hydra import GlobalHydra

from fourfold import composition
from fourfold.cli.sources import hydra
from fourfold.errors import NotApplicable
from fourfold.launch import capacity, cells, suites


def suite_text(chosen: list[str], overrides: list[str]) -> tuple[str, bool]:
    """A line for each row under these overrides, and whether any can run.

    Raises Refused for a suite or row that does not exist, and for a row with a name, key or value that is wrong.
    """
    with hydra():
        loader = GlobalHydra.instance().config_loader()
        composition.search_also(loader, overrides)
        rows = suites.chosen_rows(chosen, loader)
        width = max((len(row.name) for row in rows), default=0)
        lines, able = [], 0
        for row in rows:
            reasons = [_problem(one) for one in cells.combinations(overrides, row, loader)]
            able += reasons.count(None)
            why = next((reason for reason in reasons if reason), None)
            lines.append(f"  {row.name:<{width}}  weight {row.weight:g}  {' '.join(row.overrides)}".rstrip())
            if row.about:
                lines.append(f"  {'':<{width}}  {row.about}")
            if why:
                lines.append(f"  {'':<{width}}  not applicable: {why}")
        lines.append(f"{len(rows)} rows; {able} cells can run")
    return "\n".join([" ".join([*chosen, *overrides]), *lines]), able > 0


def _problem(one: cells.Combination) -> str | None:
    if one.row is not None and one.row.awaits is not None:
        return f"awaits {one.row.awaits}"
    try:
        config = composition.checked_compose(one.overrides)
    except NotApplicable as error:
        return str(error)
    cell = composition.plain(config)
    here = str(config.hydra.launcher._target_).endswith("LocalLauncher")
    return capacity.lacking(cell, here)
