"""The untrained model at work: forward passes, or text token by token."""

from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods.interface import Method
from fourfold.settings.stream import Observation, View


class Inference(Method):
    """Runs the freshly initialised network.

    Where the benchmark generates, a step writes ``new_tokens`` tokens after each prompt, with a key-value cache, and
    counts those; elsewhere a step is one forward pass.
    """

    def __init__(self, new_tokens: int) -> None:
        self.new_tokens = new_tokens

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        self.run = run
        self.network = run.engine.network(
            lambda device: benchmark.network(run.seed, device, outputs=view.outputs)
        ).eval()
        self.generates = "generates" in benchmark.facts

    @torch.no_grad()
    def learn(self, experience: Experience, run: Run) -> None:
        for step in experience:
            if self.generates:
                prompts = step.observation.inputs
                with run.engine.autocast():
                    self.network.generate(prompts, self.new_tokens)  # type: ignore[operator]
                step.units = float(len(prompts) * self.new_tokens * run.engine.world)
            else:
                self.predict(step.observation)
            run.tick(step, None)

    def predict(self, observation: Observation) -> Tensor:
        with self.run.engine.autocast():
            return self.network(observation.inputs)
