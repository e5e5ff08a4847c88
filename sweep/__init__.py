"""Entropy Sweep: Optuna decides, Ray executes, MLflow remembers. Start at `service.py`, or at the README."""
