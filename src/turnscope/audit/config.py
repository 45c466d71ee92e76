"""Settings of the auditor's tools. Imports no heavy library."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from turnscope.artifacts import Config
from turnscope.models.sampling import Sampling


class PersonaConfig(Config):
    """Settings of the persona pipeline; :func:`turnscope.audit.persona.run` takes one."""

    trait: Path
    """A trait file, or the name of one in the package."""
    model: str
    """The subject: a chat model that writes; folder, hub name."""
    sae: Path
    """The dictionary whose features are looked at."""
    out: Path
    """Folder of the result: personas/NAME in a run folder."""
    site: str = ""
    """Where to read; the dictionary's own site when empty."""
    sampling: Sampling = Sampling()
    """How the subject writes."""
    rollouts: int = Field(default=1, ge=1)
    """Replies to each question under each system prompt."""
    questions: int | None = Field(default=None, ge=8)
    """Use so many of the trait's questions, drawn by the seed; all when not given. Each half needs 4."""
    held_pairs: float = Field(default=0.4, gt=0, lt=1)
    """Share of prompt pairs kept from ranking."""
    held_questions: float = Field(default=0.5, gt=0, lt=1)
    """Share of questions kept from ranking."""
    top: int = Field(default=20, ge=1)
    """Features whose held-out figures get an interval and a test."""
    batch: int = Field(default=32, ge=1)
    """Prompts that run at once; also the unit of going on after a stop."""
    chat_template: str = "auto"
    """As for a harvest: `auto`, `plain`, or the text of a template."""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    n_boot: int = Field(default=1000, ge=1)
    shuffles: int = Field(default=20, ge=2)
    """Draws of the control in which sides are swapped by question."""
    seed: int = 0
    """Of the split, the intervals and the controls."""
    device: str = Field(default="cpu", exclude=True)
    trust_remote_code: bool = Field(default=False, exclude=True)


class DiffConfig(Config):
    """Settings of a model difference; :func:`turnscope.audit.difference.run` takes one."""

    before: Path
    """Activations of the first model, or a run folder that holds them."""
    after: Path
    """Activations of the second model on the same conversations, or a run folder that holds them."""
    sae: Path
    """The one dictionary that both are read under; as a rule trained on the first model."""
    transcripts: Path
    """What both were harvested from."""
    out: Path
    splits: tuple[Literal["train", "explain", "eval", "locked"], ...] = Field(
        default=("train", "explain", "eval"), min_length=1
    )
    fall: float = Field(default=0.2, ge=0, le=1)
    """Turns on which the dictionary explains so much less of the second model, as a share of what it explains of the
    first, are left out of every feature's figures."""
    by: float = Field(default=1.0, gt=0)
    """A feature has come on, or gone out, where its value moved by more than so many times its typical one."""
    margin: float = Field(default=0.01, ge=0, lt=1)
    """A change is claimed when the share of turns on which it came on, less that where it went out, is beyond this."""
    fdr: float = Field(default=0.05, gt=0, lt=1)
    min_conversations: int = Field(default=10, ge=2)
    """A feature active in fewer gets no test."""
    shown: int = Field(default=50, ge=1)
    """Features of which the most changed turns are kept."""
    turns: int = Field(default=10, ge=1)
    """Such turns of each."""
    intervals: int = Field(default=1000, ge=1)
    """Features that get an interval: those first in the table."""
    n_boot: int = Field(default=1000, ge=100)
    seed: int = 0
    block_turns: int = Field(default=2048, ge=1)
    """Turns read at a time; also the unit of going on after a stop."""


