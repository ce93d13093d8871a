"""From a configuration to what is really run: scale, size, batch, precision, optimizer, length.

A null in the configuration means "as the benchmark's recipe says at this scale"; what the user wrote wins.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fourfold.errors import Refused, nearest

# What may stand in for a precision that the hardware lacks, in order of preference.
SUBSTITUTES = {
    "tf32": ("fp32", "bf16"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"),
    "fp32": ("tf32", "bf16"),
}
OWN_FP8 = "fp8_products"


@dataclass(frozen=True)
class Recipe:
    """What one cell runs, with every default filled in."""

    scale: str
    size: str | None
    batch: int
    precision: str
    precision_asked: str
    evaluation: int | None
    until: dict[str, Any]
    optimizer: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    batch_from: str = "default"  # the benchmark's | auto: found by trials | given
    weights: str = "seeded"
    weights_precision: str = "fp32"
    workers: int = 0
    accumulate: int = 1
    recompute: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def scale_of(cell: Mapping[str, Any], accelerator: bool) -> str:
    """full or smoke; ``accelerator`` says whether the device that serves is one."""
    scale = cell["scale"]["name"]
    if scale != "auto":
        return scale
    return "full" if accelerator else "smoke"


def will_be_accelerator(cell: Mapping[str, Any]) -> bool | None:
    """Whether the cell's hardware is an accelerator; None where only a look at the machine can tell."""
    hardware = cell["hardware"]
    if hardware["stand_in"] or hardware["backend"] == "cpu":
        return False
    return None if hardware["backend"] == "auto" else True


def resolve(cell: Mapping[str, Any], accelerator: bool, offers: list[str] | None = None) -> Recipe:
    """The recipe of a cell on a device; ``offers`` are the precisions there (default: the hardware's own).

    Raises Refused for a size that the model does not have and a precision that the hardware lacks.
    """
    benchmark = cell["benchmark"]
    scale = scale_of(cell, accelerator)
    recipe = benchmark["recipe"][scale]
    size = _size(cell, scale)
    asked = recipe["precision"] if cell["precision"] == "default" else cell["precision"]
    facts = cell["hardware"]["offers"] if offers is None else offers
    precision = _precision(asked, cell, facts)
    until = _until(cell["until"], recipe["until"])
    if cell["weights_precision"] == "bf16" and precision != "bf16":
        raise Refused(f"weights_precision=bf16: goes with precision=bf16, and this is precision={precision}")
    batch = recipe["batch"] if cell["batch"] in ("default", "auto") else int(cell["batch"])
    _check_parts(cell, batch)
    return Recipe(
        scale=scale,
        size=size,
        batch=batch,
        batch_from=cell["batch"] if cell["batch"] in ("default", "auto") else "given",
        precision=precision,
        precision_asked=asked,
        evaluation=recipe["evaluation"],
        until=until,
        optimizer=_optimizer(cell["optimizer"], recipe["optimizer"], until["rule"]),
        model=_parameters(benchmark["model"], recipe["model"], size),
        data=_parameters(benchmark["data"], recipe["data"], None),
        weights=_weights(cell, size),
        weights_precision=cell["weights_precision"],
        workers=recipe["workers"] if cell["workers"] == "default" else int(cell["workers"]),
        accumulate=cell["accumulate"],
        recompute=cell["recompute"],
    )


def _check_parts(cell: Mapping[str, Any], batch: int) -> None:
    """Raises Refused where a batch cannot go through in parts, or nothing goes backward."""
    parts, method = cell["accumulate"], cell["method"]
    asked = f"accumulate={parts}" if parts > 1 else "recompute=true" if cell["recompute"] else None
    if asked and "gradients" not in method["needs"]:
        raise Refused(f"{asked}: method {method['name']} has no backward pass; leave it out")
    if parts > 1 and (batch % parts or cell["batch"] == "auto"):
        size = "auto" if cell["batch"] == "auto" else batch
        raise Refused(f"accumulate={parts}: batch={size} does not fall into {parts} parts of one size; name a multiple")
    rule = (method.get("rule") or {}).get("name")
    if parts > 1 and rule != "backprop":
        raise Refused(f"accumulate={parts}: gradients of parts add up with method/rule=backprop only, not {rule}")


