"""From the words of a shell to a checked configuration: compose, check types and ranges, name the cell.

Nothing here imports torch: a refusal, a dry run and shell completion stay quick.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ConfigDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fourfold import compatibility, schema, tuned_values, tuning
from fourfold.checks import check_types, check_whole, flatten
from fourfold.errors import NotApplicable, Refused, nearest, nearest_key
from fourfold.hardware.requests import check_projection, check_request
from fourfold.members import target
from fourfold.recipe import resolve, will_be_accelerator

CONFIG_NAME = "config"


def config_directory() -> Path:
    """Where conf/ is: beside src/ in a checkout, inside the package in an installed wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def register_resolvers(check_also: Callable[[DictConfig], None] = lambda config: None) -> None:
    """Makes ${fourfold_cell:} the name of the cell's folder.

    ${fourfold_cell:checked} checks the cell first: Hydra makes the folder of a single run before it calls
    anything of ours, and a refused cell leaves no folder. ``check_also`` is what the caller has to add.
    """

    def name(*words: str, _root_: DictConfig) -> str:
        if "checked" in words:
            check(_root_)
            check_also(_root_)
        return cell_name(_root_)

    OmegaConf.register_new_resolver("fourfold_cell", name, replace=True)


def compose(overrides: Iterable[str]) -> DictConfig:
    """The checked configuration of one cell, without Hydra's own node.

    Raises Refused with one line for anything wrong in it.
    """
    register_resolvers()
    with initialize_config_dir(str(config_directory()), version_base="1.3", job_name="fourfold"):
        config = checked_compose(list(overrides))
        return without_hydra(config)


