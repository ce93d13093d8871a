"""Runs a kernel again and again."""

from typing import Any

from fourfold.benchmarks.interface import Benchmark
from fourfold.experience import Experience, Run
from fourfold.methods.interface import Method
from fourfold.settings.stream import View


class Execute(Method):
    """One call of the benchmark's kernel a step."""

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        self.kernel, self.work = benchmark.kernel(run.engine.device)  # type: ignore[attr-defined]

    def learn(self, experience: Experience, run: Run) -> None:
        for step in experience:
            self.kernel()
            step.units = self.work
            run.tick(step, None)
