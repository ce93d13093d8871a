"""What the partitions of a cluster offer, for a user whose request none of them takes."""

import subprocess

COLUMNS = ("partition", "gres", "features", "cpus", "memory", "nodes")
SINFO = ["sinfo", "--noheader", "--format=%R|%G|%f|%c|%m|%D"]


def offered() -> str:
    """One line: each partition with its kinds of nodes; empty where Slurm does not tell."""
    try:
        answer = subprocess.run(SINFO, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    rows = [line.strip().split("|") for line in answer.stdout.splitlines() if line.count("|") == len(COLUMNS) - 1]
    kinds: dict[str, list[str]] = {}
    for partition, gres, features, cpus, memory, nodes in rows:
        told = [f"gres={gres}", f"constraint={features}", f"{cpus} cores", f"{memory} MB"]
        kind = f"{nodes} x ({', '.join(word for word in told if not word.endswith('(null)'))})"
        kinds.setdefault(partition, []).append(kind)
    return "; ".join(f"partition={name}: {', '.join(dict.fromkeys(found))}" for name, found in kinds.items())
