"""Serving: the client over real HTTP on loopback, against a plain server of the same protocol; what goes wrong."""

import importlib.util
import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from fourfold.errors import DONE, FAILED, UNAVAILABLE
from fourfold.metrics import figures
from fourfold.metrics.generation import serving_figures
from fourfold.record import read_series
from fourfold.serving import reference, servers
from fourfold.serving.client import Answer, Load, read_event, request

pytest.importorskip("aiohttp")
WORDS = ("benchmark=llama", "method=serving", "hardware=cpu", "tracking=off", "method.new_tokens=6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a server needs of a tiny Llama."""
    from fourfold.benchmarks.language import llama

    made = tmp_path_factory.mktemp("model")
    with torch.device("meta"):
        model = llama(vocabulary=300, hidden=16, intermediate=32, layers=1, heads=2, key_value_heads=1, positions=64,
                      rope_base=1e4, tied=True).model  # fmt: skip
    servers.write_model(model, made)
    return made


@pytest.fixture(scope="module")
def writer(folder) -> reference.Writer:
    return reference.Writer(folder, torch.float32, seed=3)


def listening(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def url(writer) -> Iterator[str]:
    yield from listening(reference.server(writer, "127.0.0.1", 0))


def post(url: str, content: dict) -> dict:
    asked = urllib.request.Request(f"{url}/v1/completions", json.dumps(content).encode())
    with urllib.request.urlopen(asked) as response:
        return json.loads(response.read())


def answers(url: str, count: int, concurrency: int = 2, rate: float | None = None) -> list[Answer]:
    with Load(url, [[1, 2, 3], [4, 5]], 5, concurrency, rate, seed=0) as load:
        return [load.answers.get(timeout=60) for _ in range(count)]


def test_every_token_is_streamed_counted_and_timed(url) -> None:
    found = answers(url, 6)
    for answer in found:
        assert answer.error is None
        assert answer.tokens == 5
        assert len(answer.pieces) == 5
        assert answer.asked < answer.pieces[0] <= answer.pieces[-1] <= answer.done
        assert answer.pieces == sorted(answer.pieces)


def test_what_is_streamed_is_what_the_model_writes(url, writer) -> None:
    whole = post(url, {**request([1, 2, 3], 4), "stream": False})
    written = list(writer.write([1, 2, 3], 4))
    assert whole["choices"][0]["text"] == writer.tokenizer.decode(written)
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    tokens = torch.tensor([[1, 2, 3]])
    for _ in range(4):  # without a cache
        tokens = torch.cat([tokens, writer.model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert tokens[0, 3:].tolist() == written


def test_a_byte_is_a_token(writer) -> None:
    text = "Grüße 1"
    assert writer.tokenizer.encode(text) == list(text.encode())
    assert writer.tokenizer.decode(list(text.encode())) == text


def test_at_most_so_many_requests_are_under_way() -> None:
    """A server that holds its answers back sees no more than ``concurrency`` of them."""
    inside, most, gate = [], [], threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inside.append(1)
            most.append(len(inside))
            if len(most) >= 3:
                gate.set()
            gate.wait(10)
            inside.pop()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'data: {"choices": [{}], "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n')

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    for at in listening(server):
        assert all(answer.tokens == 1 for answer in answers(at, 9, concurrency=3))
    assert max(most) == 3


def test_requests_arrive_at_the_asked_rate(url) -> None:
    found = answers(url, 30, concurrency=64, rate=100.0)
    gaps = np.diff(sorted(answer.asked for answer in found))
    assert 1 / 300 < gaps.mean() < 1 / 25


@pytest.mark.parametrize(
    ("line", "error", "tokens"),
    [
        (b'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 3}}', None, 3),
        (b'data: {"choices": [], "usage": {"completion_tokens": 4}}', None, 4),
        (b"data: [DONE]", None, 0),
        (b": a comment", None, 0),
        (b"data: {broken", "not JSON: {broken", 0),
        (b'data: {"error": {"message": "no memory"}}', "{'message': 'no memory'}", 0),
    ],
)
def test_an_event_says_what_it_says(line, error, tokens) -> None:
    answer = Answer(0.0)
    read_event(line, answer)
    assert (answer.error, answer.tokens) == (error, tokens)
    assert len(answer.pieces) == (1 if b'"a"' in line else 0)


def test_what_the_server_refuses_comes_back_in_one_line(url) -> None:
    with Load(url, [[999]], 5, 1, None, seed=0) as load:
        answer = load.answers.get(timeout=60)
    assert answer.error is not None
    assert answer.error.startswith("status 400:")
    assert "tokens from 0 to 299" in answer.error


def test_nobody_there_is_an_error_and_not_a_hang() -> None:
    answer = answers(f"http://127.0.0.1:{servers.free_port()}", 1)[0]
    assert answer.error is not None
    assert "ClientConnector" in answer.error


def test_goodput_by_hand() -> None:
    series = {
        "request_seconds": [1.0, 2.0, 3.0, 2.0],
        "first_token_seconds": [0.1, 0.9, 0.2, 0.3],
        "mean_gap_seconds": [0.01, 0.01, 0.2, 0.02],
        "step_seconds": [1.0, 1.0, 1.0, 1.0],
    }
    found = serving_figures(series, {"first_token_within": 0.5, "token_gap_within": 0.05})
    assert found["goodput"] == 0.5
    assert found["goodput_per_second"] == 0.5
    assert found["requests_per_second"] == 1.0
    assert found["request_seconds_p50"] == 2.0
    assert serving_figures({"step_seconds": [1.0]}, {}) == {}


def test_a_cell_serves_from_a_process_of_its_own_and_ends_it(run) -> None:
    record = run(*WORDS, "method.server=transformers", "method.concurrency=2", "until.steps=6")
    assert record.state == DONE, record.message
    assert record.measurements["units"] == 6 * 6
    found = figures(record, read_series(record.folder))
    assert 0 < found["first_token_seconds"] < found["request_seconds"]
    assert 0 <= found["goodput"] <= 1
    mine = [line.split()[3] for line in _processes() if "fourfold.serving.reference" in line]
    assert str(os.getpid()) not in mine


def _processes() -> list[str]:
    """stat and command of each process here; the fourth word is its parent's number."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/cmdline") as words:
                found.append(f"{stat.read().strip()} {words.read()}")
        except (OSError, NotADirectoryError):
            continue
    return found


def test_without_vllm_the_cell_is_unavailable(run) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    record = run(*WORDS)
    assert record.state == UNAVAILABLE
    assert record.message == (
        "the package vllm is not installed: pip install 'fourfold[serving]'; method.server=transformers does without"
    )


def test_a_server_that_ends_at_once_fails_the_cell_with_its_last_line(run, monkeypatch) -> None:
    words = ["python", "-c", "import sys; print('no such device'); sys.exit(3)"]
    monkeypatch.setattr(servers, "command", lambda *_: words)
    record = run(*WORDS, "method.server=transformers")
    assert (record.state, record.reason) == (FAILED, "server")
    assert record.message == "the server ended with status 3: no such device"


def test_a_server_that_never_answers_ends_with_the_cells_time(run, monkeypatch) -> None:
    monkeypatch.setattr(servers, "command", lambda *_: ["sleep", "600"])
    record = run(*WORDS, "method.server=transformers", "timeout=2")
    assert (record.state, record.reason) == (FAILED, "timeout")


def test_the_command_of_vllm_asks_for_loopback_and_all_devices(tmp_path) -> None:
    words = servers.command("vllm", tmp_path, 8123, "bf16", 384, 8, seeded=7)
    asked = dict(zip(words[3::2], words[4::2], strict=False))
    assert asked["--host"] == "127.0.0.1"
    assert asked["--tensor-parallel-size"] == "8"
    assert asked["--load-format"] == "dummy"
    assert asked["--max-model-len"] == "384"
    assert "--load-format" not in servers.command("vllm", tmp_path, 8123, "bf16", 384, 8, seeded=None)
