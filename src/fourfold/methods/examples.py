"""What a user's own code may look like."""

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearClassifier(lightning.LightningModule):
    """An ordinary LightningModule, written without a thought of Fourfold."""

    def __init__(self, outputs: int, learning_rate: float) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))
        self.learning_rate = learning_rate

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        inputs, targets = batch
        loss = F.cross_entropy(self(inputs), targets)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)
