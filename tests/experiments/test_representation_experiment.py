"""The experiments on representations put together: settings, and a small run by night."""

import json

import pytest

from tests.experiments.interrupted import in_two_goes
from tests.test_idx import write_set
from thermojax.experiments.representation import THEORY, RepresentationConfig
from thermojax.experiments.representation_data import DataConfig, Sizes
from thermojax.experiments.representation_exact import ExactConfig
from thermojax.experiments.representation_iso import IsoConfig
from thermojax.experiments.representation_surface import SurfaceConfig
from thermojax.experiments.representation_table import TableConfig
from thermojax.experiments.representation_transfer import TransferConfig

FEW = {"data": DataConfig(rows=200), "sizes": Sizes(hidden=(8,), latent=2, batch=32)}
SMALL = RepresentationConfig(
    draws=2,
    exact=ExactConfig(
        examples=60,
        codes=3,
        restarts=2,
        lam_end=0.48,
        points=3,
        free_points=2,
        place_codes=2,
        lams=(0.3, 1.0, 3.0),
        table=TableConfig(lams=(0.5, 1.0, 2.0), gams=(0.0, 0.5, 2.0), points=5, steps=(1, 4)),
    ),
    surface=SurfaceConfig(steps=20, samples=2, **FEW),
    iso=IsoConfig(pretraining=20, points=2, blocks=3, block_steps=2, samples=2, **FEW),
    transfer=TransferConfig(
        pretraining=20,
        points=2,
        blocks=3,
        short_blocks=3,
        block_steps=2,
        samples=2,
        pairs=20,
        pair_rows=20,
        **FEW,
    ),
)


@pytest.mark.nightly
def test_run_folder_is_complete(tmp_path):
    out = tmp_path / "run"
    said = in_two_goes(THEORY, SMALL, out)
    names = {path.name for path in out.iterdir()}
    assert names == {"config.json", "figures", "report.html", "result.npz", "summary.json"}
    facts = json.loads((out / "summary.json").read_text())
    assert sum(facts["verdicts"].values()) == len(facts["claims"]) > 20
    assert facts["draws"] == 2
    assert (out / "report.html").read_text().count("<img") == len(THEORY.page.captions)
    assert said == sorted(said)
    assert said[-1] == 1.0


def test_settings_are_checked():
    with pytest.raises(ValueError, match="draws=0"):
        RepresentationConfig(draws=0)
    with pytest.raises(ValueError, match="seed=-1"):
        RepresentationConfig(seed=-1)


def test_a_folder_is_read_before_anything_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        RepresentationConfig(mnist=tmp_path / "absent")
    write_set(tmp_path / "set", count=(4000, 10))
    (tmp_path / "set" / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0")
    with pytest.raises(ValueError, match="head promises"):
        RepresentationConfig(mnist=tmp_path / "set")


def test_networks_get_the_folder_and_the_sizes(tmp_path):
    write_set(tmp_path, count=(4000, 10))
    plain = RepresentationConfig()
    assert plain.of_networks(plain.iso) is plain.iso
    config = RepresentationConfig(mnist=tmp_path)
    part = config.of_networks(config.iso)
    assert part.data.folder == str(tmp_path)
    assert part.data.rows == part.rows == 2000
    assert part.sizes == Sizes()
    assert config.of_networks(config.surface).steps == config.surface.steps
    large = RepresentationConfig(mnist=tmp_path, device=True)
    assert large.of_networks(large.transfer).sizes.hidden == (512, 256)
    assert large.of_networks(large.transfer).data.rows is None
