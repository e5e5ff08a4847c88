"""The samplers and pruners that a study file can name. A sampler is one line here; it needs no other edit."""

from typing import TYPE_CHECKING, Literal, NamedTuple


class Sampler(NamedTuple):
    """The choice of a study's points."""

    optuna: str  # class in optuna.samplers; chooses each value that a waiting trial leaves open
    # The sequence of all points, drawn when the budget is enqueued, so that they depend on the seed alone (sobol: one
    # scrambled Sobol' sequence; grid: all points of the space, shuffled). None: the Optuna class chooses each point
    # when the trial is claimed.
    points: Literal["uniform", "sobol", "grid"] | None = None

    @property
    def learns(self) -> bool:
        """True if earlier trials change the points."""
        return self.points is None


SAMPLERS: dict[str, Sampler] = {
    "tpe": Sampler("TPESampler"),
    "random": Sampler("RandomSampler", points="uniform"),
    "qmc": Sampler("RandomSampler", points="sobol"),
    "gp": Sampler("GPSampler"),
    "grid": Sampler("RandomSampler", points="grid"),
}

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]  # the schema, the messages and the command line list the names from here


def get_sampler(name: str) -> Sampler:
    """Returns the entry of a sampler; that of an import path is one that learns."""
    return SAMPLERS.get(name) or Sampler(name)


PrunerName = Literal["none", "median", "successive_halving", "hyperband"]  # `sweep.study.pruners` builds them
