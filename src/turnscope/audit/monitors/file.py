"""A monitor as a file: TOML, versioned, read strictly, and the same bytes for the same monitor.

What decides alerts (roles, dictionary, how turns are read, rule or probe, threshold) has a fingerprint of its own, so
that a figure can say which monitor it is of. The rest is the record of its calibration.
"""

from __future__ import annotations

import tomllib
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, cast, get_args, get_origin

import tomli_w
from pydantic import Field, FiniteFloat, model_validator

from turnscope.artifacts import Config, ConfigError, IntegrityError, StorageError, fingerprint, write_text
from turnscope.audit.monitors.figures import Figure, Point, figure_from_plain, point_to_plain
from turnscope.audit.monitors.scoring import Probe, Rule
from turnscope.features.query.errors import QueryError, did_you_mean

FORMAT = 1
_MOST_BYTES = 4 << 20
_HEAD = "# A turnscope monitor; docs/monitors.md says what each line means.\n"
Name = Annotated[str, Field(min_length=1, max_length=100)]


class DictionaryTable(Config):
    """The dictionary whose features are meant."""

    fingerprint: str
    n_features: int = Field(ge=1)
    unit: Literal["turn", "token"] = "turn"


class ReadingTable(Config):
    """How turns are read: what the manifest of the activations says. Empty where they were not at hand."""

    model_fingerprint: str = ""
    tokenizer_fingerprint: str = ""
    template_fingerprint: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class RuleTable(Config):
    """A rule, and by how much its thresholds are raised."""

    query: str
    threshold: Annotated[FiniteFloat, Field(ge=0)] = 1.0


class ProbeTable(Config):
    """A weighted sum of features; alerts are sums above the threshold."""

    features: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    weights: tuple[FiniteFloat, ...] = Field(min_length=1)
    bias: FiniteFloat = 0.0
    threshold: FiniteFloat | None = None
    chosen: str = ""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.features) != len(self.weights):
            raise ValueError(f"{len(self.features)} features and {len(self.weights)} weights")
        if len(set(self.features)) != len(self.features):
            raise ValueError("a feature is named twice")
        return self


class FigureTable(Config):
    """A figure with its interval and counts, or why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n_positive: int | None = None
    n_negative: int | None = None
    n_conversations: int | None = None
    withheld: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = (self.value, self.low, self.high, self.n_positive, self.n_negative, self.n_conversations)
        if (self.withheld is None) == any(each is None for each in given):
            raise ValueError("give value, low, high and the three counts, or withheld")
        return self

    @property
    def figure(self) -> Figure:
        """For reading."""
        return figure_from_plain(self.model_dump(exclude_none=True))


class PointTable(Config):
    """What the monitor does on one set of labelled turns."""

    n_positive: int
    n_negative: int
    n_conversations: int
    recall: FigureTable
    precision: FigureTable
    fpr: FigureTable
    auroc: FigureTable
    recall_here: FigureTable
    precision_at: dict[str, FigureTable] = Field(default_factory=dict)

    @classmethod
    def of(cls, point: Point) -> PointTable:
        """As the file has it."""
        return cls.model_validate(point_to_plain(point))


class CalibrationTable(Config):
    """On what, and for what, the threshold was set."""

    index: str
    positive: str
    negative: str
    splits: tuple[str, ...]
    fpr: float = Field(gt=0, lt=1)
    n_positive: int
    n_negative: int
    n_conversations: int
    withheld: str | None = None
    """Why there is no threshold."""
    verdict: str = ""


class FeatureTable(Config):
    """How often a feature fires on the reference turns, and how strongly where it does."""

    feature: int = Field(ge=0)
    n_active: int = Field(ge=0)
    quantiles: tuple[FiniteFloat, ...] = ()
    """Its active values at 0, 10, ..., 100 percent."""
    explanation: str = ""


class ReferenceTable(Config):
    """The turns that a monitor's everyday is measured by: all of its roles in the fitting splits, labelled or not."""

    index: str
    splits: tuple[str, ...]
    n_turns: int = Field(ge=1)
    n_conversations: int = Field(ge=1)
    n_alerts: int | None = None
    n_alerts_worth: float | None = None
    """The number of independent turns that the share of alerts rests on."""
    scores: tuple[float, ...] = Field(min_length=2)
    """Scores at evenly spaced percentiles, the lowest to the highest."""
    features: tuple[FeatureTable, ...] = ()


class LookTable(Config):
    """One look at the locked turns; a monitor that is changed after it has seen them."""

    look: int
    monitor: str
    index: str
    figures: PointTable


