"""A sequence: an LSTM reads scikit-learn's digits row by row."""

import torch
from sklearn.datasets import load_digits
from torch import nn


class Reader(nn.Module):
    """Classifies sequences [N, 8 rows, 8 pixels]."""

    def __init__(self, depth, width):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, width, num_layers=depth, batch_first=True), nn.Linear(width, 10)

    def forward(self, rows):
        """Returns scores [N, 10]."""
        return self.head(self.lstm(rows)[0][:, -1])


def train(trial):
    """Trains the reader with a learning rate that falls."""
    images, labels = load_digits(return_X_y=True)
    rows, labels = torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(labels)
    parts = {"train": slice(0, 1200), "val": slice(1200, 1500), "test": slice(1500, None)}
    model = Reader(trial["depth"], trial["width"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial["lr"], weight_decay=trial["weight_decay"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.max_epochs)
    guidance = trial.guidance(model, batch_size=64)
    for _ in trial.epochs(model=model, optimizer=optimizer, schedule=schedule):
        for batch in torch.randperm(1200).split(64):
            loss = nn.functional.cross_entropy(model(rows[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            guidance.add_gradients()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            right = {name: (model(rows[of]).argmax(1) == labels[of]).float().mean() for name, of in parts.items()}
        yield {f"{name}_accuracy": value for name, value in right.items() if name != "test" or trial.is_confirming}
