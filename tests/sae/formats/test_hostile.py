"""Files that lie, bombs, and sound dictionaries of another kind: refused by name, before anything is allocated."""

from __future__ import annotations

import io
import json
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from turnscope.artifacts import ConfigError, IntegrityError, StorageError, TurnscopeError
from turnscope.sae.formats import FORMATS, detect, read
from turnscope.sae.formats._source import Hints
from turnscope.sae.weights import Layout, read_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "foreign"
FOLDERS = {
    "saelens": "saelens/jumprelu",
    "sparsify": "sparsify/layers.3",
    "gemma-scope-2": "gemma_scope_2/gemma-scope-2-1b-it/resid_post/layer_3_width_16k_l0_small",
    "llama-scope": "llama_scope/R1-Distill/L3R",
}
WEIGHTS = {
    "saelens": ("sae_weights.safetensors", "W_enc", "W_dec"),
    "sparsify": ("sae.safetensors", "encoder.weight", "W_dec"),
    "gemma-scope-2": ("params.safetensors", "w_enc", "w_dec"),
    "llama-scope": ("sae_weights.safetensors", "encoder.weight", "decoder.weight"),
}


def copy(place: str, to: Path) -> Path:
    folder = to / Path(place).name
    shutil.copytree(GOLDEN / place, folder)
    return folder


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


