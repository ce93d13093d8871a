"""From jobs to what is submitted: what each asks for, which share an array, which share an allocation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fourfold.errors import Refused
from fourfold.launch.jobs import Job

ARRAY_LIMIT = 1000  # Slurm's default MaxArraySize is 1001, and submitit does not look
# What hydra.launcher holds, as far as a wrong value would do harm: both ends included.
WHOLE_NUMBERS = {"cells_per_job": (1, 10_000), "array_parallelism": (1, 100_000), "signal_delay_s": (1, 86_400)}


def check_site(site: Mapping[str, Any]) -> None:
    """Raises Refused where a value of the launcher itself is not of its kind."""
    for key, (low, high) in WHOLE_NUMBERS.items():
        value = site.get(key, low)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Refused(f"hydra.launcher.{key}={value}: is not a whole number from {low} to {high}")


def grouped(jobs: Iterable[Job], key: Callable[[Job], Any]) -> list[list[Job]]:
    """Jobs of equal request together, in the order in which the requests first appear."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(repr(key(job)), []).append(job)
    return list(groups.values())


def packed(group: Sequence[Job], many: int) -> list[list[Job]]:
    """Neighbours together, at most ``many``, in as few packs as that allows; packs differ by one at most."""
    count = -(-len(group) // many)
    edges = [number * len(group) // count for number in range(count + 1)]
    return [list(group[edges[number] : edges[number + 1]]) for number in range(count)]


def arrays(packs: Sequence[list[Job]]) -> list[list[list[Job]]]:
    """The packs of a group in as many arrays as Slurm's longest makes necessary."""
    return [list(packs[at : at + ARRAY_LIMIT]) for at in range(0, len(packs), ARRAY_LIMIT)]


def cells_together(job: Job, site: Mapping[str, Any], longest: float | None) -> int:
    """How many cells like this one an allocation takes, one after the other.

    One, where it has several ranks or is not a cell of ours. Their time limits add up, to what the partition allows
    at most (``longest``: minutes, None if that is not known).
    """
    many = int(site.get("cells_per_job", 1))
    if many == 1 or ranks(job.request) > 1 or getattr(job.frozen, "folder", None) is None:
        return 1
    if longest is not None:
        many = min(many, int(longest // parameters_of(job, site)["timeout_min"]))
    return max(1, many)


def ranks(request: Mapping[str, Any]) -> int:
    return int(request.get("nodes", 1) * request.get("tasks_per_node", 1))


def parameters_of(job: Job, site: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters for a job. Raises Refused where Slurm would take its node back as soon as it begins."""
    found = slurm_parameters(job.request, site, job.timeout, requeue=job.requeues > 0)
    if found["slurm_signal_delay_s"] >= 60 * found["timeout_min"]:
        raise Refused(
            f"hydra.launcher.signal_delay_s={found['slurm_signal_delay_s']}: leaves nothing of "
            f"hardware.launcher.timeout_min={found['timeout_min']}, since a cell ends so many seconds before its limit"
        )
    return found


def slurm_parameters(
    request: Mapping[str, Any], site: Mapping[str, Any], timeout: float | None = None, requeue: bool = True
) -> dict[str, Any]:
    """submitit's parameters for a cell's request; where it names none, the site's partition, account, qos, constraint.

    ``timeout`` (seconds) shortens the request's time limit, never lengthens it: the cell ends itself at its
    timeout, so Slurm's limit, and the signal that comes before it, lie beyond that. ``requeue``: whether Slurm may
    queue the job again, whatever the site's default is.
    """
    minutes = request.get("timeout_min", 60)
    delay = site.get("signal_delay_s", 60)
    if timeout is not None:
        minutes = min(minutes, -(-int(timeout + delay) // 60) + 1)
    cores = request.get("cpus_per_task")
    srun = list(site.get("srun_args") or [])
    if cores:  # from Slurm 22.05 on, srun does not take sbatch's word for it
        srun.append(f"--cpus-per-task={cores}")
    if ranks(request) > 1:  # else the other ranks wait for a dead one
        srun.append("--kill-on-bad-exit=1")
    parameters = {
        "name": site.get("name", "fourfold"),
        "nodes": request.get("nodes", 1),
        "tasks_per_node": request.get("tasks_per_node", 1),
        "cpus_per_task": cores,
        "mem_gb": request.get("mem_gb"),
        "timeout_min": minutes,
        "slurm_gres": request.get("gres"),
        "slurm_setup": [*(site.get("setup") or []), *(request.get("setup") or [])] or None,
        "slurm_array_parallelism": site.get("array_parallelism", 256),
        "slurm_signal_delay_s": delay,
        "slurm_additional_parameters": {
            "requeue" if requeue else "no-requeue": True,
            **(site.get("additional_parameters") or {}),
        },
        "slurm_srun_args": srun or None,
    }
    for name in ("partition", "account", "qos", "constraint"):
        parameters[f"slurm_{name}"] = request.get(name) or site.get(name)
    return {key: value for key, value in parameters.items() if value is not None}
