"""The state of what a function of the user's own trains: of its objects, and of the shared random generators."""

import base64
import io
import random
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch

from ..config.errors import FunctionError


def has_state(value: object) -> bool:
    """Returns True if the state of an object can be read and restored."""
    own = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return own or isinstance(value, torch.Generator | np.random.Generator | MutableMapping)


def state_of(value: Any) -> Any:
    """Returns the state of an object that a function gave `TrialContext.epochs`."""
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.bit_generator.state if isinstance(value, np.random.Generator) else dict(value)


def set_state(value: Any, state: Any) -> None:
    """Restores what `state_of` returned."""
    if hasattr(value, "state_dict"):
        value.load_state_dict(state)
    elif isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    else:
        value.clear()
        value.update(state)


def random_states() -> dict[str, Any]:
    """Returns the states of the shared generators of Python, NumPy and torch (its GPUs' included)."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Restores what `random_states` returned."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def random_text() -> str:
    """Returns the states of the shared generators as a text, for `set_random_text` of another rank."""
    buffer = io.BytesIO()
    torch.save(random_states(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def set_random_text(text: str) -> None:
    """Gives the shared generators the states that they have on rank 0, whose GPU is the first one."""
    states = torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
    set_random_states(states)
    if states["cuda"]:
        torch.cuda.set_rng_state(states["cuda"][0])


def require_saveable(states: Mapping[str, Any]) -> None:
    """Raises FunctionError with the entry that keeps a state from being saved and read back."""
    if _is_saveable(states):
        return
    place: Any = states
    names = list[str]()
    while isinstance(place, Mapping | list | tuple) and not _is_saveable(place):
        entries = list(place.items() if isinstance(place, Mapping) else enumerate(place))
        bad = next(((name, each) for name, each in entries if not _is_saveable(each)), None)
        if bad is None:
            break
        names, place = [*names, str(bad[0])], bad[1]
    raise FunctionError(
        f"epochs({names[0] if names else ''}=...) cannot be saved: the entry {'.'.join(names[1:]) or 'itself'} is a "
        f"{type(place).__module__}.{type(place).__qualname__}; a state holds tensors, numbers, texts, lists and dicts"
    )


def _is_saveable(value: object) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 (pickle and torch have a dozen)
        return False
    return True


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds the shared generators of Python, NumPy and torch by a trial's seed and the number of an epoch."""
    seed_all((seed * 1_000_003 + epoch) % 2**32)


def seed_all(value: int) -> None:
    """Seeds the shared generators of Python, NumPy and torch."""
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 (the generator that other libraries share)
    torch.manual_seed(value)
