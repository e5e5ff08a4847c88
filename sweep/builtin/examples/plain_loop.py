"""A plain PyTorch loop on a table, scikit-learn's diabetes; `table.py` is the same loop as a trial."""

from itertools import pairwise

import torch
from sklearn.datasets import load_diabetes
from torch import nn


def parts():
    """Returns inputs [N, 10] and targets [N, 1], standardised, of the parts for training, validation and test."""
    inputs, target = (torch.tensor(each, dtype=torch.float32) for each in load_diabetes(return_X_y=True))
    inputs, target = inputs / inputs.std(0), ((target - target.mean()) / target.std())[:, None]
    return [(inputs[rows], target[rows]) for rows in torch.arange(442).split([282, 80, 80])]


def network(depth, width):
    """Returns an MLP with ``depth`` hidden layers."""
    sizes = [10, *[width] * depth]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(width, 1))


def train():
    """Trains, and prints the validation error of each epoch."""
    (x, y), (x_val, y_val), _ = parts()
    model = network(depth=2, width=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(30):
        for batch in torch.randperm(len(x)).split(32):
            loss = nn.functional.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            val_mse = nn.functional.mse_loss(model(x_val), y_val)
        print(epoch, float(val_mse))


if __name__ == "__main__":
    train()