class Monitor(Config):
    """A whole monitor."""

    format: Literal[1] = 1
    name: Name
    description: str = ""
    roles: tuple[str, ...] = Field(min_length=1)
    dictionary: DictionaryTable
    reading: ReadingTable = ReadingTable()
    rule: RuleTable | None = None
    probe: ProbeTable | None = None
    calibration: CalibrationTable | None = None
    reference: ReferenceTable | None = None
    figures: dict[str, PointTable] = Field(default_factory=dict)
    locked: tuple[LookTable, ...] = ()

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.rule is None) == (self.probe is None):
            raise ValueError("give a rule or a probe, and not both")
        return self

    @property
    def scorer(self) -> Rule | Probe:
        """What gives turns their scores."""
        if self.rule is not None:
            return Rule(self.rule.query)
        assert self.probe is not None
        return Probe(self.probe.features, self.probe.weights, self.probe.bias)

    @property
    def threshold(self) -> float | None:
        """Scores above it raise an alert; None where none could be set."""
        if self.rule is not None:
            return self.rule.threshold
        assert self.probe is not None
        return self.probe.threshold

    @property
    def fingerprint(self) -> str:
        """Of what decides alerts."""
        plain = self.model_dump(mode="json")
        return fingerprint({name: plain[name] for name in ("roles", "dictionary", "reading", "rule", "probe")})

    def require_dictionary(self, found: str, where: object) -> None:
        """IntegrityError when features of another dictionary would be read, with both fingerprints."""
        if found != self.dictionary.fingerprint:
            raise IntegrityError(
                f"the monitor {self.name!r} is of the dictionary {self.dictionary.fingerprint[:16]}, "
                f"this is {found[:16]}: their features have nothing in common",
                where=where,
                fix="name the monitor's own dictionary, or fit the monitor again on this one",
            )


def read_monitor(path: str | Path) -> Monitor:
    """Read a monitor. Nothing that it does not understand is passed over.

    Raises StorageError when there is no such file; ConfigError for damaged TOML, unknown keys (with near names) and
    values that are not allowed; QueryError for a rule that does not parse; IntegrityError for a newer format.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError("larger than 4 MiB: not a monitor", where=path)
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read the monitor: {error.strerror or error}", where=path) from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8, so not TOML", where=path) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"damaged TOML: {error}", where=path, fix="mend it, or fit the monitor again") from None
    version: object = data.get("format")
    if version != FORMAT or isinstance(version, bool):
        newer = isinstance(version, int) and version > FORMAT
        what = f"monitor format {version!r:.20}; this turnscope reads {FORMAT}"
        raise IntegrityError(
            what, where=path, fix="use a newer turnscope" if newer else f"a monitor begins with: format = {FORMAT}"
        )
    _require_known(data, Monitor, "", path)
    try:
        monitor = Monitor.model_validate(data)
    except ConfigError as error:
        raise ConfigError(error.what, where=path, fix=error.fix) from None
    _require_features(monitor, path)
    return monitor


def write_monitor(monitor: Monitor, path: str | Path) -> None:
    """Write a monitor; the same monitor gives the same bytes. StorageError."""
    plain = monitor.model_dump(mode="json", exclude_none=True)
    for name in ("figures", "locked", "description"):
        if not plain.get(name):
            plain.pop(name, None)
    write_text(path, _HEAD + tomli_w.dumps(plain))


def _require_features(monitor: Monitor, path: Path) -> None:
    try:
        features = monitor.scorer.features
    except QueryError as error:
        raise ConfigError(f"the rule: {error.what}", where=f"{path}, {error.where}", fix=error.fix) from None
    n = monitor.dictionary.n_features
    for feature in features:
        if feature >= n:
            raise ConfigError(
                f"there is no feature F{feature}", where=path, fix=f"this dictionary has F0 to F{n - 1:,}"
            )


def _require_known(data: object, model: type[Config], prefix: str, path: Path) -> None:
    """ConfigError for the first key that a model has not, with near ones; tables within tables too."""
    if not isinstance(data, dict):
        return
    for key, value in cast("dict[str, Any]", data).items():
        if key not in model.model_fields:
            known = list(model.model_fields)
            raise ConfigError(
                f"no such key: {prefix}{key}", where=path, fix=did_you_mean(key, known) or f"keys: {', '.join(known)}"
            )
        inner = _model_in(model.model_fields[key].annotation)
        if inner is None:
            continue
        kind, table = inner
        if kind == "one":
            _require_known(value, table, f"{prefix}{key}.", path)
        elif kind == "named" and isinstance(value, dict):
            for name, each in cast("dict[str, Any]", value).items():
                _require_known(each, table, f"{prefix}{key}.{name}.", path)
        elif kind == "many" and isinstance(value, list):
            for number, each in enumerate(cast("list[Any]", value)):
                _require_known(each, table, f"{prefix}{key}[{number}].", path)


def _model_in(annotation: Any) -> tuple[str, type[Config]] | None:
    """The table that a field holds: one, several by name, or a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "one", annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return next((found for each in arguments if (found := _model_in(each))), None)
    if origin in (dict, tuple):
        found = _model_in(arguments[1] if origin is dict else arguments[0])
        return None if found is None else ("named" if origin is dict else "many", found[1])
    return None
