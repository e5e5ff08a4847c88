"""Lightning trains the trial: scikit-learn's digits."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import sweep


class Classifier(lightning.LightningModule):
    """An MLP."""

    def __init__(self, width, lr):
        super().__init__()
        self.network, self.lr = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)), lr

    def training_step(self, batch, _):
        """Returns the loss of a batch."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, _, dataloader_idx=0):
        """Logs the loss of a batch."""
        name = ("val_loss", "test_loss")[dataloader_idx]
        self.log(name, self.training_step(batch, _), add_dataloader_idx=False, batch_size=len(batch[1]))

    def configure_optimizers(self):
        """Returns the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def train(trial):
    """Reports by a callback; in a pair of `sweep confirm` the test part is a second validation set."""
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    parts = [Subset(digits, rows) for rows in (range(1200), range(1200, 1500), range(1500, 1797))]
    callback = sweep.integrations.lightning.SweepCallback(trial, batch_size=32)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=trial.max_epochs, callbacks=[callback], enable_checkpointing=False, accelerator="auto", **quiet
    )
    judged = [DataLoader(part, batch_size=300) for part in parts[1 : 3 if trial.is_confirming else 2]]
    batches = DataLoader(parts[0], batch_size=32, shuffle=True)
    trainer.fit(Classifier(trial["width"], trial["lr"]), batches, judged, ckpt_path=callback.checkpoint)
