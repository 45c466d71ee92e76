from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import audit_support as support
import numpy as np
import pytest

from turnscope.artifacts import ConfigError, DataError, IntegrityError, StorageError
from turnscope.audit.config import MonitorDriftConfig, MonitorFitConfig, MonitorRunConfig
from turnscope.audit.monitors import drift, fit
from turnscope.audit.monitors.block import blocks_of
from turnscope.audit.monitors.file import Monitor, ProbeTable, read_monitor, write_monitor
from turnscope.audit.monitors.reference import reference_of
from turnscope.audit.monitors.run import run
from turnscope.audit.monitors.scoring import Rule, settle
from turnscope.audit.readings import Readings
from turnscope.features.query.errors import QueryError
from turnscope.features.store import FeatureIndex
from turnscope.stats import Estimate, Withheld

N, TURNS = 600, 4


def planted(folder: Path, seed: int = 0, shift: float = 0.0, chats: int = N, **columns: object) -> FeatureIndex:
    """Chats of four turns; feature 3 tells the label, 5 tells half of it, the rest is noise. Every tenth is locked."""
    rng = np.random.default_rng(seed)
    n = chats * TURNS
    codes = rng.gamma(2, 1, (n, 24)) * (rng.random((n, 24)) < 0.2)
    labels = rng.random(n) < 0.3
    codes[:, 3] += 4 * labels + shift
    codes[:, 5] += 2 * (labels & (rng.random(n) < 0.5))
    codes[:, 9] = 0
    of = np.repeat(np.arange(chats), TURNS)
    table = {
        "labels": [{"bad": bool(each)} for each in labels],
        "role": np.array(["assistant"] * n),
        "split": np.array(["train", "explain", "eval", "train", "eval", "train", "train", "eval", "train", "locked"])[
            of % 10
        ],
        "source": np.array(["one", "two"])[(of % 7 == 0).astype(int)],
    }
    return support.write_index(folder, codes, of, **(table | columns))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return planted(tmp_path_factory.mktemp("planted") / "features" / "turn")


