"""Reaches machines: connects to Ray, submits jobs, and renders the recipes that start a cluster. Imports Ray only."""
