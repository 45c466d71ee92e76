"""Conversion: a dictionary of any known format in, ours (as an artifact), SAELens' or sparsify's out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from turnscope.artifacts import Artifact, ConfigError, begin, file_sha256, sole_writer
from turnscope.sae.config import SAEConfig
from turnscope.sae.formats._fold import decoder_norms, with_unit_decoder
from turnscope.sae.formats._source import Foreign, Hints
from turnscope.sae.formats.config import ConvertConfig
from turnscope.sae.formats.registry import export, read
from turnscope.sae.sparse_autoencoder import SparseAutoencoder
from turnscope.sae.units import TURN_WORDS

_SITE = re.compile(r"(embed|(resid|attn|mlp)\.\d+)?")


@dataclass(frozen=True)
class ConvertResult:
    """What was read, what was written, and what to know about it."""

    path: Path
    format: str
    config: SAEConfig
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def run(config: ConvertConfig) -> ConvertResult:
    """Convert one dictionary.

    Raises:
        ConfigError: the format cannot be told or written, or is one that the canonical form cannot hold.
        IntegrityError: a file is not what it should be; `out` holds something else.
        StorageError: nothing is at `source`, or `out` cannot be written.
    """
    if config.site is not None and not _SITE.fullmatch(config.site):
        raise ConfigError(f"no such site: {config.site!r:.40}", fix="resid.L, attn.L, mlp.L or embed")
    name, foreign = read(config.source, config.format, Hints(config.k, config.input_scale))
    sae = _told(foreign.sae, config)
    notes = [*foreign.notes, *_notes(sae)]
    if config.unit_norm:
        sae = with_unit_decoder(sae)
    if config.to == "turnscope":
        files = _save(sae, foreign, config)
    else:
        _require_free(config)
        files = export(sae, config.to, config.out)
        if sae.config.unit == "turn":
            notes.append(f"{TURN_WORDS} The files say so under 'turnscope', which other libraries ignore.")
    return ConvertResult(config.out, name, sae.config, files, tuple(notes))


def _told(sae: SparseAutoencoder, config: ConvertConfig) -> SparseAutoencoder:
    """With the site and model that the caller names."""
    given = {"site": config.site, "subject": config.model}
    changed = {name: value for name, value in given.items() if value is not None}
    sae.config = SAEConfig.model_validate({**sae.config.model_dump(), **changed})
    return sae


def _notes(sae: SparseAutoencoder) -> list[str]:
    config, notes = sae.config, list[str]()
    if config.k == config.n_features:
        notes.append("how many features are active per row is not said; k is only its bound, the number of features")
    norm_F = decoder_norms(sae.w_dec_FD)
    if float((norm_F - 1).abs().max()) > 1e-3:
        spread = f"{float(norm_F.min()):.3g} to {float(norm_F.max()):.3g}"
        ways = "" if config.architecture == "topk" else " (--unit-norm gives them norm 1)"
        notes.append(f"decoder rows have norms of {spread}{ways}")
    if dead := int((sae.w_dec_FD == 0).all(dim=1).sum()):
        notes.append(f"{dead} features have a decoder row of zeros")
    return notes


def _save(sae: SparseAutoencoder, foreign: Foreign, config: ConvertConfig) -> tuple[Path, ...]:
    inputs = {file.name: file_sha256(file) for file in foreign.files}
    with sole_writer(config.out):
        draft = begin(config.out, "sae", config, inputs)
        if not isinstance(draft, Artifact):
            sae.save(draft.path)
            draft = draft.commit({"features": sae.config.n_features})
    return tuple(draft.path / name for name in draft.manifest.files)


def _require_free(config: ConvertConfig) -> None:
    """Another library's folder is written over only by the same export."""
    from turnscope.sae.formats import saelens, sparsify

    own = {saelens.CONFIG, saelens.WEIGHTS} if config.to == "saelens" else {sparsify.CONFIG, sparsify.WEIGHTS}
    if config.out.is_dir() and (strange := sorted({entry.name for entry in config.out.iterdir()} - own)):
        raise ConfigError(
            f"the folder holds other files ({', '.join(strange[:3])})",
            where=str(config.out),
            fix="choose another --out",
        )
