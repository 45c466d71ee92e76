"""What SAELens and sparsify make of our exports: run after `ours.py`, in the environment of those libraries.

Writes `LIBRARY.expected` (safetensors) beside each export: 8 inputs `x`, dense codes `z`, reconstructions `x_hat`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/sae/golden/exports")


def main() -> None:
    from sae_lens.saes.sae import SAE
    from sparsify import SparseCoder

    torch.set_grad_enabled(False)
    for folder in sorted(OUT.glob("*/*")):
        if folder.name == "ours":
            continue
        if folder.name == "saelens":
            sae = SAE.load_from_disk(folder)
            d, f = sae.cfg.d_in, sae.cfg.d_sae
            assert sae.cfg.metadata.turnscope["unit"] == "turn"
            assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
        else:
            sae = SparseCoder.load_from_disk(folder)
            d, f = sae.d_in, sae.num_latents
        x = 3 * torch.randn(8, d, generator=torch.Generator().manual_seed(7)) + 0.5
        if folder.name == "saelens":
            z = sae.encode(x)
            x_hat = sae.decode(z)
        else:
            acts, indices, _ = sae.encode(x)
            z = torch.zeros(8, f).scatter_(1, indices, acts)
            x_hat = sae.decode(acts, indices)
        save_file({"x": x, "z": z.contiguous(), "x_hat": x_hat.contiguous()}, folder.parent / f"{folder.name}.expected")
        print(folder, tuple(x_hat.shape), f"{int((z != 0).sum())} active of {z.numel()}")


if __name__ == "__main__":
    main()
