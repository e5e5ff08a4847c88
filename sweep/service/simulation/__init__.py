"""Simulated studies, whose trials sleep: they measure what driver, storage and tracking server can carry."""
