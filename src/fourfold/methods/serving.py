"""Serving: what users of a server see. A step is one answered request; units are the tokens that were written."""

import queue
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.benchmarks.interface import Benchmark
from fourfold.benchmarks.libraries import library
from fourfold.errors import Failed, Refused
from fourfold.experience import Experience, Run
from fourfold.measure.tokens import token_series
from fourfold.methods.interface import Method
from fourfold.randomness import seed_of
from fourfold.serving import servers
from fourfold.serving.client import Answer, Load
from fourfold.settings.stream import View

PROMPTS = 1024  # different ones, sent again and again


class Serving(Method):
    """Starts a server of the benchmark's model on loopback and streams answers from it, many at once.

    Steps overlap: the time of one is from the end of the answer before it to its own, so that rates add up.
    """

    judged = False

    def __init__(
        self,
        server: str,
        new_tokens: int,
        concurrency: int,
        request_rate: float | None,
        first_token_within: float,
        token_gap_within: float,
    ) -> None:
        self.server, self.new_tokens = server, new_tokens
        self.concurrency, self.request_rate = concurrency, request_rate
        self.answers: list[Answer] = []

    def require(self) -> None:
        servers.present(self.server)
        library("aiohttp", "serving")

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        if run.engine.world > 1 and run.engine.alone:
            raise Refused(
                "strategy=replicas: of method=serving there is one server, which has all devices; leave it out"
            )
        self.benchmark, self.run = benchmark, run
        self.network = benchmark.network(run.seed, "meta")  # only to be described: the server has the real one

    def learn(self, experience: Experience, run: Run) -> None:
        if run.engine.rank > 0:
            return  # one server has all devices
        run.until.agree = None  # the others are not in this loop
        prompts = [one.inputs[0].tolist() for one in experience.sample(PROMPTS, "prompts", 1)]
        with ExitStack() as held:
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="fourfold-model-"))
            server = held.enter_context(servers.serving(*self.start(Path(folder), len(prompts[0]))))
            server.wait(run.until.deadline)
            load = held.enter_context(self.load(server.url, prompts))
            for step in experience:
                answer = self.next_answer(load, server)
                self.answers.append(answer)
                step.units = float(answer.tokens)
                run.tick(step, None)

    def load(self, url: str, prompts: list[list[int]]) -> Load:
        """The clients, ready to begin."""
        seed = seed_of(self.run.seed, "arrivals")
        return Load(url, prompts, self.new_tokens, self.concurrency, self.request_rate, seed)

    def start(self, folder: Path, prompt: int) -> tuple[list[str], int]:
        """The command of the server and its port; prompts have ``prompt`` tokens."""
        recipe, port, seeded = self.run.recipe, servers.free_port(), None
        if recipe.weights == "seeded":
            servers.write_model(self.network.model, folder)
            seeded = seed_of(self.run.seed, "network")
        else:
            folder = Path(self.benchmark.data_dir) / "weights" / recipe.weights
        length, devices = prompt + self.new_tokens, self.run.engine.world
        return servers.command(self.server, folder, port, recipe.precision, length, devices, seeded), port

    def next_answer(self, load: Load, server: servers.Server) -> Answer:
        """The next one that is done.

        Raises Failed if it is an error, if the server has ended, and once the cell's time is up.
        """
        while True:
            try:
                answer = load.answers.get(timeout=1.0)
                break
            except queue.Empty:
                server.check()
                if time.monotonic() > self.run.until.deadline:
                    raise Failed(f"not done after timeout={self.run.until.timeout:g} seconds", "timeout") from None
        if answer.error is not None:
            server.check()
            raise Failed(f"the server answered: {answer.error}", "server")
        return answer

    def series(self) -> dict[str, np.ndarray]:
        """Besides those of ``token_series``: request_seconds and mean_gap_seconds, one entry a request."""
        pieces = [np.asarray(answer.pieces) for answer in self.answers]
        gaps = [np.diff(own) for own in pieces]
        first = [own[0] - answer.asked for own, answer in zip(pieces, self.answers, strict=True)]
        return {
            **token_series(first, gaps),
            "request_seconds": np.asarray([answer.done - answer.asked for answer in self.answers]),
            "mean_gap_seconds": np.asarray([own.mean() if len(own) else 0.0 for own in gaps]),
        }
