"""Target propagation: targets are what the feedback makes of the targets above (Bengio 2014; Lee et al. 2015)."""

from torch import Tensor

from fourfold.rules.targets import Pass
from fourfold.rules.vanilla_dtp import VanillaDTP


class TargetPropagation(VanillaDTP):
    """t_{n-1} = G(t_n), without the correction of vanilla_dtp; the feedback learns as it does there."""

    name = "target_propagation"

    def error_below(self, n: int, one: Pass, error: Tensor) -> Tensor:
        scale = self.beta * len(error)
        target = one.outputs.detach() - scale * error
        return (one.inputs - self.feedback[n](one.tape, target)) / scale
