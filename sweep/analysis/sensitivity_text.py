"""Renders a sensitivity analysis: one line on its reliability, sentences on what it found, and JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .formats import format_list, format_percent

if TYPE_CHECKING:
    from .sensitivity import Analysis, Index, Interaction
    from .sobol import Interval

# By whether hyperparameters depend on each other.
INDEX_COLUMNS = {False: ("alone (first order)", "with interactions (total)"), True: ("Shapley effect",)}
WIDE = 0.15  # half-width of an interval above which the interval is shown without its middle
SMALL = 0.05  # share of the variance below which an index is not mentioned
NOTABLE = 0.1  # total index above which a hyperparameter that does little alone is mentioned


def reliability(analysis: Analysis) -> str:
    """Returns one line: the trials that the indices rest on, and how well the surrogate predicts."""
    trials = f"Reliability: {_trials(analysis)}"
    if analysis.r2 is None:
        return f"{trials}."
    strength = "indicative, rely on the order of the indices and not on their size"
    if not analysis.trusted:
        strength = "too low to report indices"
    elif _sized(analysis):
        strength = "quantitative"
    of = f", of {analysis.explainable:.2f} that can be explained" if analysis.explainable is not None else ""
    bound = f", at least {max(0.0, analysis.r2_low):.2f} (90 % confidence)" if analysis.r2_low is not None else ""
    return f"{trials}; {analysis.surrogate}, cross-validated R2 {analysis.r2:.2f}{of}{bound}: {strength}."


def remarks(analysis: Analysis) -> list[str]:
    """Returns sentences on the scale, on influential trials and on a flaw of the design."""
    lines = []
    if analysis.scale is not None:
        lines.append(f"Of {analysis.objective} the logarithm is analysed: it is predicted better.")
    if (influence := analysis.influence) is not None:
        rest, one = influence.without, influence.count == 1
        of = f"{influence.count} of {analysis.n_uniform} uniform trials carr{'ies' if one else 'y'}"
        without = f"there are no indices: {rest.reason}"
        if rest.trusted:
            without = f"R2 {rest.r2:.2f}, {rest.strength}: {interpretation(rest)}"
        part = format_percent(influence.share)
        lines.append(f"Influence: {of} {part} of the variance. Without {'it' if one else 'them'}, {without}")
    if analysis.warning is not None:
        lines.append(f"Caution: {analysis.warning}.")
    return lines


def unexplained(analysis: Analysis) -> dict[str, float]:
    """Returns the shares of the variance that no hyperparameter explains; none if the shares are of a probability."""
    if analysis.r2 is None or analysis.outcome is not None:
        return {}
    rest, noise = min(1.0, max(0.0, 1 - analysis.r2)), 1 - (analysis.explainable or 0.0)
    if analysis.explainable is None:
        return {"not explained: noise, or what the surrogate cannot see": rest}
    return {"noise: one point on several seeds": noise, "what the surrogate cannot see": max(0.0, rest - noise)}


def _trials(analysis: Analysis) -> str:
    if analysis.share is not None:
        part = format_percent(analysis.share)
        return f"{analysis.share * analysis.n_full:.0f} of {analysis.n_full} uniform trials {analysis.outcome} ({part})"
    at = "" if analysis.epoch is None else f" at epoch {analysis.epoch}"
    space = "that part of the space" if analysis.where else "the space"
    reasons = ("pruned", "diverged", "collapsed", "failed", "without a value")
    gone = (analysis.n_pruned, analysis.n_diverged, analysis.n_collapsed, analysis.n_failed, analysis.n_missing)
    excluded = format_list([f"{n} {reason}" for n, reason in zip(gone, reasons, strict=True) if n])
    uniform = f"{analysis.n_uniform} of them uniform over {space}"
    rest = f"excluded: {excluded}" if excluded else "none excluded"
    return f"{analysis.n_full} trials{at}{_where(analysis)}, {uniform}, {rest}"


def _where(analysis: Analysis) -> str:
    return f" where {analysis.where}" if analysis.where else ""


def _sized(analysis: Analysis) -> bool:
    return analysis.strength == "quantitative"


def as_data(analysis: Analysis) -> dict[str, Any]:
    """Returns an analysis as JSON; a refused one has no ``parameters`` and no ``pairs``.

    The keys ``where``, ``influence``, ``divergence`` and ``collapse`` (analyses, too) are absent if there is none.
    """
    keys = ("study", "objective", "epoch", "trusted", "strength", "reason", "n_full", "n_uniform", "n_pruned")
    more = ("n_diverged", "n_collapsed", "r2", "r2_low", "explainable", "surrogate", "scale", "warning")
    data = {
        **{key: getattr(analysis, key) for key in (*keys, *more)},
        "unexplained": sum(unexplained(analysis).values()) if unexplained(analysis) else None,
        "parameters": {name: _as_data(index, analysis) for name, index in analysis.parameters.items()},
        "pairs": {"*".join(pair): asdict(together) for pair, together in analysis.pairs.items()},
    }
    if analysis.where is not None:
        data["where"] = analysis.where
    if (influence := analysis.influence) is not None:
        without = as_data(influence.without)
        data["influence"] = {"count": influence.count, "share": influence.share, "without": without}
    for name in ("divergence", "collapse"):
        if (second := getattr(analysis, name)) is not None:
            data[name] = as_data(second)
    return data


def _as_data(index: Index, analysis: Analysis) -> dict[str, Any]:
    return {"shapley": index.total, "shapley_ci": index.total_ci} if analysis.dependent else asdict(index)


def interpretation(analysis: Analysis) -> str:
    """Returns what explains the objective alone and what only in interactions, with sizes if they are reliable."""
    if not analysis.trusted:
        return f"No indices: {analysis.reason}"
    return "; ".join([_alone(analysis), *_together(analysis)]) + "."


def _alone(analysis: Analysis) -> str:
    scale = "" if analysis.scale is None else f"{analysis.scale} "
    variance = f"the variance of {scale}{analysis.objective}{_where(analysis)}"
    ranked = sorted(analysis.parameters.items(), key=lambda item: -item[1].first)
    strong = [(name, share(index.first, index.first_ci)) for name, index in ranked if index.first >= SMALL]
    if not strong:
        part = f"more than {format_percent(SMALL)}" if _sized(analysis) else "much"
        return f"no hyperparameter alone explains {part} of {variance}"
    (name, size), *others = strong
    if _sized(analysis):
        return f"{name} explains {size} of {variance}{''.join(f', {other} {part}' for other, part in others)}"
    return f"{name} explains the largest share of {variance}{''.join(f', then {other}' for other, _ in others)}"


def _together(analysis: Analysis) -> list[str]:
    pairs, clauses, said = notable_pairs(analysis), [], set[tuple[str, str]]()
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
        clauses.append(f"{format_list(idle)} hardly matter{'s' if len(idle) == 1 else ''}")
    if analysis.dependent:
        return [*clauses, "shares are Shapley effects, since constraints make hyperparameters depend on each other"]
    return clauses or (["interactions are small"] if len(analysis.parameters) > 1 else [])


def notable_pairs(analysis: Analysis) -> list[tuple[tuple[str, str], Interaction]]:
    """Returns the pairs whose interval excludes 0 after rounding to two digits, strongest first."""
    found = [(pair, together) for pair, together in analysis.pairs.items() if together.ci[0] >= 0.005]
    return sorted(found, key=lambda item: -item[1].value)


def share(value: float, ci: Interval) -> str:
    """Returns a share of the variance, ``62 %``; of a wide interval, the interval alone, ``40 to 80 %``."""
    low, high = ci
    return f"{100 * low:.0f} to {format_percent(high)}" if (high - low) / 2 > WIDE else format_percent(value)
