"""Reaches machines: connects to Ray, submits jobs, and renders the recipes that start a cluster.

Knows nothing of sweeps, and may import Ray only. Face: `connect.connected`, `jobs.submit_job`, `recipes.render_recipe`.
"""
