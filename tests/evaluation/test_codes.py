"""A dictionary's activations as one vector a turn, against the plainest loop."""

from __future__ import annotations

from pathlib import Path

import evaluation_support as support
import numpy as np
import pytest

from turnscope.artifacts import ConfigError, DataError, IntegrityError
from turnscope.evaluation.codes import DictionaryReader

ROWS = np.array([5, 0, 17, 3, 600, 599])


@pytest.mark.parametrize("pool", ["max", "mean", "sum"])
def test_token_codes_are_pooled_over_the_turn(world: support.World, pool: str) -> None:
    reader = DictionaryReader(world.activations[support.SITE], world.saes["token"], pool)  # type: ignore[arg-type]
    expected = []
    for row in ROWS:
        tokens = np.arange(reader.store.token_offsets[row], reader.store.token_offsets[row + 1])
        codes_TF = reader.sae.encode(reader.store.tokens_TD(tokens)).to_dense().numpy()
        assert len(codes_TF) > 1
        expected.append({"max": codes_TF.max(0), "mean": codes_TF.mean(0), "sum": codes_TF.sum(0)}[pool])
    np.testing.assert_allclose(reader.codes_NF(ROWS), expected, rtol=1e-4, atol=1e-4)


def test_turn_codes_are_those_of_the_means(world: support.World) -> None:
    reader = DictionaryReader(world.activations[support.SITE], world.saes["turn"])
    expected = reader.sae.encode(reader.store.mean_ND(ROWS)).to_dense().numpy()
    np.testing.assert_allclose(reader.codes_NF(ROWS), expected, rtol=1e-5, atol=1e-5)
    everything = reader.codes_NF(np.arange(len(reader.store)))  # more than one block
    np.testing.assert_allclose(everything[ROWS], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sae", ["turn", "token"])
def test_no_turns_give_no_rows(world: support.World, sae: str) -> None:
    reader = DictionaryReader(world.activations[support.SITE], world.saes[sae])
    none = np.zeros(0, np.int64)
    assert reader.codes_NF(none).shape == (0, support.FEATURES)
    assert reader.sample(none, 10, 0).shape == (0, reader.store.d_model)


def test_a_sample_is_of_the_turns_asked_for(world: support.World) -> None:
    reader = DictionaryReader(world.activations[support.SITE], world.saes["token"])
    offsets = reader.store.token_offsets
    whole = reader.sample(ROWS[:1], 10_000, 0).numpy()
    np.testing.assert_array_equal(whole, reader.store.tokens_TD(np.arange(offsets[5], offsets[6])))
    assert len(reader.sample(ROWS, 3, 0)) == 3


def test_another_site_is_refused(world: support.World) -> None:
    with pytest.raises(IntegrityError, match=r"site resid\.1, these have embed"):
        DictionaryReader(world.activations["embed"], world.saes["turn"])


def test_another_model_and_other_tokens_are_refused(
    world: support.World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from turnscope.harvest import harvest
    from turnscope.harvest.config import HarvestConfig
    from turnscope.training import TrainConfig
    from turnscope.training import run as train

    source = world.activations[support.SITE]
    sae = train(
        TrainConfig(source=source, out=tmp_path_factory.mktemp("sae") / "sae", n_features=16, k=4, n_samples=500)
    ).path
    DictionaryReader(source, sae)
    for name, settings in (("model", {"random_weights": True}), ("token_set", {"token_set": "all"})):
        out = tmp_path_factory.mktemp(name)
        plain = {"transcripts": world.transcripts, "model": str(world.model), "sites": (support.SITE,), "out": out}
        other = harvest.run(HarvestConfig.model_validate({**plain, **settings})).activations[support.SITE].path
        with pytest.raises(IntegrityError, match=f"other activations: {name} "):
            DictionaryReader(other, sae)


def test_a_token_dictionary_needs_tokens(world: support.World, tmp_path_factory: pytest.TempPathFactory) -> None:
    from turnscope.harvest import harvest
    from turnscope.harvest.config import HarvestConfig

    out = tmp_path_factory.mktemp("means")
    config = HarvestConfig(transcripts=world.transcripts, model=str(world.model), sites=(support.SITE,), out=out)
    means = harvest.run(config).activations[support.SITE].path
    with pytest.raises(DataError, match="turn means only"):
        DictionaryReader(means, world.saes["token"]).codes_NF(ROWS)


@pytest.fixture(scope="session", params=["shared", "decoupled"])
def nested(request: pytest.FixtureRequest, world: support.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from turnscope.training import TrainConfig
    from turnscope.training import run as train

    config = TrainConfig(
        source=world.activations[support.SITE], out=tmp_path_factory.mktemp("nested") / "sae", unit="nested",
        nested_form=request.param, n_features=24, turn_share=1 / 3, k=3, turn_k=2, n_samples=1500, batch_size=16,
    )  # fmt: skip
    return train(config).path


def test_each_block_of_a_nested_dictionary_is_read_as_it_was_trained(world: support.World, nested: Path) -> None:
    from turnscope.sae.nested import NestedSAE

    sae, source = NestedSAE.load(nested), world.activations[support.SITE]
    turn, token = DictionaryReader(source, nested), DictionaryReader(source, nested, block="token")
    assert (turn.unit, token.unit) == ("turn", "token")
    of_turns, of_tokens = [], []
    for row in ROWS:
        tokens = np.arange(turn.store.token_offsets[row], turn.store.token_offsets[row + 1])
        mean_ND = turn.store.mean_ND(np.array([row]))
        codes = sae.encode(turn.store.tokens_TD(tokens), np.array([len(tokens)]), mean_ND)
        of_turns.append(codes.turn.to_dense()[0].numpy())
        of_tokens.append(codes.token.to_dense().max(0).values.numpy())
    np.testing.assert_allclose(turn.codes_NF(ROWS), of_turns, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(token.codes_NF(ROWS), of_tokens, rtol=1e-4, atol=1e-4)
    assert np.stack(of_tokens).max() > 0


def test_a_token_block_is_judged_by_what_both_blocks_rebuild(world: support.World, nested: Path) -> None:
    from turnscope.sae.nested import NestedSAE

    reader = DictionaryReader(world.activations[support.SITE], nested, block="token")
    rows = np.arange(100)
    fit = reader.fit(rows, 10_000, 0)
    offsets, sae = reader.store.token_offsets, NestedSAE.load(nested)
    tokens_TD = reader.store.tokens_TD(np.arange(offsets[100]))
    lengths = np.diff(offsets[:101])
    codes = sae.encode(tokens_TD, lengths, reader.store.mean_ND(rows))
    miss = sae.decode_tokens(codes).double().numpy() - tokens_TD
    assert fit["nmse_raw"] == pytest.approx((miss**2).sum() / (tokens_TD.astype(float) ** 2).sum(), rel=1e-4)
    assert fit["l0"] == pytest.approx(codes.token.n_entries / len(tokens_TD))
    assert fit["rows"] == len(tokens_TD)
    assert reader.fit(rows, 50, 0)["rows"] <= 50


def test_a_flat_dictionary_has_no_blocks(world: support.World) -> None:
    with pytest.raises(ConfigError, match="not nested"):
        DictionaryReader(world.activations[support.SITE], world.saes["token"], block="token")
