"""Files of a run: settings and results, complete or absent.

    runs/digits-001/
        config.json      settings, seed, versions, device, command line
        result.npz       every array
        summary.json     every number with its standard error and flags; NaN is null
        figures/*.png    pictures
        report.html      one page
        checkpoint/      state of the run, while it is needed

Every file takes its name only when all of it is there, so that a process may be killed at
any moment. `runfolder` does the same for the folder as a whole.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from thermojax.estimators.estimate import Flag
from thermojax.files import write_bytes, writing

__all__ = [
    "StoredResult",
    "flag_names",
    "read_result",
    "restored",
    "write_config",
    "write_result",
]

CURVE = ("log_z", "free_energy", "internal_energy", "entropy", "heat_capacity")


def _plain(value: Any) -> Any:
    """JSON-able copy; numbers that are not finite become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _write_json(path: Path, value: Any) -> Path:
    text = json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    return write_bytes(path, text + "\n")


# Settings and results


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_config(folder: Path, settings: Any, **more: Any) -> Path:
    """config.json: all settings, seed, versions, device, and `more` (command line, times)."""
    settings = _plain(settings)
    devices = jax.devices()
    content = {
        **more,
        "settings": settings,
        "seed": settings.get("seed"),
        "versions": {
            "python": platform.python_version(),
            **{
                p: _version(p) for p in ("thermojax", "jax", "jaxlib", "numpy", "flax", "optax")
            },
        },
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
    return _write_json(Path(folder) / "config.json", content)


def restored(kind: Any, plain: Mapping[str, Any]) -> Any:
    """Settings again from what `write_config` made of them.

    Lists are taken for tuples; settings within settings are of the class that makes their
    default.

    Args:
        kind: the class, a dataclass.
        plain: `settings` of a config.json.

    Raises:
        ValueError: names that the class does not have, or lacks; or values it refuses.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Rates:
        ...     values: tuple[float, ...] = (0.1,)
        >>> restored(Rates, {"values": [0.5, 0.25]})
        Rates(values=(0.5, 0.25))
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if set(fields) != set(plain):
        odd = ", ".join(sorted(set(fields) ^ set(plain)))
        raise ValueError(f"stored settings differ from those of this version ({odd})")
    values = {}
    for name, field in fields.items():
        inner, value = field.default_factory, plain[name]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            values[name] = restored(inner, value)
        else:
            values[name] = _tuples(value)
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class StoredResult(NamedTuple):
    """What a run folder holds; `arrays`, `summary`, `texts` as the experiment gave them.

    Attributes:
        arrays: name -> array.
        summary: JSON-able; NaN has become None.
        texts: name -> text.
        config: content of config.json, or {} without one.
    """

    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]
    texts: dict[str, str]
    config: dict[str, Any]


def flag_names(flags: int) -> list[str]:
    """Names of the raised flags.

    Example:
        >>> flag_names(3)
        ['LOW_ESS', 'HEAVY_TAIL']
    """
    return [str(flag.name) for flag in Flag if int(flags) & flag]


def _rows(arrays: Mapping[str, Any], beta: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """One record per temperature, each number with its standard error."""
    betas = np.asarray(arrays.get(beta, ()), float)
    rows: list[dict[str, Any]] = [
        {"beta": b, "temperature": 1 / b if b > 0 else None} for b in betas.tolist()
    ]
    for name in names:
        if name not in arrays:
            continue
        errors = arrays.get(f"{name}_stderr", np.full(np.shape(arrays[name]), np.nan))
        for row, value, stderr in zip(rows, arrays[name], errors, strict=True):
            row[name] = {"value": value, "stderr": stderr}
    if beta == "beta" and "flags" in arrays:
        for row, flags in zip(rows, np.asarray(arrays["flags"]).tolist(), strict=True):
            row.update(flags=flags, reasons=flag_names(flags), trusted=flags == 0)
    return rows


THERMOMETERS = tuple(
    f"{part}_{kind}"
    for part in ("whole", "layer")
    for kind in ("kinetic", "configurational", "virial")
)


def write_result(folder: Path, result: Any) -> tuple[Path, Path]:
    """result.npz and summary.json of a result with `arrays`, `summary` and `texts`.

    summary.json is the summary of the experiment plus `curve`, `prediction` and
    `thermometers`: one record per temperature with value, stderr and flags of each number.
    """
    arrays = {name: np.asarray(value) for name, value in result.arrays.items()}
    predictions = [
        f"{part}_{name}"
        for part in ("train", "test")
        for name in ("accuracy", "rmse", "log_loss")
    ]
    tables = {
        "curve": _rows(arrays, "beta", CURVE),
        "prediction": _rows(arrays, "predict_beta", predictions),
        "thermometers": _rows(arrays, "thermo_beta", THERMOMETERS),
    }
    npz = Path(folder) / "result.npz"
    with writing(npz) as file:
        np.savez_compressed(file, **arrays)  # ty: ignore[invalid-argument-type]
    content = {**result.summary, **tables, "texts": result.texts}
    return npz, _write_json(Path(folder) / "summary.json", content)


def read_result(folder: Path | str) -> StoredResult:
    """Read a run folder back.

    Raises:
        FileNotFoundError: no such folder, or no result in it.
        ValueError: a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the folder of a finished run")
    for name in ("result.npz", "summary.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}: give the folder of a finished run"
            )
    path = folder / "result.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        path = folder / "summary.json"
        summary = json.loads(path.read_text(encoding="utf-8"))
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: run the sweep again") from error
    return StoredResult(arrays, summary, summary.pop("texts", None) or {}, config)
