"""Optuna's door: what to try next and when to stop, computed from the storage, the only source of truth.

No other folder of sweep imports Optuna.
"""
