"""`turnscope convert --probe`: a dictionary held against activations before anybody trusts it."""

from __future__ import annotations

from pathlib import Path

import index_support as support
import pytest

from turnscope.artifacts import ConfigError
from turnscope.cli.convert import convert


def test_the_probe_tells_a_sound_dictionary_from_a_spoiled_one(
    turn_world: support.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(turn_world.sae, out=tmp_path / "sound", probe=turn_world.activations)
    assert "explains something" in capsys.readouterr().err
    sae = support.identity()
    sae.w_dec_FD.data = -sae.w_dec_FD.data
    spoiled = support.save_sae(tmp_path / "spoiled", sae)
    convert(spoiled, out=tmp_path / "converted", probe=turn_world.activations)
    assert "explains less than nothing" in capsys.readouterr().err


def test_activations_of_another_width_are_refused(turn_world: support.World, tmp_path: Path) -> None:
    narrow = support.identity(width=5)
    with pytest.raises(ConfigError, match="has width 5, these activations"):
        convert(support.save_sae(tmp_path / "narrow", narrow), out=tmp_path / "out", probe=turn_world.activations)
