"""Servers as processes of their own, on loopback, started by the cell that asks them and ended with it."""

import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fourfold.errors import Failed, Unavailable
from fourfold.serving import MODEL

LOOPBACK = "127.0.0.1"
DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SILENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # no telemetry, no downloads


class Server:
    """A running server: where it is, and whether it still is."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def check(self) -> None:
        """Raises Failed, with the last line that the server said, if it has ended."""
        if self.process.poll() is not None:
            raise Failed(f"the server ended with status {self.process.returncode}: {last_line(self.log)}", "server")

    def wait(self, deadline: float) -> None:
        """Until it answers; ``deadline`` is of the monotonic clock. Raises Failed if it ends or the time is up."""
        while not healthy(self.url):
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"the server was not ready in time: {last_line(self.log)}", "timeout")
            time.sleep(0.2)


def present(server: str) -> None:
    """Raises Unavailable if the program of a server is not installed."""
    if server == "vllm" and importlib.util.find_spec("vllm") is None:
        raise Unavailable(
            "the package vllm is not installed: pip install 'fourfold[serving]'; "
            "method.server=transformers does without"
        )


@contextmanager
def serving(command: list[str], port: int) -> Iterator[Server]:
    """The server of a command, ended with all that it started when the block ends."""
    with tempfile.TemporaryDirectory(prefix="fourfold-server-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **SILENT},
                start_new_session=True,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        try:
            yield Server(f"http://{LOOPBACK}:{port}", process, log)
        finally:
            end(process)


def end_with_parent() -> None:
    """In the server's process: the kernel asks it to end when the cell's process is gone, however that went."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Ends the process and its children: asks first, kills later."""
    for one in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, one)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        if one is signal.SIGKILL:
            return


def command(
    server: str, folder: Path, port: int, precision: str, length: int, devices: int, seeded: int | None
) -> list[str]:
    """The words that start a server of the model in ``folder``.

    length: tokens of prompt and answer together; devices: that share the model; seeded: the seed of a fresh
    initialisation, None where the folder holds weights.
    """
    shared = ["--host", LOOPBACK, "--port", str(port), "--dtype", DTYPES[precision]]
    if server == "transformers":
        return [
            sys.executable, "-m", "fourfold.serving.reference", str(folder), *shared,
            *(() if seeded is None else ("--seed", str(seeded % 2**32))),
        ]  # fmt: skip
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *shared,
        "--served-model-name", MODEL, "--max-model-len", str(length), "--tensor-parallel-size", str(devices),
        *(() if seeded is None else ("--load-format", "dummy", "--seed", str(seeded % 2**32))),
    ]  # fmt: skip


def write_model(model: Any, folder: Path) -> None:
    """What a server needs to know of a model that it initialises itself: its configuration, a tokenizer of bytes."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    byte_tokenizer(model.config.vocab_size).save_pretrained(folder)


def byte_tokenizer(vocabulary: int) -> Any:
    """A tokenizer whose first 256 tokens are the bytes; the others are spelled by their number."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = [f"<0x{byte:02X}>" for byte in range(256)] + [f"<{token}>" for token in range(256, vocabulary)]
    made = Tokenizer(models.BPE(vocab={word: token for token, word in enumerate(words)}, merges=[], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