def config(index: FeatureIndex, out: Path, **changes: object) -> MonitorFitConfig:
    settings = {"positive": "bad = true", "negative": "bad = false", "fpr": 0.05, "n_boot": 100, **changes}
    return MonitorFitConfig(index=index.artifact.path, out=out, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(index: FeatureIndex, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a calibrated monitor called m."""
    path = tmp_path_factory.mktemp("fitted") / "m.toml"
    fit.run(config(index, path, baselines=False))
    return path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "F3 > 1.5", "F3 >= 1 & F5 > 0.5", "F3 > 4 | F5 > 2.5", "F3 > 1 & !F7", "F3 > 2 & role = assistant & turn > 0",
        "(F3 > 2 | F5 > 1) & next(F7 > 1)", "F3", "F3 > 0 | F5 > 3", "prev(2, F3 > 4) & F8 >= 0.5", "!(F3 > 2)",
        "count(F3 > 4) > 1 & F3 > 3", "F3 > p90", "F3 > 0.5max | F5 > p99",
    ],
)  # fmt: skip
def test_a_rule_at_one_is_the_query(index: FeatureIndex, text: str):
    """The query engine is the judge; percentiles and maxima must survive being written down as numbers."""
    rule = settle(text, index)
    scores = rule.scores(index)
    assert np.flatnonzero(scores > 1).tolist() == index.query(text).rows.tolist()
    for block, rows in blocks_of(index, np.arange(index.n_turns), 50):
        assert np.array_equal(rule.scores(block), scores[rows])


def test_a_score_is_by_how_much_thresholds_can_be_raised(index: FeatureIndex):
    scores = Rule("F3 > 1.5 & F5 > 0.5").scores(index)
    for factor in (0.5, 1.7, 3.0):
        wanted = index.query(f"F3 > {1.5 * factor} & F5 > {0.5 * factor}").rows
        assert np.flatnonzero(scores > factor).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("text", "what"),
    [("bad = true & F3", "label bad"), ('split = "eval" & F3', "split"), ("F99 > 1", "no feature F99"),
     ("F9 > p50", "active on no turn"), ("F3 >", "value|number|end")],
)  # fmt: skip
def test_rules_that_no_new_turn_could_answer_are_refused(index: FeatureIndex, text: str, what: str):
    with pytest.raises(QueryError, match=what):
        settle(text, index)
    with pytest.raises(ConfigError, match="names no feature"):
        settle("role = assistant", index)


def test_fit_finds_the_planted_feature_and_keeps_its_rate(index: FeatureIndex, tmp_path: Path):
    result = fit.run(config(index, tmp_path / "m.toml"))
    monitor = result.monitor
    assert monitor.probe is not None
    assert monitor.probe.features[0] in (3, 5)
    assert {3, 5} <= set(monitor.probe.features)
    point = result.contenders[0].points["eval"]
    assert not isinstance(point, Withheld)
    assert isinstance(point.auroc, Estimate)
    assert isinstance(point.fpr, Estimate)
    assert isinstance(point.recall, Estimate)
    assert point.auroc.value > 0.9
    assert point.fpr.low <= 0.05
    assert point.recall.value > 0.6
    # what the file says is what the rows say
    held = index.query("split = eval").rows
    scores = monitor.scorer.scores(index)[held]
    bad = np.isin(held, index.query("bad = true").rows)
    assert monitor.threshold is not None
    assert point.recall.value == pytest.approx((scores[bad] > monitor.threshold).mean())
    assert point.fpr.value == pytest.approx((scores[~bad] > monitor.threshold).mean())
    names = [row["name"] for row in json.loads(result.report.read_text())["rows"]]
    assert len(names) == 5
    # no activations and no transcripts lie beside this index: the rows say so, and are not left out
    dense = result.contenders[1].points["eval"]
    assert isinstance(dense, Withheld)
    assert "--activations" in dense.reason


def test_the_same_fit_gives_the_same_bytes_and_reads_back(index: FeatureIndex, tmp_path: Path):
    for name in ("a", "b"):
        fit.run(config(index, tmp_path / name / "m.toml", baselines=False))
    first, second = (tmp_path / name / "m.toml" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    monitor = read_monitor(first)
    write_monitor(monitor, tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_bytes() == first.read_bytes()
    assert read_monitor(tmp_path / "again.toml").fingerprint == monitor.fingerprint


def test_a_rule_is_raised_to_its_rate(index: FeatureIndex, tmp_path: Path):
    result = fit.run(config(index, tmp_path / "m.toml", rule="F3 > 0.01", baselines=False))
    assert result.monitor.rule is not None
    raised = result.monitor.rule.threshold * 0.01
    fitting = index.query("bad = false & (split = train | split = explain)").rows
    hits = np.intersect1d(index.query(f"F3 > {raised}").rows, fitting)
    assert len(hits) / len(fitting) <= 0.05
    looser = np.intersect1d(index.query(f"F3 > {raised * 0.999}").rows, fitting)
    assert len(looser) >= len(hits)


def test_a_label_that_follows_nothing_is_at_chance_and_said_to_be(index: FeatureIndex, tmp_path: Path):
    rng = np.random.default_rng(5)
    labels = [{"bad": bool(each)} for each in rng.random(index.n_turns) < 0.3]
    noise = planted(tmp_path / "noise", labels=labels)
    result = fit.run(config(noise, tmp_path / "m.toml", baselines=False))
    assert "at chance" in result.verdicts[0]
    ran = run(MonitorRunConfig(monitor=tmp_path / "m.toml", index=noise.artifact.path))
    assert any("more than chance" in notice for notice in ran.notices)


def test_too_few_negatives_give_no_threshold_and_the_monitor_does_not_run(index: FeatureIndex, tmp_path: Path):
    some = "bad = false & conversation = chat-0 | bad = false & turn = 0 & tokens = 10 & F1 > 4"
    result = fit.run(config(index, tmp_path / "m.toml", negative=some, fpr=0.01, baselines=False))
    assert result.monitor.threshold is None
    assert "0.01 cannot be set" in (result.monitor.calibration.withheld or "")  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="has no threshold"):
        run(MonitorRunConfig(monitor=tmp_path / "m.toml", index=index.artifact.path))


def test_another_source_is_kept_from_the_fit(index: FeatureIndex, tmp_path: Path):
    result = fit.run(config(index, tmp_path / "m.toml", other='source = "two"', baselines=False))
    one = index.query('source = "one" & (split = train | split = explain)').rows
    assert result.monitor.calibration is not None
    assert result.monitor.calibration.n_positive + result.monitor.calibration.n_negative == len(one)
    other = result.contenders[0].points["other"]
    assert not isinstance(other, Withheld)
    assert other.n_positive + other.n_negative == len(index.query('source = "two" & split != locked').rows)


def test_every_look_at_the_locked_turns_is_recorded(tmp_path: Path):
    fresh = planted(tmp_path / "index", chats=200)
    fit.run(config(fresh, tmp_path / "m.toml", baselines=False))
    assert fit.looks_at(fresh) == []
    assert not read_monitor(tmp_path / "m.toml").locked
    for look in (1, 2):
        result = fit.run(config(fresh, tmp_path / "m.toml", baselines=False, locked=True, seed=look))
        assert [each.look for each in result.monitor.locked] == list(range(1, look + 1))
        assert any(f"look {look}" in notice for notice in result.notices)
    other = fit.run(config(fresh, tmp_path / "other.toml", baselines=False, locked=True))
    assert len(other.monitor.locked) == 1  # of this monitor,
    assert [each["look"] for each in fit.looks_at(fresh)] == [1, 2, 3]  # and of the turns themselves


def test_a_new_rule_takes_the_place_of_a_monitor_alone_and_keeps_its_looks(tmp_path: Path):
    fresh = planted(tmp_path / "index", chats=200)
    fit.run(config(fresh, tmp_path / "m.toml", baselines=False, locked=True))
    made = fit.new(fresh.artifact.path, "F3 > 5", tmp_path / "m.toml")
    assert len(made.locked) == len(read_monitor(tmp_path / "m.toml").locked) == 1
    (tmp_path / "run.toml").write_text('model = "minilm"\n')
    with pytest.raises(IntegrityError, match="monitor format"):
        fit.new(fresh.artifact.path, "F3 > 5", tmp_path / "run.toml")
    assert "minilm" in (tmp_path / "run.toml").read_text()


def test_empty_and_contradicting_sets_are_refused(index: FeatureIndex, tmp_path: Path):
    out = tmp_path / "m.toml"
    with pytest.raises(DataError, match="no turn is positive"):
        fit.run(config(index, out, positive="bad = true & turn = 99"))
    with pytest.raises(ConfigError, match="both positive and negative"):
        fit.run(config(index, out, negative="turn >= 0"))
    with pytest.raises(QueryError, match="did you mean"):
        fit.run(config(index, out, positive="badd = true"))
    with pytest.raises(DataError, match="nothing to fit on"):
        fit.run(config(index, out, positive="bad = true & split = eval"))
    with pytest.raises(QueryError, match="no feature F99"):
        fit.run(config(index, out, features=("F99",)))
    assert not out.exists()


def test_run_over_an_index_finds_what_the_rule_finds_and_resumes(index: FeatureIndex, tmp_path: Path):
    fit.new(index.artifact.path, "F3 > 5 & next(F7)", tmp_path / "m.toml", roles=("assistant",))
    settings = MonitorRunConfig(
        monitor=tmp_path / "m.toml", index=index.artifact.path, out=tmp_path / "run", block_turns=100
    )
    whole = run(settings)
    wanted = index.query("F3 > 5 & next(F7) & split != locked").rows.tolist()
    assert sorted(alert["row"] for alert in whole.alerts()) == wanted
    assert whole.counts["alerts"] == len(wanted)
    first = next(iter(whole.alerts()))
    assert first["features"][0]["feature"] in (3, 7)
    value = index.matrix([3], [first["row"]])[0, 0]
    assert next(each for each in first["features"] if each["feature"] == 3)["value"] == pytest.approx(value, rel=1e-5)

    class StopError(Exception):
        pass

    def stop(alert: object, seen: list[object] = []) -> None:  # noqa: B006
        seen.append(alert)
        if len(seen) == len(wanted) // 2:
            raise StopError

    other = settings.model_copy(update={"out": tmp_path / "stopped"})
    with pytest.raises(StopError):
        run(other, stop)
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    resumed = run(other)
    assert any("earlier run" in notice for notice in resumed.notices)
    for name in ("alerts.jsonl", "summary.json", "manifest.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert run(other).turns_per_second == 0


def test_another_dictionary_is_refused_with_both_fingerprints(index: FeatureIndex, fitted: str, tmp_path: Path):
    (tmp_path / "m.toml").write_text(fitted)
    monitor = read_monitor(tmp_path / "m.toml")
    other = monitor.dictionary.model_copy(update={"fingerprint": "0123456789abcdef0123"})
    write_monitor(monitor.model_copy(update={"dictionary": other}), tmp_path / "other.toml")
    with pytest.raises(IntegrityError, match="0123456789abcdef, this is none"):
        run(MonitorRunConfig(monitor=tmp_path / "other.toml", index=index.artifact.path))
    with pytest.raises(IntegrityError, match="this is none"):
        drift.run(MonitorDriftConfig(monitor=tmp_path / "other.toml", index=index.artifact.path))


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        (("[probe]", "[prob]"), ConfigError, "no such key: prob"),
        (("threshold = ", "treshold = "), ConfigError, "no such key: probe.treshold"),
        (("n_active", "n_actve"), ConfigError, r"no such key: reference.features\[0\].n_actve"),
        (("format = 1", "format = 2"), IntegrityError, "format 2"),
        (("format = 1", "format = true"), IntegrityError, "format True"),
        (("bias = ", "bias = nan #"), ConfigError, "bias"),
        (("features = [", "features = [ 77,"), ConfigError, "features"),
        (("[probe]", "[probe"), ConfigError, "damaged TOML"),
        (('name = "m"', 'name = ""'), ConfigError, "name"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(
    fitted: str, tmp_path: Path, change: tuple[str, str], error: type[Exception], what: str
):
    path = tmp_path / "m.toml"
    assert change[0] in fitted
    path.write_text(fitted.replace(*change, 1))
    with pytest.raises(error, match=what):
        read_monitor(path)


def test_a_near_key_is_offered_and_other_files_are_told_apart(tmp_path: Path, index: FeatureIndex):
    path = tmp_path / "m.toml"
    with pytest.raises(StorageError, match="cannot read"):
        read_monitor(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_monitor(path)
    path.write_text("format = 1\nroels = []\n")
    with pytest.raises(ConfigError) as refused:
        read_monitor(path)
    assert '"roles"' in refused.value.fix
    plain = {"format": 1, "name": "x", "roles": ["user"], "dictionary": {"fingerprint": "f", "n_features": 4}}
    with pytest.raises(ConfigError, match="rule or a probe"):
        Monitor.model_validate(plain)
    path.write_text(
        'format = 1\nname = "x"\nroles = ["user"]\n[dictionary]\nfingerprint = "f"\nn_features = 4\n'
        '[rule]\nquery = "F7 > 1"\n'
    )
    with pytest.raises(ConfigError, match="no feature F7"):
        read_monitor(path)


def test_drift_is_told_where_it_is_and_not_where_it_is_not(fitted: str, tmp_path: Path):
    (tmp_path / "m.toml").write_text(fitted)
    same = planted(tmp_path / "same", seed=7)
    moved = planted(tmp_path / "moved", seed=8, shift=4.0)
    few = planted(tmp_path / "few", seed=9, chats=10)

    def told(other: FeatureIndex) -> drift.DriftResult:
        return drift.run(MonitorDriftConfig(monitor=tmp_path / "m.toml", index=other.artifact.path, n_boot=100))

    assert told(same).word == "no drift"
    assert all(each.word == "no drift" for each in told(same).shares)
    assert told(moved).word == "drifted"
    assert {each.name for each in told(moved).shares if each.word != "no drift"} >= {"alerts", "F3"}
    assert "Fit m again" in told(moved).words
    assert told(few).word == "too few to tell"


def test_a_score_that_equals_the_threshold_is_no_alert_when_drift_is_told(
    index: FeatureIndex, fitted: str, tmp_path: Path
):
    """In single precision 0.1 is more than 0.1, and most turns score the bias alone."""
    path = tmp_path / "m.toml"
    path.write_text(fitted)
    probe = ProbeTable(features=(7,), weights=(1.0,), bias=0.1, threshold=0.1)
    monitor = read_monitor(path).model_copy(update={"probe": probe})
    reference = reference_of(monitor, Readings(index), ["train", "explain"])
    write_monitor(monitor.model_copy(update={"reference": reference}), path)
    settings = MonitorDriftConfig(monitor=path, index=index.artifact.path, splits=("train", "explain"), n_boot=100)
    alerts = drift.run(settings).shares[0]
    assert alerts.name == "alerts"
    assert alerts.reference < 0.5
    assert alerts.now == pytest.approx(alerts.reference, rel=1e-4)


def test_no_drift_is_seldom_taken_for_drift(fitted: str, tmp_path: Path):
    """Resampled turns of the very reference: chance alone."""
    (tmp_path / "m.toml").write_text(fitted)
    monitor = read_monitor(tmp_path / "m.toml")
    rng, false = np.random.default_rng(0), 0
    for draw in range(20):
        fresh = planted(tmp_path / f"draw{draw}", seed=100 + draw, chats=int(rng.integers(50, 150)))
        settings = MonitorDriftConfig(
            monitor=tmp_path / "m.toml", index=fresh.artifact.path, n_boot=100, splits=("train", "explain", "eval")
        )
        found = drift.run(settings)
        false += found.word != "no drift" or any(each.word == "drifted" for each in found.shares)
    assert monitor.reference is not None
    assert false <= 3


def test_monitors_of_an_index_never_import_torch(index: FeatureIndex, tmp_path: Path):
    fit.new(index.artifact.path, "F3 > 5", tmp_path / "m.toml", roles=("assistant",))
    code = (
        "import sys\n"
        "from turnscope.audit.config import MonitorRunConfig, MonitorFitConfig, MonitorDriftConfig\n"
        "from turnscope.audit.monitors import fit, drift\n"
        "from turnscope.audit.monitors.run import run\n"
        f"run(MonitorRunConfig(monitor={str(tmp_path / 'm.toml')!r}, index={str(index.artifact.path)!r}))\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_silence_over_no_turns_is_told(index: FeatureIndex, fitted: str, tmp_path: Path):
    path = tmp_path / "m.toml"
    path.write_text(fitted)
    write_monitor(read_monitor(path).model_copy(update={"roles": ("user",)}), path)
    ran = run(MonitorRunConfig(monitor=path, index=index.artifact.path))
    assert ran.counts["alerts"] == 0
    assert any("no turn was scored" in each for each in ran.notices)
    with pytest.raises(DataError, match=r"no turn to look at \(no turn has role"):
        drift.run(MonitorDriftConfig(monitor=path, index=index.artifact.path, where="role = asistant"))
