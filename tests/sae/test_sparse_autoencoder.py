"""The dictionary at inference, and its files: exact round trips and refusals."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError
from turnscope.sae import SAEConfig, SparseAutoencoder


def random_sae(d: int = 6, f: int = 20, k: int = 4, **more: Any) -> SparseAutoencoder:
    sae = SparseAutoencoder(SAEConfig(d_model=d, n_features=f, k=k, **more))
    torch.manual_seed(0)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn_like(parameter))
    sae.threshold_F.copy_(torch.linspace(-1.0, 2.0, f))
    sae.scale.fill_(1.7)
    return sae


def test_encode_and_decode_follow_the_formula() -> None:
    sae, x_ND = random_sae(), torch.randn(30, 6)
    pre_NF = (x_ND * 1.7 - sae.b_dec_D) @ sae.w_enc_DF + sae.b_enc_F
    z_NF = pre_NF * (pre_NF > torch.linspace(-1.0, 2.0, 20).clamp_min(0))
    assert torch.allclose(sae.encode(x_ND).to_dense(), z_NF, atol=1e-5)
    expected = (z_NF @ sae.w_dec_FD + sae.b_dec_D) / 1.7
    assert torch.allclose(sae(x_ND), expected, atol=1e-4)
    assert torch.allclose(sae(x_ND.numpy().astype(np.float64)), expected, atol=1e-4)


def test_top_k_dictionary_keeps_at_most_k() -> None:
    assert random_sae(architecture="topk").encode(torch.randn(30, 6)).l0_N().max() <= 4


def test_gradients_reach_the_input_when_asked_for() -> None:
    x_ND = torch.randn(3, 6, requires_grad=True)
    random_sae()(x_ND).sum().backward()
    assert x_ND.grad is not None
    assert torch.isfinite(x_ND.grad).all()


def test_refusals_name_the_trouble() -> None:
    sae = random_sae()
    with pytest.raises(ConfigError, match=r"\(rows, 6\)"):
        sae.encode(torch.randn(3, 7))
    x_ND = torch.randn(5, 6)
    x_ND[3, 2] = float("nan")
    with pytest.raises(DataError, match="row 3"):
        sae.encode(x_ND)
    with pytest.raises(ConfigError, match="greater than"):
        SparseAutoencoder(SAEConfig(d_model=2, n_features=3, k=4))
    with pytest.raises(ConfigError, match="dictionary of 20"):
        sae.decode(random_sae(f=21).encode(torch.randn(2, 6)))
    assert len(sae.encode(torch.zeros(0, 6))) == 0


def test_a_saved_dictionary_comes_back_exactly(tmp_path: Path) -> None:
    sae = random_sae(site="resid.3", roles=("user", "assistant"), unit="token", subject="tiny")
    sae.save(tmp_path)
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(first) == ["sae.json", "sae.safetensors"]
    loaded = SparseAutoencoder.load(tmp_path)
    assert loaded.config == sae.config
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    loaded.save(tmp_path)
    assert first == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path: Path, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def a_dtype(header: dict[str, Any]) -> None:
    header["b_enc_F"]["dtype"] = "F16"


def transposed(header: dict[str, Any]) -> None:
    header["w_dec_FD"]["shape"].reverse()


def an_overlap(header: dict[str, Any]) -> None:
    size = header["b_enc_F"]["data_offsets"][1] - header["b_enc_F"]["data_offsets"][0]
    header["b_enc_F"]["data_offsets"] = [4, 4 + size]


def beyond_the_file(header: dict[str, Any]) -> None:
    header["w_dec_FD"]["data_offsets"] = [0, 1 << 60]


def many_tensors(header: dict[str, Any]) -> None:
    header.update({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(9000)})


def another_name(header: dict[str, Any]) -> None:
    header["decoder.weight"] = header.pop("w_dec_FD")


def not_a_table(header: dict[str, Any]) -> None:
    header["scale"] = [1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (a_dtype, "b_enc_F.*F16"),
        (transposed, "w_dec_FD.*shape"),
        (an_overlap, "overlap|hole"),
        (beyond_the_file, "w_dec_FD.*offsets"),
        (many_tensors, "tensors"),
        (another_name, "w_dec_FD.*decoder.weight"),
        (not_a_table, "scale"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], None], words: str) -> None:
    random_sae().save(tmp_path)
    path = tmp_path / "sae.safetensors"
    header, body = split(path)
    damage(header)
    join(path, header, body)
    with pytest.raises(IntegrityError, match=words):
        SparseAutoencoder.load(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        *(struct.pack("<Q", length) + text for length, text in ((100 << 20, b"{}"), (2, b"[]"), (3, b"{{{"))),
    ],
)
def test_files_that_are_no_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    random_sae().save(tmp_path)
    (tmp_path / "sae.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError, match="header"):
        SparseAutoencoder.load(tmp_path)


def test_extra_bytes_at_the_end_are_refused(tmp_path: Path) -> None:
    random_sae().save(tmp_path)
    with (tmp_path / "sae.safetensors").open("ab") as file:
        file.write(b"1234")
    with pytest.raises(IntegrityError, match="file holds"):
        SparseAutoencoder.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    sae = random_sae()
    sae.w_enc_DF[2, 3] = value
    sae.save(tmp_path)
    with pytest.raises(IntegrityError, match="'w_enc_DF' holds NaN"):
        SparseAutoencoder.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "schema version"),
        ('{"schema_version": 3, "config": {}}', "schema version 3"),
        ('{"schema_version": 2, "config": {"d_model": 6, "n_features": 20, "k": 4, "kk": 1}}', "kk"),
        ('{"schema_version": 2, "config": {"d_model": 6, "n_features": 100000000000, "k": 4}}', "shape"),
    ],
)
def test_a_damaged_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    random_sae().save(tmp_path)
    (tmp_path / "sae.json").write_text(text)
    with pytest.raises(IntegrityError, match=words):
        SparseAutoencoder.load(tmp_path)


def test_a_folder_without_a_dictionary(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no dictionary here"):
        SparseAutoencoder.load(tmp_path)
    random_sae().save(tmp_path)
    (tmp_path / "sae.safetensors").unlink()
    with pytest.raises(StorageError, match="cannot read"):
        SparseAutoencoder.load(tmp_path)
