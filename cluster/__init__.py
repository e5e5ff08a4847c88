"""How to reach machines: what knows of clusters and recipes, and nothing of sweeps."""
