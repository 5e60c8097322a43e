"""Where to compute: what can be used, and what is chosen if nobody says."""

from __future__ import annotations

import torch

from sae.errors import FeaturebrushError


def usable(device: str | torch.device) -> torch.device:
    """The device, if it can be used here; else a `FeaturebrushError` that says why not."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FeaturebrushError(f"the device {str(device)!r} cannot be used here ({reason}); try 'cpu'") from error
    return found


def chosen(device: str | torch.device | None) -> torch.device:
    """``device`` if it is given and usable, else CUDA's if there is one, else the CPU."""
    return usable(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
