"""The commands, by what they do: run trials, or look at a study; `sweep.cli` puts them together."""
