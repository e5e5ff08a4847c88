"""Checks before a run: loads a study, and finds what would make its trials fail, before any starts."""