class ContrastConfig(Config):
    """Settings of a contrast; :func:`turnscope.audit.contrast.run` takes one."""

    index: Path
    """A feature index."""
    a: str = Field(min_length=1)
    """Query for the turns of A (docs/query.md)."""
    b: str = ""
    """Query for the turns of B; empty: all other turns of the roles and splits that A has."""
    transcripts: Path | None = None
    """Those that the index was made from, where they do not lie in the same run folder."""
    out: Path | None = None
    """Folder of the result: contrasts/NAME in a run folder. Nothing is written when not given."""
    choose_on: tuple[Literal["train", "explain", "eval", "locked"], ...] = Field(default=("explain",), min_length=1)
    """Splits on which features are chosen."""
    judge_on: tuple[Literal["train", "explain", "eval", "locked"], ...] = Field(default=("eval",), min_length=1)
    """Splits on which they are judged."""
    divide: Literal["auto", "splits", "halves"] = "auto"
    """Choose and judge on these splits, or on halves of the conversations; auto: halves where a split has too few."""
    top: int = Field(default=10, ge=1, le=1000)
    """Features chosen in each direction."""
    fdr: float = Field(default=0.05, gt=0, lt=1)
    """Expected share of false ones among the features said to differ."""
    least: float = Field(default=0.7, gt=0.5, le=1)
    """Held-out AUROC from which on a feature is said to tell A from B."""
    examples: int = Field(default=3, ge=0, le=100)
    """Counter-examples of each kind kept for a feature."""
    confounds: tuple[str, ...] = ()
    """Further fields and labels to check, beside length, position, role, language, script, source and topic."""
    most: int = Field(default=20_000, ge=100)
    """Turns of each set that are read to choose, and to judge; of more, whole conversations are drawn by the seed."""
    n_boot: int = Field(default=500, ge=100)
    seed: int = 0

    @model_validator(mode="after")
    def _apart(self) -> ContrastConfig:
        if self.divide != "halves" and set(self.choose_on) & set(self.judge_on):
            raise ValueError("choose_on and judge_on must have no split in common")
        return self


class MonitorFitConfig(Config):
    """Settings of a monitor's calibration; :func:`turnscope.audit.monitors.fit.run` takes one."""

    index: Path
    """A feature index with labelled turns."""
    positive: str
    """Query of the turns that should raise an alert."""
    negative: str
    """Query of the turns that should not."""
    out: Path
    """The monitor file; a report is written beside it, as NAME.report.json."""
    name: str = ""
    """The monitor's name; that of the file when empty."""
    description: str = ""
    rule: str = ""
    """A rule whose thresholds are raised or lowered together; else a sparse probe is fitted."""
    features: tuple[str, ...] = ()
    """Features of the probe, as a query names them; chosen when not given."""
    k: int = Field(default=5, ge=1, le=256)
    """How many features are chosen."""
    fpr: float = Field(default=0.01, gt=0, lt=1)
    """The false-positive rate that the threshold is set for."""
    splits: tuple[Literal["train", "explain"], ...] = Field(default=("train", "explain"), min_length=1)
    """Turns that features, weights and threshold are chosen on."""
    other: str = ""
    """Query of another source: its turns are kept from the fit and judged apart."""
    other_positive: str = ""
    """What is positive there; as `positive` when empty."""
    other_negative: str = ""
    other_index: Path | None = None
    """Where the other source is; the same index when not given."""
    locked: bool = False
    """Look at the locked turns too. Every look is recorded."""
    baselines: bool = True
    """Put the four baselines beside it."""
    activations: Path | None = None
    """Those of the index, where they do not lie in its run folder; the dense baselines read them."""
    transcripts: Path | None = None
    other_activations: Path | None = None
    other_transcripts: Path | None = None
    most_turns: int = Field(default=50_000, ge=100)
    """At most about so many turns to fit on, and to judge on, whole conversations drawn at random."""
    n_boot: int = Field(default=1000, ge=100)
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.rule and self.features:
            raise ValueError("give a rule, or features for a probe, not both")
        given = self.other_positive or self.other_negative or self.other_index
        if not self.other and not given and (self.other_activations or self.other_transcripts):
            raise ValueError("other_activations and other_transcripts are of another source: name it with other")
        if bool(self.other_positive) != bool(self.other_negative):
            raise ValueError("give both other_positive and other_negative, or neither")
        return self

    @property
    def has_other(self) -> bool:
        """Whether there is another source to judge on."""
        return bool(self.other or self.other_positive or self.other_index)


