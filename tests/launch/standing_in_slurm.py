"""Commands of Slurm for a machine without: jobs are processes of this machine, and all of them run at once.

Its first word is one of ``COMMANDS``; what it knows lies in the folder FAKE_SLURM.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = Path(os.environ.get("FAKE_SLURM", "/nowhere"))
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct")
NODES = "main|infinite|gpu:a100:2|a100|8|64000|4"


@contextmanager
def job(identity: str) -> Iterator[dict]:
    """What is known of a job, to be changed within the block."""
    with (HOME / identity).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}")
        yield known
        file.truncate(0)
        file.write(json.dumps(known))


def sbatch(script: str) -> None:
    number = 1 + len(list(HOME.glob("script-*")))
    text = Path(script).read_text()
    (HOME / f"script-{number}").write_text(text)
    array = re.search(r"--array='?0-(\d+)", text)
    for task in range(int(array[1]) + 1) if array else [None]:
        identity = str(number) if task is None else f"{number}_{task}"
        with job(identity) as known:
            known.update(state="PENDING", restarts=0, group=0, again=False)
        words = [sys.executable, __file__, "run", identity]
        quiet = subprocess.DEVNULL
        subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    print(f"Submitted batch job {number}")


def run(identity: str) -> None:
    """Runs a job, and once more whenever it is queued again."""
    number, _, task = identity.partition("_")
    while True:
        time.sleep(0.3)  # submitit moves what it has pickled only after sbatch
        with job(identity) as known:
            if known["state"] == "CANCELLED":
                return
            around = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "1"}
            if task:
                around |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task}
            if known["restarts"]:
                around["SLURM_RESTART_COUNT"] = str(known["restarts"])
            command = ["bash", str(HOME / f"script-{number}")]
            process = subprocess.Popen(command, env=os.environ | around, start_new_session=True)
            known.update(state="RUNNING", group=process.pid, again=False)
        status = process.wait()
        with job(identity) as known:
            if known["again"]:
                known.update(state="PENDING", restarts=known["restarts"] + 1)
                continue
            if known["state"] != "CANCELLED":
                known["state"] = "FAILED" if status else "COMPLETED"
            return


def srun(*words: str) -> None:
    """Becomes the command, with the files that are named for it."""
    rest, files = list(words), {}
    while rest[0].startswith("-"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            files[option] = rest.pop(0)
    names = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
    for number, option in ((1, "--output"), (2, "--error")):
        path = files[option]
        for mark, name in names.items():
            path = path.replace(mark, os.environ.get(name, ""))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.execvp(rest[0], rest)


def squeue(*words: str) -> None:
    asked = next(word for word in words if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
    paths = [path for one in asked for path in (*HOME.glob(one), *HOME.glob(f"{one}_*"))]
    for path in paths:
        with job(path.name) as known:
            print(known["state"] if "--format=%T" in words else f"{path.name}|{known['state']}")


def scontrol(verb: str, identity: str) -> None:
    """Only requeue, with notice of nothing."""
    assert verb == "requeue"
    with job(identity) as known:
        known["again"] = True
    end(known["group"])


def scancel(*words: str) -> None:
    """All of a job, or with --signal= its first process alone, as a cluster with control groups does."""
    signals = [word.removeprefix("--signal=") for word in words if word.startswith("--signal=")]
    for identity in (word for word in words if not word.startswith("-")):
        with job(identity) as known:
            if signals:
                os.kill(step_of(known["group"]), signal.Signals[f"SIG{signals[0]}"])
                continue
            known["state"] = "CANCELLED"
        end(known["group"])


def end(shell: int) -> None:
    """The processes of a job die, those that lead a session of their own, too; all but this one, where it is one."""
    import psutil

    if shell and psutil.pid_exists(shell):
        leader = psutil.Process(shell)
        for process in [*leader.children(recursive=True), leader]:
            if process.pid != os.getpid():
                process.kill()


def step_of(shell: int) -> int:
    import psutil

    return psutil.Process(shell).children()[0].pid


def sinfo(*_: str) -> None:
    print(NODES)


def sacct(*_: str) -> None:
    sys.exit(1)  # a cluster without accounting


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
