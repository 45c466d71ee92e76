"""`turnscope monitor run`: chats or an index in, alerts with their evidence out. Imports torch only to read chats.

Memory holds one block of conversations. With a folder to write to, each finished block is kept as it is done, so that a
run that was stopped goes on after it, to the same bytes.

Legend: N turns of a block.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from turnscope.artifacts import (
    Artifact,
    ConfigError,
    Draft,
    IntegrityError,
    StorageError,
    atomic_path,
    begin,
    file_sha256,
    progress,
    sole_writer,
    write_json,
)
from turnscope.audit.config import MonitorRunConfig
from turnscope.audit.monitors.block import Block, blocks_of
from turnscope.audit.monitors.conversations import STDIN, conversations, files_of
from turnscope.audit.monitors.figures import short
from turnscope.audit.monitors.file import FeatureTable, Monitor, ProbeTable, read_monitor
from turnscope.audit.monitors.fit import is_trusted
from turnscope.audit.monitors.reference import everyday_rows, percentile_of
from turnscope.audit.readings import read_turns
from turnscope.features.store import FeatureIndex, open_index
from turnscope.transcripts.conversation import Conversation

KIND = "monitor_run"
ALERTS, SUMMARY = "alerts.jsonl", "summary.json"
BLOCK_TURNS = 512
_MOST_SCORE = 1e30
Alert = dict[str, Any]


@dataclass(frozen=True)
class RunResult:
    """What one run saw.

    Attributes:
        path: folder of the artifact, or None where none was asked for.
        counts: conversations, turns, turns scored, alerts, and what was left out by reason.
        turns_per_second: of this run; blocks found finished do not count.
        notices: what to know.
    """

    path: Path | None
    counts: Mapping[str, int]
    turns_per_second: float
    notices: tuple[str, ...]

    def alerts(self) -> Iterator[Alert]:
        """All alerts of a run that was written."""
        if self.path is None:
            return
        with (self.path / ALERTS).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


class Seen(NamedTuple):
    """What a block gave. `alerts` is None where an earlier run has done the block."""

    alerts: list[Alert] | None
    counts: Counter[str]


def run(config: MonitorRunConfig, on_alert: Callable[[Alert], None] | None = None) -> RunResult:
    """Run a monitor; `on_alert` is handed each alert as it is found.

    Raises:
        ConfigError: a monitor without a threshold; settings that contradict each other.
        IntegrityError: another dictionary, or another model, than the monitor's; `out` holds another run.
        DataError, StorageError, ModelError: as reading chats, and a model, may.
    """
    monitor = read_monitor(config.monitor)
    if monitor.threshold is None:
        reason = (monitor.calibration.withheld if monitor.calibration else None) or "it was never calibrated"
        raise ConfigError(
            f"the monitor {monitor.name!r} has no threshold: {reason}",
            where=config.monitor,
            fix="fit it on more turns or for a higher rate, or write a threshold into the file",
        )
    notices = list(_notices(monitor))
    source = _OfIndex(monitor, config) if config.index is not None else _OfChats(monitor, config)
    start = time.monotonic()
    if config.out is None:
        total = Counter[str]()
        for seen in _shown(source.blocks(lambda number: False)):
            total.update(seen.counts)
            for alert in seen.alerts or ():
                if on_alert is not None:
                    on_alert(alert)
        counts = source.closed(total)
        notices += _unwatched(monitor, counts)
        return RunResult(None, counts, _rate(total["turns"], start), tuple(notices))
    with sole_writer(config.out):
        draft = begin(config.out, KIND, config, {"monitor": monitor.fingerprint, **source.inputs})
        if isinstance(draft, Artifact):
            if source.is_stream:
                raise IntegrityError(
                    "a finished run lies here, and a stream does not come twice", where=config.out,
                    fix="name another folder",
                )  # fmt: skip
            counts = draft.manifest.counts
            notices += _unwatched(monitor, counts)
            return RunResult(config.out, counts, 0.0, (*notices, "found finished"))
        made = _Pieces(draft, keep=not source.is_stream)
        done = 0
        for number, seen in enumerate(_shown(source.blocks(made.has))):
            if seen.alerts is not None:
                done += seen.counts["turns"]
                made.write(number, seen)
                for alert in seen.alerts:
                    if on_alert is not None:
                        on_alert(alert)
        total, n_found = made.join()
        counts = source.closed(total)
        write_json(draft.path / SUMMARY, _summary(monitor, counts))
        draft.commit(counts)
    notices += _unwatched(monitor, counts)
    if n_found:
        notices.append(f"{n_found} blocks were done by an earlier run")
    return RunResult(config.out, counts, _rate(done, start), tuple(notices))


def _notices(monitor: Monitor) -> Iterator[str]:
    if monitor.calibration is None:
        yield "this monitor was never calibrated: how many of its alerts are false is not known"
    elif not is_trusted(monitor):
        yield f"its held-out figures do not say that it does more than chance. {monitor.calibration.verdict}"


def _unwatched(monitor: Monitor, counts: Mapping[str, int]) -> list[str]:
    if counts.get("turns_scored", 0):
        return []
    roles = " or ".join(monitor.roles)
    return [f"no turn was scored, so silence says nothing: no turn of the role {roles} could be read"]


def _rate(turns: int, start: float) -> float:
    return turns / max(time.monotonic() - start, 1e-9)


def _shown(blocks: Iterator[Seen]) -> Iterator[Seen]:
    alerts = 0
    with progress("monitor", None, "turns") as bar:
        for seen in blocks:
            alerts += seen.counts["alerts"]
            bar.advance(seen.counts["turns"], alerts=alerts)
            yield seen


def _summary(monitor: Monitor, counts: Mapping[str, int]) -> dict[str, Any]:
    summary: dict[str, Any] = {"monitor": monitor.name, "fingerprint": monitor.fingerprint, "counts": dict(counts)}
    scored, reference = counts.get("turns_scored", 0), monitor.reference
    summary["alert_share"] = counts.get("alerts", 0) / scored if scored else None
    if reference is not None and reference.n_alerts is not None:
        summary["reference_alert_share"] = reference.n_alerts / reference.n_turns
    return summary


class _Pieces:
    """Finished blocks of a run, one file each."""

    def __init__(self, draft: Draft, *, keep: bool) -> None:
        self._draft, self._folder = draft, draft.work / "blocks"
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._found = {int(path.stem) for path in self._folder.glob("*.json")}
        self._last = -1

    def has(self, number: int) -> bool:
        """Whether an earlier run has done a block."""
        self._last = max(self._last, number)
        return number in self._found

    def write(self, number: int, seen: Seen) -> None:
        """Keep a block."""
        self._last = max(self._last, number)
        write_json(self._folder / f"{number:08d}.json", {"alerts": seen.alerts, "counts": dict(seen.counts)})

    def join(self) -> tuple[Counter[str], int]:
        """Write all alerts as one file; the sum of the counts, and how many blocks were found."""
        total = Counter[str]()
        with atomic_path(self._draft.path / ALERTS) as temp, temp.open("w", encoding="ascii", newline="\n") as file:
            for number in range(self._last + 1):
                path = self._folder / f"{number:08d}.json"
                try:
                    piece = json.loads(path.read_bytes())
                except (OSError, ValueError) as error:
                    raise IntegrityError(
                        f"a finished block is damaged: {error}", where=path, fix="delete this file"
                    ) from error
                total.update(piece["counts"])
                file.writelines(line_of(alert) for alert in piece["alerts"])
        return total, len(self._found)


def line_of(alert: Alert) -> str:
    """An alert as a line of JSON in ASCII: no control character of a chat reaches a terminal."""
    return json.dumps(alert, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


class _OfChats:
    """Blocks out of chats, through the model."""

    def __init__(self, monitor: Monitor, config: MonitorRunConfig) -> None:
        self._monitor, self._config = monitor, config
        self._files = files_of(config.files)
        self.is_stream = self._files == [STDIN]
        self.inputs: dict[str, str] = {"stdin": "a stream"} if self.is_stream else {}
        self.counts = Counter[str]()
        if not self.is_stream:
            for number, file in enumerate(self._files):
                if not file.is_file():
                    raise StorageError("no such file", where=file, fix="check the path of the chat file")
                if config.out is not None:
                    self.inputs[f"{number}:{file.name}"] = file_sha256(file)
        from turnscope.audit.monitors.live import Live

        self._live = Live(monitor, config)

    def blocks(self, is_done: Callable[[int], bool]) -> Iterator[Seen]:
        """What each block gives; one that is done is read over."""
        config = self._config
        chats = conversations(
            self._files, self.counts, chat_format=config.chat_format, allow_bad_lines=config.allow_bad_lines
        )
        most = config.block_turns or (1 if self.is_stream else BLOCK_TURNS)
        for number, part in enumerate(_cut(chats, most)):
            if is_done(number):
                yield Seen(None, Counter())
                continue
            block = self._live.block(part)
            counts = Counter({"conversations": len(part), **block.counts})
            counts.pop("turns", None)
            seen = score_block(self._monitor, block, None, block.texts or {}, config.characters, counts)
            for alert in seen.alerts or ():
                del alert["row"]  # a place in a block is nobody's business
            yield seen

    def closed(self, total: Counter[str]) -> dict[str, int]:
        """The final counts."""
        return {name: n for name, n in (total + self.counts).items() if n or name == "alerts"} | {
            "alerts": total["alerts"]
        }


class _OfIndex:
    """Blocks out of an index. No torch."""

    is_stream = False

    def __init__(self, monitor: Monitor, config: MonitorRunConfig) -> None:
        assert config.index is not None
        self._monitor, self._config = monitor, config
        self._index: FeatureIndex = open_index(config.index, config.transcripts)
        monitor.require_dictionary(self._index.artifact.manifest.inputs.get("sae", ""), config.index)
        self.inputs = {"index": self._index.artifact.fingerprint}

    def blocks(self, is_done: Callable[[int], bool]) -> Iterator[Seen]:
        """What each block gives."""
        index, config = self._index, self._config
        rows = everyday_rows(index, self._monitor.roles, config.splits)
        wanted_N = np.zeros(index.n_turns, np.bool_)
        wanted_N[rows] = True
        most = config.block_turns or 8 * BLOCK_TURNS
        for number, (block, block_rows) in enumerate(blocks_of(index, rows, most)):
            if is_done(number):
                yield Seen(None, Counter())
                continue
            said: dict[tuple[str, int], str] = {}
            counts = Counter({"conversations": len(set(block.turns["conversation_id"].to_pylist()))})
            seen = score_block(self._monitor, block, wanted_N[block_rows], said, config.characters, counts)
            yield self._with_texts(seen, block, block_rows)

    def _with_texts(self, seen: Seen, block: Block, block_rows: NDArray[np.int64]) -> Seen:
        if not seen.alerts:
            return seen
        rows = block_rows[[alert["row"] for alert in seen.alerts]]
        for alert, row in zip(seen.alerts, rows.tolist(), strict=True):
            alert["row"] = row  # of the index, not of the block
        if self._index.transcripts is None:
            return seen
        said = read_turns(self._index, rows, before=1)
        for alert, row in zip(seen.alerts, rows.tolist(), strict=True):
            alert["text"] = said[row][: self._config.characters]
            if -row - 1 in said:
                alert["before"] = said[-row - 1][: self._config.characters]
        return seen

    def closed(self, total: Counter[str]) -> dict[str, int]:
        """The final counts."""
        return dict(total) | {"alerts": total["alerts"]}


def _cut(chats: Iterator[Conversation], most_turns: int) -> Iterator[list[Conversation]]:
    part: list[Conversation] = []
    names = set[str]()
    turns = 0
    for chat in chats:
        name, times = chat.id, 1
        while name in names:  # two chats of one id would be read as one
            times += 1
            name = f"{chat.id}#{times}"
        names.add(name)
        part.append(replace(chat, id=name))
        turns += len(chat.turns)
        if turns >= most_turns:
            yield part
            part, names, turns = [], set(), 0
    if part:
        yield part


def score_block(
    monitor: Monitor, block: Block, wanted_N: NDArray[np.bool_] | None, texts: Mapping[tuple[str, int], str],
    characters: int, counts: Counter[str],
) -> Seen:  # fmt: skip
    """Scores of a block's turns of the monitor's roles, and an alert for each above the threshold."""
    assert monitor.threshold is not None
    role_N = np.asarray(block.turns["role"].to_pylist(), object)
    mine_N = np.isin(role_N, list(monitor.roles)) if block.n_turns else np.zeros(0, np.bool_)
    if wanted_N is not None:
        mine_N &= wanted_N
    scores_N = monitor.scorer.scores(block) if block.n_turns else np.zeros(0)
    alert_N = mine_N & (scores_N > monitor.threshold)
    counts.update(turns=block.n_turns, turns_scored=int(mine_N.sum()), alerts=int(alert_N.sum()))
    rows = np.flatnonzero(alert_N)
    places = block.turns.take(pa.array(rows)).to_pylist()
    known = {each.feature: each for each in monitor.reference.features} if monitor.reference else {}
    alerts = list[Alert]()
    for row, place in zip(rows.tolist(), places, strict=True):
        score = min(float(scores_N[row]), _MOST_SCORE)
        alert: Alert = {
            "monitor": monitor.name, "conversation_id": place["conversation_id"], "turn": place["turn"],
            "role": place["role"], "n_tokens": place["n_tokens"], "row": row, "score": short(score),
            "threshold": short(monitor.threshold), "features": _fired(monitor, block, row, known),
        }  # fmt: skip
        if monitor.reference is not None:
            alert["score_percentile"] = short(percentile_of(score, monitor.reference.scores))
        for name, turn in (("text", place["turn"]), ("before", place["turn"] - 1)):
            said = texts.get((place["conversation_id"], turn))
            if said is not None:
                alert[name] = said[:characters]
        alerts.append(alert)
    return Seen(alerts, counts)


def _fired(monitor: Monitor, block: Block, row: int, known: Mapping[int, FeatureTable]) -> list[dict[str, Any]]:
    """The monitor's features on a turn, the most telling first, with what is usual for them."""
    start, end = int(block.ptr[row]), int(block.ptr[row + 1])
    values = dict(zip(block.features_E[start:end].tolist(), block.values_E[start:end].tolist(), strict=True))
    weights = _weights(monitor.probe)
    fired = [feature for feature in monitor.scorer.features if values.get(feature, 0) > 0]
    fired.sort(key=lambda feature: -abs(weights.get(feature, 1.0) * values[feature]))
    found = list[dict[str, Any]]()
    for feature in fired:
        usual = known.get(feature)
        share = percentile_of(values[feature], usual.quantiles) if usual and usual.quantiles else None
        each: dict[str, Any] = {
            "feature": feature,
            "value": short(values[feature]),
            "percentile": share and short(share),
        }
        if feature in weights:
            each["contribution"] = short(weights[feature] * values[feature])
        if usual and usual.explanation:
            each["explanation"] = usual.explanation
        found.append(each)
    return found


def _weights(probe: ProbeTable | None) -> dict[int, float]:
    return {} if probe is None else dict(zip(probe.features, probe.weights, strict=True))
