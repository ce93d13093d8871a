"""The untrained model at work: forward passes, or text token by token."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.measure.tokens import TokenMarks
from fourfold.methods.interface import Method
from fourfold.settings.stream import Observation, View


class Inference(Method):
    """Runs the freshly initialised network.

    Where the benchmark generates, a step writes ``new_tokens`` tokens after each prompt, with a key-value cache, marks
    when each came, and counts what was really written; elsewhere a step is one forward pass, judged where the setting
    asks for predictions as it goes: what the network knows before it has learned anything.
    """

    def __init__(self, new_tokens: int) -> None:
        self.new_tokens = new_tokens

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        self.run = run
        self.benchmark = benchmark
        self.tokens = TokenMarks(run.meter.clock)
        self.network = run.engine.network(
            lambda device: benchmark.network(run.seed, device, outputs=view.outputs)
        ).eval()
        self.generates = "generates" in benchmark.facts

    @torch.no_grad()
    def learn(self, experience: Experience, run: Run) -> None:
        if not self.generates:
            super().learn(experience, run)
            return
        for step in experience:
            step.units = self.write(step.observation.inputs)
            run.tick(step, None)

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor | None:
        if prediction is None:
            self.predict(observation)
        return None

    def write(self, prompts: Tensor) -> float:
        """Writes after the prompts [batch, length]; returns the units of what was written, on all devices."""
        self.tokens.begin()
        with self.run.engine.autocast():
            written = self.network.generate(prompts, self.new_tokens, self.tokens.token)  # type: ignore[operator]
        return self.benchmark.generated_units(prompts, written) * self.run.engine.parts

    def predict(self, observation: Observation) -> Tensor:
        with self.run.engine.autocast():
            return self.network(observation.inputs)

    def series(self) -> dict[str, np.ndarray]:
        return self.tokens.series() if self.generates else {}
