"""A graph: a graph convolution finds the two clubs that Zachary's karate club split into, from four members'."""

from itertools import pairwise

import networkx
import torch
from torch import nn


class GraphNetwork(nn.Module):
    """Classifies the nodes of one graph by ``depth`` rounds of messages: H <- ReLU(A H W), A the normalised edges."""

    def __init__(self, edges, depth, width):
        super().__init__()
        sizes = [len(edges), *[width] * depth]
        self.edges = edges
        self.rounds = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 2)

    def forward(self, nodes):
        """Returns scores [nodes, 2]."""
        for each in self.rounds:
            nodes = torch.relu(self.edges @ each(nodes))
        return self.head(nodes)


def train(trial):
    """Trains on four members, validates on half of the others, and tests on the rest."""
    club = networkx.karate_club_graph()
    labels = torch.tensor([int(club.nodes[member]["club"] == "Officer") for member in club])
    edges = torch.tensor(networkx.to_numpy_array(club, weight=None), dtype=torch.float32) + torch.eye(34)
    edges /= (edges.sum(0)[:, None] * edges.sum(1)).sqrt()
    known, val, test = torch.tensor([0, 1, 32, 33]), torch.arange(2, 17), torch.arange(17, 32)
    model = GraphNetwork(edges, trial["depth"], trial["width"])
    optimizer = torch.optim.Adam(model.parameters(), lr=trial["lr"])
    guidance = trial.guidance(model, batch_size=len(known))
    for _ in trial.epochs(model=model, optimizer=optimizer):
        loss = nn.functional.cross_entropy(model(torch.eye(34))[known], labels[known])
        optimizer.zero_grad()
        loss.backward()
        guidance.add_gradients()
        optimizer.step()
        with torch.no_grad():
            scores = model(torch.eye(34))
        trial.log(train_loss=loss)
        yield {
            "val_loss": nn.functional.cross_entropy(scores[val], labels[val]),
            **({"test_loss": nn.functional.cross_entropy(scores[test], labels[test])} if trial.is_confirming else {}),
        }