# --- tensors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_that_contradict_each_other(name: str, tmp_path: Path) -> None:
    file, encoder, decoder = WEIGHTS[name]

    def transpose(tensors: dict[str, torch.Tensor]) -> None:
        tensors[decoder] = tensors[decoder].t()

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[encoder] = tensors[encoder][:, :-1]

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[encoder][1, 2] = float("nan")

    def lose(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[decoder]

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["surprise\x1b[31m"] = torch.zeros(2)

    def count(tensors: dict[str, torch.Tensor]) -> None:
        tensors[decoder] = tensors[decoder].to(torch.int8)

    for change, words in (
        (transpose, f"'{decoder}'.*it is transposed"), (cut, f"'{encoder}' has shape"),
        (spoil, f"'{encoder}' holds NaN"), (lose, f"missing: .*{decoder}"), (add, "not expected: .*surprise"),
        (count, f"'{decoder}' has no shape, or a dtype"),
    ):  # fmt: skip
        folder = copy(FOLDERS[name], tmp_path / change.__name__)
        rewrite(folder / file, change)
        with pytest.raises(IntegrityError, match=words):
            read(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = copy(FOLDERS["saelens"], tmp_path)
    before = read(folder)[1].sae

    def cast(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    rewrite(folder / "sae_weights.safetensors", cast)
    assert torch.allclose(read(folder)[1].sae.w_enc_DF, before.w_enc_DF, atol=1e-2)


def test_values_beyond_float32_are_named(tmp_path: Path) -> None:
    folder = copy(FOLDERS["saelens"], tmp_path)

    def swell(tensors: dict[str, torch.Tensor]) -> None:
        tensors["b_dec"] = tensors["b_dec"].double() * 1e60

    rewrite(folder / "sae_weights.safetensors", swell)
    with pytest.raises(IntegrityError, match="'b_dec' holds NaN or infinite"):
        read(folder)


def header(path: Path, entries: Any, body: bytes = b"") -> None:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


HUGE = 1 << 40
BOMBS: dict[str, Any] = {
    "a width of 2^40": {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in {
            "b_dec": [16], "b_enc": [HUGE], "threshold": [HUGE], "W_enc": [16, HUGE], "W_dec": [HUGE, 16],
        }.items()
    },
    "offsets far off": {"b_dec": {"dtype": "F32", "shape": [16], "data_offsets": [0, HUGE]}},
    "negative sizes": {"b_dec": {"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]}},
    "sizes that are no numbers": {"b_dec": {"dtype": "F32", "shape": [True, 1e3], "data_offsets": [0, 64]}},
    "a hundred thousand tensors": {
        f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(9000)
    },
    "deep nesting": b"[" * 200_000,
    "a string": "W_enc",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_header_bombs(bomb: str, tmp_path: Path) -> None:
    folder = copy(FOLDERS["saelens"], tmp_path)
    header(folder / "sae_weights.safetensors", BOMBS[bomb])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError, match="is refused"):
        read(folder)
    (folder / "sae_weights.safetensors").write_bytes(struct.pack("<Q", 100 << 20) + b"{}")
    with pytest.raises(IntegrityError, match="header"):
        read(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # kB


# --- configs -------------------------------------------------------------------------------------------------


def config(folder: Path, **changes: Any) -> None:
    path = folder / ("cfg.json" if (folder / "cfg.json").exists() else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


REFUSED: list[tuple[str, dict[str, Any], type[TurnscopeError], str]] = [
    ("saelens/jumprelu", {"normalize_activations": "layer_norm"}, ConfigError, "'layer_norm'.*each input"),
    ("saelens/jumprelu", {"normalize_activations": "constant_norm_rescale"}, ConfigError, "divides each input"),
    ("saelens/jumprelu", {"normalize_activations": "covariance_whitening"}, ConfigError, "whitening"),
    ("saelens/jumprelu", {"normalize_activations": ["none"]}, ConfigError, "not known"),
    ("saelens/jumprelu", {"normalize_activations": "expected_average_only_in"}, ConfigError, "by how much"),
    *[
        ("saelens/jumprelu", {"architecture": name}, ConfigError, f"'{name}' cannot be converted")
        for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "temporal", "matching_pursuit", "abstopk")
    ],
    ("saelens/jumprelu", {"architecture": "x\n\x1b[2J" * 500}, ConfigError, "cannot be converted"),
    ("saelens/standard", {"activation_fn": "tanh-relu"}, ConfigError, "'tanh-relu'"),
    ("saelens/jumprelu", {"d_in": 17}, IntegrityError, r"'W_enc' has shape|'b_dec' has shape \[16\], expected \(D=17"),
    ("saelens/jumprelu", {"d_sae": "32"}, IntegrityError, "d_sae is '32'"),
    ("saelens/jumprelu", {"d_sae": True}, IntegrityError, "d_sae is True"),
    ("saelens/jumprelu", {"apply_b_dec_to_input": 1}, IntegrityError, "expected true or false"),
    ("saelens/topk", {"k": 0}, ConfigError, r"\(k\)"),
    ("saelens/topk", {"k": -3}, IntegrityError, "k is -3"),
    ("saelens/topk", {"k": 33}, IntegrityError, "k = 33 is greater than the 32"),
    ("sparsify/layers.3", {"k": 10**30}, IntegrityError, "greater than the 32"),
    ("refused/sparsify_groupmax", {}, ConfigError, "'groupmax' cannot be converted"),
    ("refused/sparsify_skip", {}, ConfigError, "skip connection cannot be converted"),
    ("refused/sparsify_transcode", {}, ConfigError, "transcoder cannot be converted"),
    ("llama_scope/R1-Distill/L3R", {"norm_activation": "token-wise"}, ConfigError, "'token-wise'"),
    ("llama_scope/R1-Distill/L3R", {"hook_point_out": "blocks.3.hook_mlp_out"}, ConfigError, "transcoder"),
    ("llama_scope/R1-Distill/L3R", {"use_glu_encoder": True}, ConfigError, "GLU"),
    ("llama_scope/R1-Distill/L3R", {"act_fn": "softmax"}, ConfigError, "'softmax'"),
    ("llama_scope/R1-Distill/L3R", {"hook_point_in": "blocks.9.hook_resid_post", "hook_point_out": ""},
     ConfigError, "no file says what that is"),
    ("dictionary_learning/GatedAutoEncoder", {"trainer": {"dict_class": "CrossCoder"}}, ConfigError, "'CrossCoder'"),
    ("dictionary_learning/GatedAutoEncoder", {"trainer": {"dict_class": "AutoEncoder"}}, IntegrityError, "missing"),
    ("dictionary_learning/BatchTopKSAE", {"trainer": {"dict_class": "BatchTopKSAE", "k": 6}}, IntegrityError,
     "says k = 6"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "changes", "error", "words"), REFUSED)
def test_what_cannot_be_folded_is_refused_by_name(
    place: str, changes: dict[str, Any], error: type[TurnscopeError], words: str, tmp_path: Path
) -> None:
    folder = copy(place, tmp_path)
    config(folder, **changes)
    with pytest.raises(error, match=words):
        read(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 200_000, b" " * (2 << 20)])
def test_configs_that_are_no_configs(text: bytes, tmp_path: Path) -> None:
    folder = copy("saelens/topk", tmp_path)
    (folder / "cfg.json").write_bytes(text)
    with pytest.raises(IntegrityError, match=r"cfg\.json"):
        read(folder)


def test_an_input_scale_that_only_the_caller_knows(tmp_path: Path) -> None:
    folder = copy("saelens/norm", tmp_path)
    truth = load_file(folder / "expected.safetensors")
    (folder / "activation_scaler.json").unlink()
    sae = read(folder, None, Hints(input_scale=0.37))[1].sae
    assert torch.allclose(sae(truth["x"]), truth["x_hat"], rtol=1e-5, atol=1e-5)


def test_codes_that_old_releases_scaled_before_decoding(tmp_path: Path) -> None:
    """SAELens before version 6: x_hat = (z * factor) @ W_dec + b_dec where finetuning_scaling_factor is set."""
    folder = copy("saelens/before_6_standard", tmp_path)
    truth = load_file(folder / "expected.safetensors")
    weights = load_file(folder / "sae_weights.safetensors")
    factor_F = torch.linspace(0.5, 2, 32)

    def scale(tensors: dict[str, torch.Tensor]) -> None:
        tensors["scaling_factor"] = factor_F

    rewrite(folder / "sae_weights.safetensors", scale)
    with pytest.raises(IntegrityError, match="finetuning_scaling_factor is not set"):
        read(folder)
    config(folder, finetuning_scaling_factor=True)
    sae = read(folder)[1].sae
    assert torch.allclose(sae.encode(truth["x"]).to_dense(), truth["z"], rtol=1e-5, atol=1e-5)
    x_hat_ND = (truth["z"] * factor_F) @ weights["W_dec"] + weights["b_dec"]
    assert torch.allclose(sae(truth["x"]), x_hat_ND, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_batchtopk_rescales_unless_told_otherwise(tmp_path: Path) -> None:
    """The default of its own config class."""
    folder = copy("saelens/batchtopk_checkpoint", tmp_path)
    path = folder / "cfg.json"
    fields = json.loads(path.read_text())
    assert fields.pop("rescale_acts_by_decoder_norm") is True
    path.write_text(json.dumps(fields))
    truth = load_file(folder / "expected.safetensors")
    assert torch.allclose(read(folder)[1].sae(truth["x"]), truth["x_hat"], rtol=1e-5, atol=1e-5)


# --- archives ------------------------------------------------------------------------------------------------


def npz(path: Path, **changes: Any) -> None:
    source = GOLDEN / "gemma_scope/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7/params.npz"
    arrays = dict(np.load(source)) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def replace_member(path: Path, name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members[name] = data
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def npy(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue() + data


def test_hostile_npz(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"

    def refused(words: str) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(IntegrityError, match=words):
            read(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10

    npz(path, W_dec=np.array([{"a": 1}], dtype=object))
    refused("object, expected floats")
    npz(path, W_dec=np.zeros((16, 32), np.float32))
    refused("it is transposed")
    npz(path, W_enc=np.full((16, 32), np.inf, np.float32))
    refused("'w_enc' holds NaN")
    npz(path, threshold=None)
    refused("missing: .*threshold")
    npz(path, w_enc=np.zeros((16, 32), np.float32))
    refused("same name")
    npz(path)
    replace_member(path, "W_dec.npy", npy((1 << 40, 16)))
    refused("which is not its size")
    npz(path)
    replace_member(path, "W_dec.npy", npy((1 << 20, 64), bytes(256 << 20)), zipfile.ZIP_DEFLATED)
    refused("far more than the file")
    path.write_bytes(path.read_bytes()[:100])
    refused("no sound")


# Its globals are harmless, but are none that plain tensors need: torch's restricted unpickler must stop at them.
EVIL = b"cbuiltins\nprint\n(S'run'\ntR."


def pt(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def test_hostile_pickles(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copy("dictionary_learning/AutoEncoder", tmp_path)
    path = folder / "ae.pt"
    sound = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    (pickled,) = [name for name in records if name.endswith(".pkl")]

    def refused(words: str) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(IntegrityError, match=words):
            read(folder)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10

    pt(path, {**records, pickled: EVIL})
    refused("holds more than plain tensors")
    assert "run" not in "".join(capfd.readouterr())
    path.write_bytes(EVIL)  # the layout of torch before 1.6, and of any other pickle
    refused("no archive of torch")
    pt(path, records, zipfile.ZIP_DEFLATED)
    refused("compressed")
    pt(path, {**records, pickled: bytes(2 << 20)})
    refused("too large a pickle")
    pt(path, {name: data for name, data in records.items() if name != pickled})
    refused("0 of them pickled")
    # sizes in the pickle that the file does not hold: 32 x 16 made 32 x 2^24
    size = b"K K\x10\x86"
    assert size in records[pickled]
    pt(path, {**records, pickled: records[pickled].replace(size, b"K J\x00\x00\x00\x01\x86")})
    refused("more bytes than the file has|damaged")
    path.write_bytes(sound[: len(sound) // 2])
    refused("no archive|damaged")
    path.write_bytes(sound)
    read(folder)


# --- what is there -------------------------------------------------------------------------------------------


def test_places(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing here"):
        detect(tmp_path / "none")
    with pytest.raises(ConfigError, match="no dictionary of a known format"):
        detect(tmp_path)
    with pytest.raises(ConfigError, match=r"holds 2 dictionaries \(expansion, layers.3\)"):
        detect(GOLDEN / "sparsify")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="no dictionary of a known format"):
        detect(tmp_path / "notes.txt")
    with pytest.raises(StorageError, match=r"cfg\.json"):
        read(tmp_path, "saelens")
    with pytest.raises(ConfigError, match="no such format"):
        read(tmp_path, "onnx")
    weights = GOLDEN / "saelens" / "topk" / "sae_weights.safetensors"
    assert read(weights)[0] == "saelens"  # a file of a folder stands for it


def test_classes_that_tensors_do_not_tell_apart(tmp_path: Path) -> None:
    for name, told in (("GatedAutoEncoder", True), ("AutoEncoder", True), ("MatryoshkaBatchTopKSAE", True),
                       ("JumpReluAutoEncoder", True), ("BatchTopKSAE", False), ("AutoEncoderTopK", False)):  # fmt: skip
        folder = copy(f"dictionary_learning/{name}", tmp_path)
        with_config = read(folder)[1].sae
        (folder / "config.json").unlink()
        if told:
            without = read(folder / "ae.pt")[1].sae
            assert without.config.architecture == with_config.config.architecture
            assert torch.equal(without.w_enc_DF, with_config.w_enc_DF)
        else:
            with pytest.raises(ConfigError, match="must name its class"):
                read(folder)


# --- what libraries beneath refuse in their own way ------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__": {"x": 1}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"__metadata__": {"x": NaN}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'.encode("utf-16"),
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [false, 8]}}',
    ],
)
def test_headers_that_only_safetensors_refuses(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(IntegrityError, match="not one of safetensors"):
        read_weights(path, Layout({"a": ("F32", (2,))}))


def archive(folder: Path) -> Path:
    rng, path = np.random.default_rng(0), folder / "params.npz"
    shapes = {"b_dec": (8,), "b_enc": (20,), "threshold": (20,), "W_enc": (8, 20), "W_dec": (20, 8)}
    arrays: dict[str, Any] = {name: rng.random(shape).astype("f4") for name, shape in shapes.items()}
    np.savez_compressed(path, **arrays)
    return path


def test_a_flipped_byte_in_a_compressed_archive(tmp_path: Path) -> None:
    path = archive(tmp_path)
    sound, refused = path.read_bytes(), 0
    for place in range(0, len(sound), 29):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 255]) + sound[place + 1 :])
        try:
            read(tmp_path)
        except TurnscopeError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("header", ["{'a': (", "'''", "  x\n y\n  z"])
def test_array_headers_that_are_no_python(header: str, tmp_path: Path) -> None:
    path, text = archive(tmp_path), header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as zipped:
        for name in ("b_dec", "b_enc", "threshold", "W_enc", "W_dec"):
            zipped.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(32))
    with pytest.raises(IntegrityError, match="no sound"):
        read(tmp_path)


@pytest.mark.parametrize("odd", [torch.zeros(8, 20).to_sparse(), torch.zeros(8, 20, dtype=torch.complex64)])
def test_pickled_tensors_that_are_no_plain_numbers(odd: torch.Tensor, tmp_path: Path) -> None:
    plain = {"encoder.weight": torch.zeros(20, 8), "encoder.bias": torch.zeros(20), "bias": torch.zeros(8)}
    torch.save({**plain, "decoder.weight": odd}, tmp_path / "ae.pt")  # noqa: TID251
    with pytest.raises(IntegrityError, match="sparse or complex"):
        read(tmp_path)


def test_a_folder_without_the_files_of_the_named_format(tmp_path: Path) -> None:
    for name in FORMATS:
        with pytest.raises(TurnscopeError):
            read(tmp_path, name)


def test_what_the_caller_says_against_the_files(tmp_path: Path) -> None:
    folder = copy("sparsify/layers.3", tmp_path)
    k = read(folder)[1].sae.config.k
    assert read(folder, None, Hints(k=k, input_scale=1.0))[1].sae.config.k == k
    with pytest.raises(ConfigError, match=f"k is {k} by the files, not {k + 1}"):
        read(folder, None, Hints(k=k + 1))
    with pytest.raises(ConfigError, match="input scale is 1 by the files, not 3"):
        read(folder, None, Hints(input_scale=3.0))


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e-60"])
def test_scales_beyond_float32(number: str, tmp_path: Path) -> None:
    folder = copy("saelens/jumprelu", tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "normalize_activations": "expected_average_only_in"}))
    (folder / "activation_scaler.json").write_text(f'{{"scaling_factor": {number}}}')
    with pytest.raises(IntegrityError, match="positive number"):
        read(folder)


def test_thresholds_are_kept_whatever_a_jumprelu_file_says_of_its_training(tmp_path: Path) -> None:
    folder = copy("saelens/jumprelu", tmp_path)
    config = json.loads((folder / "cfg.json").read_text())
    metadata = {**config.get("metadata", {}), "training_architecture": "topk"}
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": metadata}))
    assert read(folder)[1].sae.config.architecture == "jumprelu"
