"""A table, scikit-learn's diabetes: the loop of `plain_loop.py` as a trial."""

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


def train(trial):
    """Trains, and yields the validation error of each epoch."""
    (x, y), (x_val, y_val), (x_test, y_test) = parts()
    model = network(trial["depth"], trial["width"])
    optimizer = torch.optim.Adam(model.parameters(), lr=trial["lr"])
    guidance = trial.guidance(model, batch_size=32)
    for _ in trial.epochs(model=model, optimizer=optimizer):
        for batch in torch.randperm(len(x)).split(32):
            loss = nn.functional.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            guidance.add_gradients()
            optimizer.step()
        with torch.no_grad():
            val_mse = nn.functional.mse_loss(model(x_val), y_val)
            test_mse = nn.functional.mse_loss(model(x_test), y_test)
        yield {"val_mse": val_mse, "test_mse": test_mse} if trial.is_confirming else {"val_mse": val_mse}
