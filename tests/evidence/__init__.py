"""The evidence page: runs studies on guidance, keeps their results as JSON, and writes ``losses/RESULTS.md``."""
