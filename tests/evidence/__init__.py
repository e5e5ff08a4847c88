"""The evidence page: gathers what studies have found, draws it and writes ``losses/RESULTS.md`` (``make results``)."""