class MonitorRunConfig(Config):
    """Settings of one run of a monitor; :func:`turnscope.audit.monitors.run.run` takes one."""

    monitor: Path
    """The monitor file."""
    files: tuple[Path, ...] = ()
    """Chat files or folders in any known format, or `-` for JSON lines on standard input."""
    index: Path | None = None
    """Instead of files: an index under the monitor's dictionary. No model is run."""
    sae: Path | None = None
    """With files: the monitor's dictionary,"""
    model: str = ""
    """and the model whose activations it reads: folder, hub name, or `minilm`."""
    out: Path | None = None
    """Folder of the result: monitors/NAME in a run folder. Without one, alerts are only handed on."""
    splits: tuple[Literal["train", "explain", "eval", "locked"], ...] = ("train", "explain", "eval")
    """With an index: turns of these splits."""
    transcripts: Path | None = None
    """With an index: those that it was made from, where they do not lie in its run folder."""
    chat_format: str | None = None
    allow_bad_lines: bool = False
    too_long: Literal["skip", "window", "truncate-left"] | None = None
    """Conversations longer than the model's context; as in the harvest of the monitor's fit when not given."""
    batch_tokens: int | None = Field(default=None, ge=1)
    block_turns: int | None = Field(default=None, ge=1)
    """Turns that are held at a time, whole conversations: 512, of standard input one conversation."""
    characters: int = Field(default=4000, ge=0)
    """Most characters of a turn's words that an alert quotes."""
    device: str = Field(default="cpu", exclude=True)
    trust_remote_code: bool = Field(default=False, exclude=True)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.files) == (self.index is not None):
            raise ValueError("name chat files, or an index, and not both")
        if self.files and (self.sae is None or not self.model):
            raise ValueError("chat files are read by the model: give sae and model, or index them and give index")
        return self


class MonitorDriftConfig(Config):
    """Settings of a drift report; :func:`turnscope.audit.monitors.drift.run` takes one."""

    monitor: Path
    index: Path
    """An index of the turns to hold against the monitor's reference, under its dictionary."""
    where: str = ""
    """Query of the turns that count; all of the monitor's roles when empty."""
    splits: tuple[Literal["train", "explain", "eval", "locked"], ...] = ("train", "explain", "eval")
    transcripts: Path | None = None
    out: Path | None = None
    """JSON file that receives the report."""
    n_boot: int = Field(default=500, ge=100)
    seed: int = 0


class AuditConfig(Config):
    """Settings of an audit; :func:`turnscope.audit.report.run` takes one."""

    files: tuple[Path, ...] = Field(min_length=1)
    """The chats that are audited: files or folders in any known format."""
    baseline: Path | None = None
    """What is usual: a feature index, a run folder that holds one, or chat files that are indexed first."""
    out: Path
    """A run folder: transcripts, activations and index of the files, and the report below reports/."""
    name: str = Field(default="audit", min_length=1)
    """The report's name: reports/NAME."""
    monitors: tuple[Path, ...] = ()
    """Monitor files that are run over the files."""
    sae: Path | None = None
    """The dictionary, ours or another library's; that of the baseline's run folder when not given."""
    model: str = Field(default="", exclude=True)
    """The model whose activations it reads; that of the baseline's run.toml when not given."""
    site: str = ""
    """Where it reads, for a dictionary that does not say so."""
    pool: Literal["max", "mean", "sum"] | None = None
    """How a turn's value of a token feature is made; that of the baseline's index, else max."""
    baseline_where: str = ""
    """Query of the baseline's turns that count; all when empty."""
    baseline_activations: Path | None = None
    """Those of the baseline's index, where they do not lie in its run folder."""
    baseline_transcripts: Path | None = None
    chat_format: str | None = None
    allow_bad_lines: bool = False
    too_long: Literal["skip", "window", "truncate-left"] | None = None
    """Conversations longer than the model's context; as in the baseline's harvest when not given."""
    fdr: float = Field(default=0.05, gt=0, lt=1)
    """Expected share of false ones among the features, and the conversations, said to be unusual."""
    shown: int = Field(default=6, ge=1, le=100)
    """Features in the report; all are in features.parquet."""
    examples: int = Field(default=5, ge=1, le=100)
    """Unusual conversations, unusual turns and alerts of a monitor in the report."""
    most: int = Field(default=20_000, ge=100)
    """About so many turns of the baseline are read; of more, whole conversations are drawn by the seed."""
    n_boot: int = Field(default=500, ge=100)
    seed: int = 0
    device: str = Field(default="cpu", exclude=True)
    trust_remote_code: bool = Field(default=False, exclude=True)