def _size(cell: Mapping[str, Any], scale: str) -> str | None:
    sizes = (cell["benchmark"]["model"] or {}).get("sizes") or {}
    asked = str(cell["size"])  # the shell reads size=50 as a number
    if not sizes:
        if asked != "default":
            raise Refused(f"size={asked}: benchmark {cell['benchmark']['name']} has one size only; leave size=default")
        return None
    size = cell["benchmark"]["default_size"] if asked == "default" else asked
    if size not in sizes:
        choices = ", ".join(sizes)
        raise Refused(f"size={asked}: benchmark {cell['benchmark']['name']} has {choices}{nearest(asked, sizes)}")
    return None if scale == "smoke" and asked == "default" else size


def _weights(cell: Mapping[str, Any], size: str | None) -> str:
    """seeded, or the published name of the size's weights."""
    if cell["weights"] == "seeded":
        return "seeded"
    benchmark = cell["benchmark"]["name"]
    published = (cell["benchmark"]["model"] or {}).get("pretrained") or {}
    if not published:
        raise Refused(f"weights=pretrained: benchmark {benchmark} knows of no published weights; leave weights=seeded")
    if size not in published:
        what = "the smoke size is nobody's" if size is None else f"size={size} has none"
        raise Refused(f"weights=pretrained: {what}; benchmark {benchmark} has them for size={', '.join(published)}")
    return published[size]


def _precision(asked: str, cell: Mapping[str, Any], offers: Any) -> str:
    """What is asked, where the hardware has it and the work takes it; autocast makes no 8-bit products, so these are
    for benchmarks and methods that do so themselves (fact ``fp8_products``)."""
    benchmark, method = cell["benchmark"], cell["method"]
    eight = OWN_FP8 in benchmark["offers"] or OWN_FP8 in method["offers"]
    have = [precision for precision in SUBSTITUTES if precision in offers]
    usable = [precision for precision in have if precision != "fp8" or eight]
    if asked in usable:
        return asked
    if cell["precision_policy"] == "nearest":
        for substitute in SUBSTITUTES[asked]:
            if substitute in usable:
                return substitute
    lacking = f"hardware {cell['hardware']['name']} has {', '.join(sorted(have))}"
    if asked in have:
        lacking = (
            f"neither benchmark {benchmark['name']} nor method {method['name']} makes 8-bit products (benchmark=matmul "
            f"does); this can be {', '.join(sorted(usable))}"
        )
    raise Refused(f"precision={asked}: {lacking}; precision_policy=nearest takes the nearest of them and says so")


def _until(asked: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("steps", "epochs", "seconds", "interval")
    rule = asked["rule"]
    if rule == "default":
        implied = {"steps": "steps", "epochs": "epochs", "interval": "steady", "seconds": "budget"}
        rule = next(
            (implied[key] for key in ("steps", "epochs", "interval", "seconds") if asked[key] is not None), None
        )
    if rule is None:
        return {**dict.fromkeys(keys), "rule": "steps", **recipe}
    values = {key: asked[key] for key in keys}
    if rule == recipe.get("rule"):
        values = {key: recipe.get(key) if value is None else value for key, value in values.items()}
    return {"rule": rule, **values}


def _optimizer(asked: Mapping[str, Any], recipe: Mapping[str, Any], rule: str) -> dict[str, Any]:
    chosen = dict(asked)
    if chosen["schedule"] == "step" and chosen["schedule_epochs"] is None:
        raise Refused("optimizer.schedule=step: after how many passes the rate falls, says optimizer.schedule_epochs=")
    if chosen["schedule"] != "constant" and chosen["schedule_epochs"] is None and rule not in ("steps", "epochs"):
        raise Refused(
            f"optimizer.schedule={chosen['schedule']}: until={rule} has no known end; optimizer.schedule_epochs= says "
            "when the last rate is to be reached, until=steps or until=epochs does, too"
        )
    if chosen["name"] == "default":
        chosen = {key: recipe.get(key) if value in (None, "default") else value for key, value in chosen.items()}
    return chosen


def _parameters(node: Mapping[str, Any] | None, recipe: Mapping[str, Any], size: str | None) -> dict[str, Any]:
    """A member's own parameters: what is written, else its size's values (if one was chosen), else the recipe's."""
    node = dict(node or {})
    sizes = node.pop("sizes", None) or {}
    for key in ("limits", "classes", "pretrained", "branches"):
        node.pop(key, None)
    fallback = {**recipe, **(sizes.get(size) or {})} if size else dict(recipe)
    unknown = set(fallback) - set(node)
    if unknown:
        raise Refused(f"the recipe names {', '.join(sorted(unknown))}, which the model or data does not have")
    return {key: fallback.get(key) if value is None else value for key, value in node.items()}