def checked_compose(overrides: list[str]) -> DictConfig:
    """Composes within an initialised Hydra, translates its errors, checks; returns Hydra's node too."""
    overrides = with_tuned(overrides)
    try:
        config = hydra_compose(CONFIG_NAME, overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise Refused(one_line(error, overrides)) from error
    check(config)
    return config


def with_tuned(words: Iterable[str]) -> list[str]:
    """The words of one cell, and with them the one for its tuned values where Hydra does not find them by itself."""
    return tuned_values.with_tuned(words, config_directory())


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def plain(config: DictConfig) -> dict[str, Any]:
    """The cell as plain, resolved data.

    Raises Refused if a value is missing or refers to what is not there.
    """
    try:
        container = OmegaConf.to_container(without_hydra(config), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        words = [str(word) for word in config.hydra.overrides.task] if "hydra" in config else []
        raise Refused(one_line(error, words)) from error
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------- checks


def check(config: DictConfig) -> None:
    """Raises Refused, with the key, the value and what would do, if the configuration makes no sense.

    NotApplicable if every name and value is right, but they do not go together.
    """
    cell = plain(config)
    check_tuned(config)
    check_cell(cell, cell if _only_choices(config) else plain(base_of(config)))


def check_cell(cell: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """The part of ``check`` that looks at plain values; ``base`` is the cell's choices without values of the shell."""
    check_whole(cell, base)
    check_types(cell, base)
    try:
        check_applicability(cell)
        check_numbers(cell)
    except Refused as error:
        raise NotApplicable(str(error)) from error
    for key, values in tuning.space(cell).items():
        for value in values:
            try:
                tried = tuning.with_values(cell, {key: value, "tune.protocol": "off"})
                check_types(tried, base)
                check_numbers(tried)
            except Refused as error:
                raise Refused(f"method.search.{key}: {error}") from error


def choices_of(config: DictConfig) -> tuple[str, ...]:
    """The choices of groups that a configuration was composed from but tuned values, and where they were searched."""
    chosen = config.hydra.runtime.choices
    groups = [group for group in chosen if not group.startswith(("hydra/", "tuned"))]
    searched = [override for override in config.hydra.overrides.hydra if "hydra.searchpath" in override]
    untuned = ("tuned=off", "tuned/rule=off")  # a tuned value is of a type that the method may have others of: null
    return (*(f"{group}={chosen[group]}" for group in groups if chosen[group] is not None), *untuned, *searched)


def _only_choices(config: DictConfig) -> bool:
    """Whether the shell chose members and set no value, so that the configuration is its own base."""
    groups = config.hydra.runtime.choices
    return all(str(override).split("=", 1)[0] in groups for override in config.hydra.overrides.task)


def base_of(config: DictConfig) -> DictConfig:
    """The choices of a configuration without any value from the shell."""
    return config if _only_choices(config) and not _tuned_words(config) else base_configuration(choices_of(config))


@lru_cache(maxsize=1024)
def base_configuration(choices: tuple[str, ...]) -> DictConfig:
    """The same choices without any value from the shell: the source of each value's type."""
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(CONFIG_NAME, overrides=list(choices), run_mode=RunMode.RUN)


def check_tuned(config: DictConfig) -> None:
    """An optional default is dropped silently where its file is absent; a choice of the user must not be."""
    for override in _tuned_words(config):
        group, _, name = override.lstrip("+").partition("=")
        folder, _, option = f"{group}/{name}".rpartition("/")
        options = GlobalHydra.instance().config_loader().get_group_options(folder)
        if option not in options:
            raise Refused(f"{group}={name}: no such tuned values; {folder} has {', '.join(options) or 'none'}")


def _tuned_words(config: DictConfig) -> list[str]:
    return [str(word) for word in config.hydra.overrides.task if re.match(r"^\+{0,2}tuned(/rule)?=", str(word))]


def check_applicability(cell: Mapping[str, Any]) -> None:
    """Raises Refused if a need of a member is not met, saying which choices would meet it."""
    members = compatibility.members_of(cell)
    problems = compatibility.unmet(members)
    if problems:
        raise Refused(compatibility.explain_unmet(problems, members, catalogue()))


def check_numbers(cell: Mapping[str, Any]) -> None:
    """The one numeric check of a cell: what words cannot tell."""
    setting, benchmark = cell["setting"], cell["benchmark"]
    _check_contexts(setting, benchmark)
    _check_pretraining(cell)
    if {"prequential", "queries"} & set(setting["protocol"]) and not {"classification", "regression"} & set(
        benchmark["offers"]
    ):
        raise NotApplicable(
            f"setting.protocol={','.join(setting['protocol'])}: benchmark {benchmark['name']} has no classes"
        )
    if "prequential" in setting["protocol"] and "owns_loop" in cell["method"]["needs"]:
        raise NotApplicable(
            f"setting.protocol={','.join(setting['protocol'])}: method {cell['method']['name']} drives its own loop, "
            "and is not asked about a batch before it learns it; choose setting.protocol=[matrix]"
        )
    if cell["strategy"] == "tensor" and "splits" not in benchmark["offers"]:
        split = sorted(member.name for member in catalogue()["benchmark"] if "splits" in member.gives)
        raise Refused(
            f"strategy=tensor: benchmark {benchmark['name']} has no plan for splitting its layers ({', '.join(split)} "
            "have); ddp, fsdp and replicas take any"
        )
    check_request(cell["hardware"], options("hardware"))
    for what, most in cell["hardware"]["capacity"].items():
        asked = cell["hardware"][what]
        if most is not None and asked > most:
            name = cell["hardware"]["name"]
            raise Refused(f"hardware.{what}={asked}: {name} has {most} (hardware.capacity.{what})")
    for member in (setting, cell["method"]):
        if member.get("check"):
            target({"_target_": member["check"]})(cell)
    tuning.check(cell)
    if cell["mode"] == "projected":
        check_projection(cell["hardware"], cell["batch"])
    accelerator = will_be_accelerator(cell)
    for possible in (True, False) if accelerator is None else (accelerator,):
        resolve(cell, possible)


def _check_pretraining(cell: Mapping[str, Any]) -> None:
    """Training before the stream, where a value asks for it, needs room in the setting and classes of the benchmark."""
    if not cell["method"].get("pretraining"):
        return
    lacking = {
        "setting": ("pretraining", "has no phase before its stream"),
        "benchmark": ("meta_training", "keeps no classes for it"),
    }
    for axis, (need, lack) in lacking.items():
        one = compatibility.Member.read(axis, cell[axis])
        if need not in one.gives:
            others = sorted(member.name for member in catalogue()[axis] if need in member.gives)
            raise NotApplicable(
                f"method.pretraining=true: {axis} {one.name} {lack}; choose method.pretraining=false or "
                f"{axis}={','.join(others)}"
            )
    if (cell["benchmark"]["data"] or {}).get("train_classes") == 0:
        raise Refused(
            "benchmark.data.train_classes=0: no class is kept for training before the stream, which method "
            f"{cell['method']['name']} asks for (method.pretraining=true); keep as many as a context has, or more"
        )


def _check_contexts(setting: Mapping[str, Any], benchmark: Mapping[str, Any]) -> None:
    """Whether the data can be made into the setting's contexts, as far as its configuration tells."""
    split = setting.get("split")
    if "classification" not in benchmark["offers"]:
        where = f"benchmark {benchmark['name']} has no classes"
        if split in ("classes", "permutation", "rotation"):
            raise Refused(f"setting.split={split}: {where}; choose none, auto, domains or samples")
        if setting.get("rarest", 1.0) < 1:
            raise Refused(f"setting.rarest={setting['rarest']}: {where} that could be rare; choose 1.0")
    classes = (benchmark["data"] or {}).get("classes")
    if (split == "classes" or (split == "auto" and "domains" not in benchmark["offers"])) and classes is not None:
        contexts = setting["contexts"]
        if contexts > classes:
            raise Refused(
                f"setting.contexts={contexts}: {benchmark['name']} has {classes} classes, one context each at most"
            )
        if setting["outputs"] == "shared" and classes % contexts:
            raise Refused(
                f"setting.contexts={contexts}: {classes} classes do not divide into contexts of equal size, "
                "which shared outputs need"
            )
        order = setting["class_order"]
        if isinstance(order, str) and order not in ("seeded", "natural"):
            raise Refused(f"setting.class_order={order}: choose seeded, natural, or a list of the {classes} classes")
        if isinstance(order, list) and sorted(map(str, order)) != sorted(map(str, range(classes))):
            raise Refused(f"setting.class_order={order}: must name each of the classes 0 to {classes - 1} once")


# ------------------------------------------------------------------------------------------- catalogue


def options(group: str) -> list[str]:
    """The choices of a config group, without the shared parts (their names begin with an underscore)."""
    return list(_options(GlobalHydra.instance().config_loader().repository, group))  # type: ignore[attr-defined]


@lru_cache(maxsize=256)
def _options(repository: Any, group: str) -> tuple[str, ...]:
    """By repository, since another one may look elsewhere."""
    names = repository.get_group_options(group, ObjectType.CONFIG)
    return tuple(sorted(name for name in names if not name.startswith("_")))


def search_also(loader: ConfigLoader, words: Iterable[str]) -> None:
    """Lets globs, suites and the lists of choices see the folders that a ``hydra.searchpath=[...]`` names, too.

    Hydra itself looks there only while it composes.
    """
    searched = [word for word in words if word.startswith("hydra.searchpath=")]
    if searched:
        _, loader.repository = loader._parse_overrides_and_create_caching_repo(None, searched)  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def catalogue() -> dict[str, list[compatibility.Member]]:
    """All members of each axis, read from their YAML."""
    axes = (*compatibility.AXES, "method/rule")
    return {
        axis: [compatibility.Member.read(axis, own_values(f"{axis}/{name}")) for name in options(axis)] for axis in axes
    }


def own_values(path: str) -> dict[str, Any]:
    """The top level of one member's YAML over those that its defaults list names, without a cell around it."""
    own = raw(path)
    layers, folder = [], path.rpartition("/")[0]
    for default in own.get("defaults") or ():
        if default == "_self_":
            layers.append(own)
        elif isinstance(default, str):
            layers.append(own_values(default[1:] if default.startswith("/") else f"{folder}/{default}"))
    if own not in layers:
        layers.append(own)
    return {str(key): value for layer in layers for key, value in layer.items()}


@lru_cache(maxsize=1024)
def raw(path: str) -> dict[str, Any]:
    """One YAML file of the search path as it is written. OmegaConf's reader takes ten times as long."""
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    for source in repository.get_sources():
        file = Path(source.path) / f"{path}.yaml"
        if source.scheme() == "file" and file.is_file():
            return yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    loaded = repository.load_config(path)
    config = OmegaConf.to_container(loaded.config, resolve=False) if loaded else {}
    assert isinstance(config, dict)
    inherited = [
        default.path for default in (loaded.defaults_list if loaded else []) if isinstance(default, ConfigDefault)
    ]
    return {**config, "defaults": inherited}


# ------------------------------------------------------------------------------------------------ names


def identity(config: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """The part of a configuration that decides its result."""
    cell = plain(config) if isinstance(config, DictConfig) else json.loads(json.dumps(dict(config)))
    cell.pop("hydra", None)
    cell = {key: value for key, value in cell.items() if schema.USUAL.get(key, ...) != value}
    projected = cell["mode"] == "projected"
    for key in schema.NOT_IDENTITY if projected else (*schema.NOT_IDENTITY, *schema.PROJECTION):
        *path, last = key.split(".")
        node = cell
        for part in path:
            node = node.get(part, {})
        node.pop(last, None)
    if cell.get("tune", {}).get("protocol") == "off":
        cell["method"]["search"] = {}  # in which nothing is searched
    return cell


def cell_hash(config: Mapping[str, Any] | DictConfig) -> str:
    """12 hexadecimal digits that name the cell by what decides its result."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cell_name(config: Mapping[str, Any] | DictConfig) -> str:
    """The name of the cell's folder: the four axes, the rule if not the usual one, the seed, the hash."""
    cell = config
    words = [cell[axis]["name"] for axis in compatibility.AXES]
    rule = (cell["method"].get("rule") or {}).get("name")
    if rule not in (None, "none", "backprop"):
        words.append(rule)
    return "-".join([*words, f"seed{cell['seed']}", cell_hash(config)])


# ----------------------------------------------------------------------------------------------- errors


def one_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's and OmegaConf's errors in one line with the key, the value and the nearest valid name."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        choices = sorted(option for option in error.options if not option.startswith("_"))
        return f"{group}={name}: no such {group}; choose one of {', '.join(choices)}{nearest(name, choices)}"
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        empty = (word for word in overrides if re.fullmatch(r"[\w/]+=(null|[\d.]+|true|false)", word, re.IGNORECASE))
        return f"{next(empty, 'a group')}: a choice is a name"
    several = re.match(r"Ambiguous value for argument '([^=]*)=([^']*)'", str(error))
    if several:
        key, values = several.groups()
        return f"{key}={values}: several values are a sweep: add -m; as one list: {key}=[{values}]"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form key=value ({str(error).splitlines()[0]})"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first = " ".join(str(error).split("\n")[0].split())
    unknown = re.match(r"Could not override '([^']+)'", first)
    if first.startswith("Could not override ''"):
        return f"{next((o for o in overrides if o.startswith('=')), '=')}: not of the form key=value"
    no_group = re.match(r"Could not override '([^']+)'\. No match in the defaults list", first)
    if no_group:
        return f"{no_group[1]}: no such group{nearest(no_group[1], _groups())}"
    if unknown:
        key = unknown[1]
        value = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+~").startswith(f"{key}=")), None)
        said = key if value is None else f"{key}={value}"
        if key.startswith("method.search"):
            return f"{said}: the search space has no such key yet; +{said} adds a value of the method or a dotted key"
        if isinstance(cause, OmegaConfBaseException) and "not in struct" in str(cause):
            return f"{said}: no such key{nearest_key(key, _keys_near(overrides))}"
        return f"{said}: {str(cause).splitlines()[0]}"
    merging = re.match(r"Error merging override (.*)", first)
    if merging:
        return f"{merging[1]}: must be of the kind that it replaces, a list [...] or keys {{...}}"
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing:
        hidden = re.search(r"([\w/]+)=_\w+", " ".join(overrides))  # a part that members share
        return f"{hidden[0]}: no such {hidden[1]}" if hidden else f"{missing[1]}: needs a value"
    if "Error resolving interpolation '${method}/" in first:
        axis = re.search(r"~\S+|\w+=\[[^ ]*", " ".join(overrides))
        return f"{axis[0] if axis else 'benchmark, setting, method'}: a cell has one member of each axis, by name"
    return " ".join(part.strip() for part in str(error).splitlines()[:2] if part.strip())


def _groups() -> list[str]:
    try:
        return [group for group in base_configuration(()).hydra.runtime.choices if not group.startswith("hydra/")]
    except Exception:
        return []


def _keys_near(overrides: list[str]) -> list[str]:
    """All keys of the configuration that the choices among the overrides give."""
    groups = set(_groups())
    chosen = tuple(o for o in overrides if o.split("=", 1)[0] in groups and "," not in o)
    try:
        return list(flatten(plain(base_configuration(chosen))))
    except Exception:
        return []
