"""`explain`: whether a cell makes sense and why, and what it would run."""

from collections.abc import Iterable, Mapping
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fourfold import compatibility, composition, tuned_values
from fourfold.cli.sources import content, hydra, member_file, shown_path
from fourfold.compatibility import Member
from fourfold.errors import Refused
from fourfold.launch import suites
from fourfold.recipe import resolve, scale_of, will_be_accelerator


def explain_text(overrides: list[str]) -> tuple[str, bool]:
    """The explanation of one cell, and whether it is valid; with suite=NAME, that of its rows.

    Raises Refused if it cannot even be composed: an unknown choice, key or value.
    """
    chosen, overrides = suites.take_out(overrides)
    if chosen:
        from fourfold.cli.suite import suite_text

        return suite_text(chosen, overrides)
    with hydra():
        config = _composed(overrides)
        problem = _problem(config)
        cell = composition.plain(config)
        members = compatibility.members_of(cell)
        unmet = compatibility.unmet(members)
        reasons = [compatibility.explain_unmet([each], members, composition.catalogue()) for each in unmet]
        if problem and not reasons:
            reasons = [problem]
        lines = [*_verdict(members, reasons), "", *_member_lines(members)]
        if not unmet:
            lines += ["", *_recipe_lines(cell), *_tuned_lines(config), *_setting_lines(cell)]
            lines += ["", f"cell  {composition.cell_name(cell)}"]
        return "\n".join(lines), not reasons


def _composed(overrides: list[str]) -> DictConfig:
    """Composed, but not checked: an explanation wants all of what is wrong, not the first of it."""
    overrides = composition.with_tuned(overrides)
    try:
        return compose(composition.CONFIG_NAME, overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise Refused(composition.one_line(error, overrides)) from error


def _problem(config: DictConfig) -> str | None:
    try:
        composition.check(config)
    except Refused as error:
        return str(error)
    return None


def _verdict(members: list[Member], reasons: list[str]) -> list[str]:
    words = " ".join(f"{member.axis}={member.name}" for member in members)
    if not reasons:
        return [f"valid: {words}"]
    return [f"refused: {words}", *(f"  {reason}" for reason in reasons)]


# -------------------------------------------------------------------------------------------- members


def _member_lines(members: list[Member]) -> list[str]:
    """What each member gives and needs, who meets each need, and what it makes use of."""
    facts = compatibility.given(members)
    lines = []
    for member in members:
        verb = "grants" if member.axis == "setting" else "offers"
        oracle = " (oracle: a bound, given what others are not)" if member.oracle else ""
        lines.append(f"{member.axis} {member.name}{oracle}")
        if member.gives:
            lines.append(f"  {verb}  {', '.join(sorted(member.gives))}")
        lines += [f"  needs   {_need(need, members, facts)}" for need in sorted(member.needs)]
        for use in sorted(member.uses):
            lines.append(f"  uses    {use}: {_meaning(use)}" if use in facts else f"  without {use}: {_meaning(use)}")
    return lines


def _need(need: str, members: list[Member], facts: Iterable[str]) -> str:
    givers = [f"{member.axis} {member.name}" for member in members if compatibility.met(need, member.gives)]
    if not givers and need in facts:
        givers = ["granted to oracle methods"]
    return f"{need}: {_meaning(need)} ({', '.join(givers) if givers else 'NOT MET'})"


def _meaning(fact: str) -> str:
    return compatibility.meaning(fact) or "a fact of its own"


# ------------------------------------------------------------------------------------------ what runs


def _recipe_lines(cell: Mapping[str, Any]) -> list[str]:
    """Both scales side by side, and which of them would run."""
    columns = {scale: _recipe(cell, scale) for scale in ("full", "smoke")}
    accelerator = will_be_accelerator(cell)
    if cell["scale"]["name"] == "auto" and accelerator is None:
        chosen = "full on an accelerator, smoke on a CPU"
    else:
        chosen = scale_of(cell, bool(accelerator))
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    width = max(map(len, keys), default=0)
    first = max((len(columns["full"].get(key, "")) for key in keys), default=0)
    lines = [f"would run (scale={cell['scale']['name']}: {chosen})", f"  {'':{width}}  {'full':{first}}  smoke"]
    lines += [
        f"  {key:{width}}  {columns['full'].get(key, ''):{first}}  {columns['smoke'].get(key, '')}".rstrip()
        for key in keys
    ]
    return lines


def _recipe(cell: Mapping[str, Any], scale: str) -> dict[str, str]:
    try:
        found = resolve({**cell, "scale": {**cell["scale"], "name": scale}}, accelerator=scale == "full").as_dict()
    except Refused as error:
        return {"refused": str(error).split(":")[0]}
    found.pop("scale")
    if found["precision"] == found["precision_asked"]:
        found.pop("precision_asked")
    return {key: str(value) for key, value in _flat(found) if value is not None}


def _tuned_lines(config: DictConfig) -> list[str]:
    """The tuned values of this method on this benchmark in this setting, those of its rule, and whether they count."""
    lines: list[str] = []
    for group in ("tuned", "tuned/rule"):
        choice = config.hydra.runtime.choices.get(group)
        file = member_file(f"{group}/{choice}") if choice else None
        flat = dict(_flat(content(file))) if file else {}
        if file is None or not flat:
            where = "does not exist" if file is None else "has none"
            others = _for_other_values(config) if group == "tuned" else ""
            lines.append(
                f"tuned values: none ({group}/{choice}.yaml {where}{others})" if choice else "tuned values: none"
            )
            continue
        lines.append(f"tuned values from {shown_path(file)}")
        for key, value in flat.items():
            present = OmegaConf.select(config, key)
            lines.append(f"  {key} = {value}" + ("" if present == value else f" (overridden: {present})"))
    return ["", *lines]


def _for_other_values(config: DictConfig) -> str:
    """For what other values of the setting there are tuned ones."""
    axes = [str(config[axis]["name"]) for axis in ("method", "benchmark", "setting")]
    files = tuned_values.stated(composition.config_directory(), *axes)
    known = ", ".join(f"{value:g}" for value in sorted(files))
    return f"; there are some for setting.{tuned_values.KEY}={known}" if files else ""


def _setting_lines(cell: Mapping[str, Any]) -> list[str]:
    setting = cell["setting"]
    count = setting.get("contexts")
    if count is None:
        return []
    classes = (cell["benchmark"].get("data") or {}).get("classes")
    text = f"{count} context{'' if count == 1 else 's'}"
    if setting.get("split") == "classes" and classes:
        order = setting.get("class_order")
        by_seed = f", by seed {cell['seed']}" if order == "seeded" else ""
        text += f" over {classes} classes (order: {order}{by_seed})"
    return ["", f"stream: {text}; judged: {', '.join(setting.get('protocol') or []) or 'never'}"]


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "defaults":
            yield f"{prefix}{key}", value
