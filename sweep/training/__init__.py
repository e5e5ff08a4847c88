"""Trains one trial on a worker: the loop, its checkpoints, and the reports that the driver receives.

May import `data`, `config`, `losses` and `models`. The way in is ``trial.run_trial``; ``loop.fit`` trains.
"""
