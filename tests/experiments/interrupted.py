"""A reproduction that is interrupted once, and goes on."""

from pathlib import Path
from typing import Any

import pytest

from thermojax.experiments.reproduction import Theory


def in_two_goes(theory: Theory, config: Any, out: Path) -> list[float]:
    """Stop as soon as a piece is kept, go on; what progress said after that."""
    kept = out.with_name(f"{out.name}.partial") / "checkpoint"

    def stop(fraction, note):
        if any(kept.glob("*.npz")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        theory.reproduce(config, out, progress=stop)
    assert not out.exists()
    said = []
    assert theory.resume(out, progress=lambda fraction, note: said.append(fraction)) == out
    return said
