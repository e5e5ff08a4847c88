"""What a sensitivity analysis says: in sentences how far to trust it and what it means, and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sensitivity import Analysis, Interaction, Interval


WIDE = 0.15  # half-width of an interval from which on its middle says little
SMALL = 0.05  # share of the variance that is not worth a word
NOTABLE = 0.1


def trust(analysis: Analysis) -> str:
    """One line: what the indices rest on, and how far they can be relied on."""
    trials = f"Trust: {_trials(analysis)}"
    if analysis.r2 is None:
        return f"{trials}."
    part = f"{percent(max(0.0, analysis.r2))} of the variance of uniform trials that it was not shown"
    return f"{trials}; a {analysis.surrogate} predicts {part} (R2 {analysis.r2:.2f}): {_verdict(analysis)}."


def _trials(analysis: Analysis) -> str:
    if analysis.share is not None:
        return f"{analysis.n_diverged} of {analysis.n_full} uniform trials diverged ({percent(analysis.share)})"
    at = "" if analysis.epoch is None else f" at epoch {analysis.epoch}"
    space = "that part of the space" if analysis.where else "the space"
    counts = {
        "pruned": analysis.n_pruned,
        "diverged": analysis.n_diverged,
        "failed": analysis.n_failed,
        "without a value": analysis.n_missing,
    }
    gone = listed([f"{n} {what}" for what, n in counts.items() if n]) or "none"
    uniform = f"{analysis.n_uniform} of them uniform over {space}"
    return f"{analysis.n_full} trials{at}{_where(analysis)}, {uniform}, left out {gone}"


def _where(analysis: Analysis) -> str:
    return f" where {analysis.where}" if analysis.where else ""


def as_data(analysis: Analysis) -> dict[str, Any]:
    """For JSON; the numbers of a refused analysis are missing, not wrong.

    ``where`` and ``divergence``, another analysis, are there only where there is one.
    """
    keys = ("study", "objective", "epoch", "trusted", "strength", "reason", "n_full", "n_uniform", "n_pruned")
    data = {
        **{key: getattr(analysis, key) for key in (*keys, "n_diverged", "r2", "surrogate")},
        "parameters": {name: asdict(index) for name, index in analysis.parameters.items()},
        "pairs": {"*".join(pair): asdict(together) for pair, together in analysis.pairs.items()},
    }
    if analysis.where is not None:
        data["where"] = analysis.where
    if analysis.divergence is not None:
        data["divergence"] = as_data(analysis.divergence)
    return data


def _verdict(analysis: Analysis) -> str:
    if not analysis.trusted:
        return "too little for indices"
    return "quantitative" if analysis.strength == "quantitative" else "indicative, rely on the order and not the size"


def meaning(analysis: Analysis) -> str:
    """What explains the objective alone, and what only together with others; sizes only where they are known."""
    if not analysis.trusted:
        return f"No indices: {analysis.reason}"
    ranked = sorted(analysis.parameters.items(), key=lambda item: -item[1].first)
    strong = [(name, share(i.first, i.first_ci)) for name, i in ranked if i.first >= SMALL]
    variance = f"the variance of {analysis.objective}{_where(analysis)}"
    if not strong:
        alone = f"no hyperparameter alone explains {'more than ' + percent(SMALL) if _sized(analysis) else 'much'}"
        alone += f" of {variance}"
    elif _sized(analysis):
        (name, size), *others = strong
        alone = f"{name} explains {size} of {variance}{''.join(f', {other} {part}' for other, part in others)}"
    else:
        (name, _), *others = strong
        alone = f"{name} explains the largest share of {variance}{''.join(f', then {other}' for other, _ in others)}"
    return "; ".join([alone, *_together(analysis)]) + "."


def _sized(analysis: Analysis) -> bool:
    return analysis.strength == "quantitative"


def _together(analysis: Analysis) -> list[str]:
    pairs, clauses, said = standing_out(analysis), [], set[tuple[str, str]]()
    for name, index in analysis.parameters.items():
        if index.first < SMALL and index.total >= NOTABLE and index.total_ci[0] >= SMALL:
            pair = next((pair for pair, _ in pairs if name in pair), None)
            partner = "several others" if pair is None else pair[1] if pair[0] == name else pair[0]
            degree = "only" if index.first_ci[1] <= WIDE else "mostly"
            clauses.append(f"{name} matters {degree} together with {partner}")
            said |= {pair} if pair else set()
    clauses += [
        f"{a} and {b} explain another {share(together.value, together.ci) if _sized(analysis) else 'part'} together"
        for (a, b), together in pairs
        if together.value >= SMALL and (a, b) not in said
    ]
    idle = [name for name, index in analysis.parameters.items() if index.total < SMALL and index.total_ci[1] <= WIDE]
    if idle:
        clauses.append(f"{listed(idle)} hardly matter{'s' if len(idle) == 1 else ''}")
    return clauses or (["interactions are small"] if len(analysis.parameters) > 1 else [])


def standing_out(analysis: Analysis) -> list[tuple[tuple[str, str], Interaction]]:
    """The pairs whose interval excludes 0, also when it is rounded to two digits, the strongest first."""
    found = [(pair, together) for pair, together in analysis.pairs.items() if together.ci[0] >= 0.005]
    return sorted(found, key=lambda item: -item[1].value)


def share(value: float, ci: Interval) -> str:
    """A share of the variance in words: its interval alone where that is wide."""
    low, high = ci
    return f"{100 * low:.0f} to {percent(high)}" if (high - low) / 2 > WIDE else percent(value)


def percent(value: float) -> str:
    """0.62 as 62 %."""
    return f"{100 * value:.0f} %"


def listed(words: Sequence[str]) -> str:
    """Words joined by commas and a last ``and``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
