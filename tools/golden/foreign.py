"""Golden vectors of foreign dictionaries: made, saved and evaluated by the original libraries. See README.md here.

Each fixture is a folder under tests/sae/golden/foreign/: the files as the library itself saves them, and
`expected.safetensors` with 8 inputs `x`, the library's dense codes `z` and its reconstructions `x_hat`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

D, F, N = 16, 32, 8
OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/sae/golden/foreign")


def inputs() -> torch.Tensor:
    """Raw activations of norm about 12 with a mean of their own, so that centre and scale both matter."""
    return 3 * torch.randn(N, D, generator=torch.Generator().manual_seed(7)) + 0.5


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Give every floating parameter and threshold values at which features are neither all on nor all off."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32) * (1.5 if "r_mag" in name else 0.3)
        tensor.copy_(values.abs() + 0.5 if "threshold" in name else values)


def expect(folder: Path, z: torch.Tensor, x_hat: torch.Tensor, **more: torch.Tensor) -> None:
    active = (z != 0).float().mean()
    assert 0.02 < active < 0.95, (folder, active)
    tensors = {"x": inputs(), "z": z, "x_hat": x_hat, **more}
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")


# --- SAELens -----------------------------------------------------------------


def saelens() -> None:
    import sae_lens
    from sae_lens.saes import batchtopk_sae, gated_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae
    from sae_lens.saes.sae import SAE, SAEMetadata

    def meta() -> SAEMetadata:
        return SAEMetadata(model_name="gpt2-small", hook_name="blocks.3.hook_resid_post", prepend_bos=True)

    def finish(name: str, folder: Path, factor: float | None = None) -> None:
        sae = SAE.load_from_disk(folder)
        if factor:
            sae.fold_activation_norm_scaling_factor(factor)
        z = sae.encode(inputs())
        expect(folder, z, sae.decode(z))

    uncentred = {"apply_b_dec_to_input": False}
    inference = {
        "standard": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig, {}),
        "standard_uncentred": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig, uncentred),
        "jumprelu": (jumprelu_sae.JumpReLUSAE, jumprelu_sae.JumpReLUSAEConfig, uncentred),
        "gated": (gated_sae.GatedSAE, gated_sae.GatedSAEConfig, {}),
        "topk": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig, {"k": 5}),
        "topk_rescaled": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    }  # fmt: skip
    for seed, (name, (sae_class, config_class, more)) in enumerate(inference.items()):
        folder = OUT / "saelens" / name
        sae = sae_class(config_class(d_in=D, d_sae=F, metadata=meta(), **more))
        randomise(sae, seed)
        sae.save_model(folder)
        finish(name, folder)

    # Configs from before version 6, which the library still reads.
    for name, source, more in (
        ("before_6_topk", "topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}),
        ("before_6_standard", "standard", {"activation_fn_str": "relu", "normalize_activations": False}),
    ):
        folder = OUT / "saelens" / name
        folder.mkdir(parents=True, exist_ok=True)
        weights = (OUT / "saelens" / source / "sae_weights.safetensors").read_bytes()
        (folder / "sae_weights.safetensors").write_bytes(weights)
        flat = {
            "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "hook_point": "blocks.3.hook_resid_pre",
            "model_name": "gpt2-small", "finetuning_scaling_factor": False, **more,
        }  # fmt: skip
        (folder / "cfg.json").write_text(json.dumps(flat))
        finish(name, folder)

    # An unfolded input norm: SAELens keeps the factor in a file beside the checkpoint.
    from sae_lens.training.activation_scaler import ActivationScaler

    folder = OUT / "saelens" / "norm"
    config = jumprelu_sae.JumpReLUSAEConfig(D, F, normalize_activations="expected_average_only_in", metadata=meta())
    sae = jumprelu_sae.JumpReLUSAE(config)
    randomise(sae, 20)
    sae.save_model(folder)
    ActivationScaler(scaling_factor=0.37).save(str(folder / "activation_scaler.json"))
    finish("norm", folder, factor=0.37)

    # Trained ones: as SAELens saves them for inference, and as training checkpoints whose truth is the former.
    trained = {
        "batchtopk": (batchtopk_sae.BatchTopKTrainingSAE, batchtopk_sae.BatchTopKTrainingSAEConfig, {}),
        "batchtopk_plain": (
            batchtopk_sae.BatchTopKTrainingSAE, batchtopk_sae.BatchTopKTrainingSAEConfig,
            {"rescale_acts_by_decoder_norm": False},
        ),
        "matryoshka": (
            matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE,
            matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig, {"matryoshka_widths": [8, 16, F]},
        ),
    }  # fmt: skip
    for seed, (name, (sae_class, config_class, more)) in enumerate(trained.items()):
        sae = sae_class(config_class(d_in=D, d_sae=F, k=6, metadata=meta(), **more))
        randomise(sae, 30 + seed)
        # saved first: saving for inference folds norms into the live parameters
        sae.save_model(OUT / "saelens" / f"{name}_checkpoint")
        sae.save_inference_model(OUT / "saelens" / name)
        finish(name, OUT / "saelens" / name)
        expected = (OUT / "saelens" / name / "expected.safetensors").read_bytes()
        (OUT / "saelens" / f"{name}_checkpoint" / "expected.safetensors").write_bytes(expected)
    print("sae_lens", sae_lens.__version__)


# --- sparsify ----------------------------------------------------------------


def sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    folder = OUT / "sparsify" / "layers.3"
    for path, more in ((folder, {"num_latents": F}), (OUT / "sparsify" / "expansion", {"expansion_factor": F // D})):
        coder = SparseCoder(D, SparseCoderConfig(k=5, **more))
        randomise(coder, 40)
        coder.save_to_disk(path)
        coder = SparseCoder.load_from_disk(path)
        acts, indices, _ = coder.encode(inputs())
        z = torch.zeros(N, F).scatter_(1, indices, acts)
        expect(path, z, coder.decode(acts, indices))
    for name, more in {"groupmax": {"activation": "groupmax"}, "skip": {"skip_connection": True},
                       "transcode": {"transcode": True}}.items():  # fmt: skip
        SparseCoder(D, SparseCoderConfig(k=4, num_latents=F, **more)).save_to_disk(OUT / "refused" / f"sparsify_{name}")


# --- dictionary_learning -----------------------------------------------------


def dictionary_learning() -> None:
    from dictionary_learning.dictionary import AutoEncoderNew
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, standard, top_k
    from dictionary_learning.utils import load_dictionary

    common = {
        "steps": 100_000,
        "activation_dim": D,
        "dict_size": F,
        "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    trainers = {
        "AutoEncoder": (standard.StandardTrainerAprilUpdate, {}),
        "GatedAutoEncoder": (gdm.GatedSAETrainer, {}),
        "AutoEncoderTopK": (top_k.TopKTrainer, {"k": 5}),
        "BatchTopKSAE": (batch_top_k.BatchTopKTrainer, {"k": 5}),
        "MatryoshkaBatchTopKSAE": (
            matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer, {"k": 5, "group_fractions": [0.25, 0.75]},
        ),
        "JumpReluAutoEncoder": (jumprelu.JumpReluTrainer, {"target_l0": 5.0}),
    }  # fmt: skip
    made = {name: trainer_class(**common, **more, device="cpu") for name, (trainer_class, more) in trainers.items()}
    pairs = {name: (trainer.ae, trainer.config) for name, trainer in made.items()}
    # The one class that no trainer of this release makes.
    pairs["AutoEncoderNew"] = AutoEncoderNew(D, F), {**common, "dict_class": "AutoEncoderNew"}
    for seed, (name, (ae, trainer_config)) in enumerate(pairs.items()):
        folder = OUT / "dictionary_learning" / name
        folder.mkdir(parents=True, exist_ok=True)
        randomise(ae, 50 + seed)
        # These two statements are what trainSAE runs to save.
        torch.save({k: v.cpu() for k, v in ae.state_dict().items()}, folder / "ae.pt")  # noqa: TID251
        config = {"trainer": trainer_config, "buffer": {"d_submodule": D, "ctx_len": 128}}
        (folder / "config.json").write_text(json.dumps(config, indent=4))
        ae, _ = load_dictionary(str(folder), "cpu")
        more_tensors = {}
        if name == "AutoEncoder":  # its loader normalises the decoder; both truths are kept
            z_unit = ae.encode(inputs())
            more_tensors = {"z_unit": z_unit, "x_hat_unit": ae.decode(z_unit)}
            ae = type(ae).from_pretrained(folder / "ae.pt", normalize_decoder=False)
        z = ae.encode(inputs())
        expect(folder, z, ae.decode(z), **more_tensors)


# --- formats without a library of their own: written as described, read by SAELens' loaders ------------------


def by_saelens_loaders() -> None:
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes.sae import SAE

    def load(loader, root: Path, repo: str, folder: str, *, factor: float | None = None, **overrides) -> SAE:
        """SAELens' own loader, its downloads answered from a local folder."""

        def local(repo_id, filename, subfolder=None, force_download=False):
            path = root / (subfolder or "") / filename
            if not path.exists():
                raise loaders.EntryNotFoundError(f"no {path}")
            return str(path)

        def shapes(repo_id, filename):
            return {name: list(tensor.shape) for name, tensor in load_file(root / filename).items()}

        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes

        def convert(path, device, cfg_overrides=None):
            config, state, _ = loader(repo, folder, device, False, {"dtype": "float32", **overrides})
            return config, {name: tensor.float().contiguous() for name, tensor in state.items()}

        sae = SAE.load_from_disk(root, converter=convert)
        if factor:
            sae.fold_activation_norm_scaling_factor(factor)
        return sae

    def finish(sae: SAE, folder: Path) -> None:
        z = sae.encode(inputs())
        expect(folder, z, sae.decode(z))

    g = torch.Generator().manual_seed(60)

    def r(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * 0.3

    def jumprelu() -> dict[str, torch.Tensor]:
        return {"w_enc": r(D, F), "w_dec": r(F, D), "b_enc": r(F), "b_dec": r(D), "threshold": r(F).abs() + 0.5}

    # Gemma Scope 1
    for repo, sub in (("gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_7"),
                      ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6")):  # fmt: skip
        root = OUT / "gemma_scope" / repo
        (root / sub).mkdir(parents=True, exist_ok=True)
        arrays = {k.replace("w_", "W_"): v.numpy() for k, v in jumprelu().items()}
        if "embedding" in sub:
            arrays["W_enc"] = arrays["W_enc"] * 4
        np.savez(root / sub / "params.npz", **arrays)
        finish(load(loaders.gemma_2_sae_huggingface_loader, root, f"google/{repo}", sub, d_in=D, d_sae=F), root / sub)

    # Gemma Scope 2, with and without its config
    for repo, sub in (("gemma-scope-2-1b-it", "resid_post/layer_3_width_16k_l0_small"),
                      ("gemma-scope-2-1b-pt", "resid_post/layer_4_width_16k_l0_small")):  # fmt: skip
        root = OUT / "gemma_scope_2" / repo
        (root / sub).mkdir(parents=True, exist_ok=True)
        save_file(jumprelu(), root / sub / "params.safetensors")
        if repo.endswith("it"):
            config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-it", "width": F, "l0": 7,
                      "hf_hook_point_in": "model.layers.3.output", "hf_hook_point_out": "model.layers.3.output",
                      "affine_connection": False, "type": "sae"}  # fmt: skip
            (root / sub / "config.json").write_text(json.dumps(config))
        finish(load(loaders.gemma_3_sae_huggingface_loader, root, f"google/{repo}", sub), root / sub)

    # Llama Scope. SAELens takes decoder rows to have norm 1, as the released ones have; so does this fixture.
    factor = math.sqrt(D) / 11.5
    root, sub = OUT / "llama_scope", "Llama3_1-8B-Base-L3R-8x"
    linear = {"encoder.weight": r(F, D), "encoder.bias": r(F), "decoder.weight": r(D, F), "decoder.bias": r(D)}
    unit = linear["decoder.weight"] / linear["decoder.weight"].norm(dim=0)
    hyper = {
        "d_model": D, "d_sae": F, "expansion_factor": 2, "use_decoder_bias": True, "act_fn": "jumprelu",
        "apply_decoder_bias_to_pre_encoder": False, "jump_relu_threshold": 1.4, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 11.5, "out": 11.5}, "sparsity_include_decoder_norm": True,
        "top_k": 5, "use_glu_encoder": False, "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
    }  # fmt: skip
    (root / sub / "checkpoints").mkdir(parents=True, exist_ok=True)
    (root / sub / "hyperparams.json").write_text(json.dumps(hyper))
    save_file({**linear, "decoder.weight": unit}, root / sub / "checkpoints" / "final.safetensors")
    finish(load(loaders.llama_scope_sae_huggingface_loader, root, "fnlp/x", sub, factor=factor), root / sub)

    # Its R1-Distill layout
    sub = "R1-Distill/L3R"
    config = {
        k: v for k, v in hyper.items() if k not in ("jump_relu_threshold", "dataset_average_activation_norm", "d_sae")
    }
    norm = {f"dataset_average_activation_norm.{hyper['hook_point_in']}": torch.tensor(11.5)}
    (root / sub).mkdir(parents=True, exist_ok=True)
    (root / sub / "config.json").write_text(json.dumps(config))
    log_threshold = {"log_jumprelu_threshold": r(F) - 0.5}
    save_file({**linear, "decoder.weight": unit, **log_threshold, **norm}, root / sub / "sae_weights.safetensors")
    finish(load(loaders.llama_scope_r1_distill_sae_huggingface_loader, root, "fnlp/x", sub, factor=factor), root / sub)

    # Decoder rows of any norm: by the encode of Language-Model-SAEs itself (lm_saes/sae.py), written out below, for
    # SAELens leaves sparsity_include_decoder_norm out.
    for act_fn in ("jumprelu", "topk"):
        sub = f"any_norm_{act_fn}/L3R"
        (root / sub).mkdir(parents=True, exist_ok=True)
        (root / sub / "config.json").write_text(json.dumps({**config, "act_fn": act_fn}))
        own = log_threshold if act_fn == "jumprelu" else {}
        save_file({**linear, **own, **norm}, root / sub / "sae_weights.safetensors")
        pre = torch.nn.functional.linear(inputs() * factor, linear["encoder.weight"], linear["encoder.bias"])
        scores = pre * linear["decoder.weight"].norm(dim=0)
        if act_fn == "jumprelu":
            mask = scores > log_threshold["log_jumprelu_threshold"].exp()
        else:
            mask = scores.clamp(min=0) >= scores.clamp(min=0).kthvalue(F - 5 + 1, dim=1, keepdim=True).values
        z = pre * mask
        x_hat = torch.nn.functional.linear(z, linear["decoder.weight"], linear["decoder.bias"]) / factor
        # where the choice goes by norm and rank, ours carries the norm in the code
        expect(root / sub, z * linear["decoder.weight"].norm(dim=0) if act_fn == "topk" else z, x_hat)

    # Qwen Scope
    repo = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    root = OUT / "qwen_scope" / repo
    root.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": r(F, D), "W_dec": r(D, F), "b_enc": r(F), "b_dec": r(D)}
    torch.save(tensors, root / "layer3.sae.pt")  # noqa: TID251
    loader = loaders.qwen_scope_sae_huggingface_loader
    finish(load(loader, root, f"Qwen/{repo}", "layer3.sae.pt", d_in=D, d_sae=F), root)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    for make in (saelens, sparsify, dictionary_learning, by_saelens_loaders):
        torch.manual_seed(0)
        make()
    total = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{total:,} bytes under {OUT}")
