"""The process that cells are forked from: what they all import is imported here once, and nothing else happens here.

    python -m fourfold.launch.forkserver FD '{"modules": [...], "avoid": [...]}'

FD is a socket of whole messages (JSON) to the launcher. It asks {"folder", "environment", "out", "err", "cores"}; the
answer is {"pid"} or {"error"}. The cell is forked twice, so that it becomes the launcher's own child (the launcher is a
"subreaper"): the launcher waits for it and ends it as it does any process, and cells outlive this one. What a cell had
to import besides it tells when it ends, and the next ones find it here.

A process of several threads must not be forked, nor one with a device context: ``state`` tells the launcher, which then
starts another without the modules that did it.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

MESSAGE = 1 << 20  # bytes, more than any message has


def main() -> None:
    """Serves until the launcher closes its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    asked = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load(asked["modules"], asked["avoid"])
    look_around()
    answer(control, state([]))
    here, cells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    learned: list[str] = []
    while True:
        ready, _, _ = select.select([here, control], [], [])
        if here in ready:
            learned = load(json.loads(here.recv(MESSAGE)), asked["avoid"])
            continue
        words = control.recv(MESSAGE)
        if not words:
            return
        spoiled = state(learned)
        if "spoiled" in spoiled:
            answer(control, spoiled)
            return
        answer(control, fork_twice(json.loads(words), control, here, cells))


def answer(control: socket.socket, words: dict[str, Any]) -> None:
    with suppress(OSError):  # the launcher is gone: so will be this process
        control.send(json.dumps(words).encode())


def load(modules: Iterable[str], avoid: Iterable[str]) -> list[str]:
    """Imports what can be imported, and returns what was new; a cell that needs the rest will say why it cannot."""
    avoided = set(avoid)
    new = [name for name in modules if name not in sys.modules and name not in avoided]
    for name in new:
        with suppress(Exception, SystemExit):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the collector of a cell does not copy the pages of all that it never touches
    return new


def look_around() -> None:
    """What each cell would find out for itself, and all the same: Hydra's plugins, the machine."""
    from hydra.core.plugins import Plugins

    Plugins.instance()
    if "fourfold.environment" in sys.modules:
        sys.modules["fourfold.environment"].machine()


def state(learned: list[str]) -> dict[str, Any]:
    """{"ready": true}, or {"spoiled": why, "modules": the last ones} where this process can be forked no more."""
    many = len(os.listdir("/proc/self/task"))
    torch = sys.modules.get("torch")
    if many > 1:
        return {"spoiled": f"{many} threads after importing", "modules": learned}
    if torch is not None and torch.cuda.is_initialized():
        return {"spoiled": "a device context after importing", "modules": learned}
    return {"ready": True}


def fork_twice(asked: dict[str, Any], control: socket.socket, here: socket.socket, cells: socket.socket) -> Any:
    """{"pid": of a new process, in a session of its own, that runs a submitit job}, or {"error": why there is none}."""
    reader, writer = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return {"error": error.strerror}
    if between == 0:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)
        os.setsid()
        os.write(writer, str(os.getpid()).encode())
        for end in (reader, writer, control.fileno(), here.fileno()):
            os.close(end)
        _end(_run(asked, cells))
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(between, 0)  # from here on the cell is the launcher's child
    return {"pid": int(text)} if text else {"error": "no memory for another process"}


def _run(asked: dict[str, Any], cells: socket.socket) -> int:
    """In the new process: becomes what a fresh interpreter would be, then runs the job. Returns its exit status."""
    try:
        before = set(sys.modules)
        _become(asked)
        from submitit.core.submission import process_job

        try:
            process_job(asked["folder"])
            return 0
        finally:
            with suppress(OSError, ValueError):
                cells.setblocking(False)
                names = [name for name in sys.modules if name not in before]
                if names:
                    cells.send(json.dumps(names).encode())
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


def _become(asked: dict[str, Any]) -> None:
    """Files, folder, environment, signals, cores, threads and unseeded generators as a process of its own has them."""
    for path, number in ((os.devnull, 0), (asked["out"], 1), (asked["err"], 2)):
        descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["submitit", asked["folder"]]
    if asked["cores"]:
        os.sched_setaffinity(0, asked["cores"])
    set_threads(os.environ.get("OMP_NUM_THREADS"))
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def set_threads(words: str | None) -> None:
    """Threads as a fresh process reads them from its environment; here the libraries have read another's."""
    count = int(words) if words and words.isdigit() else None
    if count is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    blas = os.environ.get("OPENBLAS_NUM_THREADS") or count or len(os.sched_getaffinity(0))
    if int(blas) > 1 and "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(int(blas), user_api="blas")


def _end(status: int) -> None:
    """What an interpreter does at its end, without taking apart all that is shared with the others."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are not daemons
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        status = status or 1
    finally:
        os._exit(status)


def possible() -> bool:
    """Whether cells can be forked here: Linux alone gives them to the launcher as its children."""
    return sys.platform == "linux" and Path("/proc/self/task").is_dir()


if __name__ == "__main__":
    main()
