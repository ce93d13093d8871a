"""A LightningModule from elsewhere as a method."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.errors import Refused
from fourfold.experience import Run
from fourfold.members import target
from fourfold.methods.interface import Method
from fourfold.settings.stream import Observation, View


class LightningMethod(Method):
    """Drives a LightningModule's ``training_step``, ``configure_optimizers`` and ``forward`` with Fourfold's loop.

    ``module`` names the class by ``_target_``, with its arguments; ``outputs`` is given besides if it is null there.
    Its ``training_step`` is handed (inputs, targets) and returns the loss, or a dictionary that holds it under "loss".
    One optimizer is supported: a module that optimises by hand needs a loop of its own.
    """

    def __init__(self, module: Mapping[str, Any]) -> None:
        self.module = dict(module)

    def setup(self, benchmark: Benchmark, view: View, run: Run, rule: Any) -> None:
        make = target(self.module)
        arguments = {key: value for key, value in self.module.items() if key != "_target_"}
        if "outputs" in arguments and arguments["outputs"] is None:
            arguments["outputs"] = view.outputs
        self.engine = run.engine
        self.network = run.engine.network(lambda device: make(**arguments).to(device))
        self.optimizer = _single(self.network.configure_optimizers())  # type: ignore[operator]
        for name in ("log", "log_dict"):  # the meter keeps the loss; nothing else logs
            setattr(self.network, name, lambda *_, **__: None)
        self.steps = 0

    def observe(self, observation: Observation, prediction: Tensor | None = None) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with self.engine.phase("forward"), self.engine.autocast():
            result = self.network.training_step((observation.inputs, observation.targets), self.steps)  # type: ignore[operator]
        loss = result["loss"] if isinstance(result, Mapping) else result
        self.engine.backward(loss)
        with self.engine.phase("optimizer"):
            self.optimizer.step()
        self.steps += 1
        return loss.detach()

    def predict(self, observation: Observation) -> Tensor:
        with self.engine.autocast():
            return self.network(observation.inputs)

    def mode(self, training: bool) -> None:
        self.network.train(training)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def _single(configured: Any) -> Any:
    """The one optimizer of what ``configure_optimizers`` returned."""
    if isinstance(configured, Mapping):
        configured = configured["optimizer"]
    if isinstance(configured, list | tuple):
        if len(configured) != 1:
            raise Refused(f"the module configures {len(configured)} optimizers; one is supported here")
        configured = configured[0]
    return configured
