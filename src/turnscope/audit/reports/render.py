"""The report as one page of Markdown or HTML. Words of a transcript are text: nothing in them is rendered.

HTML is autoescaped, holds no script and nothing from outside, and says so in a Content-Security-Policy that allows its
one style sheet by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from turnscope.artifacts.text import visible

_EVIDENCE = 180  # characters of a turn on the page
_REASONS = {
    "dropped.role": "turns of roles that are not read",
    "dropped.too_long": "turns of conversations longer than the model's context",
    "dropped.refused": "turns of conversations that the chat template refuses",
    "dropped.empty": "turns without a token",
    "dropped.cut": "turns that lie in a part that was cut off",
    "dropped.not_finite": "turns whose activations are not finite",
    "conversations.windowed": "conversations read in windows, without sight of what came before",
    "conversations.truncated": "conversations of which only the last tokens were read",
    "conversations.too_long": "conversations longer than the model's context",
    "conversations.refused": "conversations that the chat template refuses",
    "bad_lines": "lines that could not be read",
    "dropped_no_words": "conversations without a word",
    "near_duplicate": "conversations nearly the same as another (kept)",
    "duplicate_conversation": "conversations with the words of another (kept)",
    "tokens.sinks": "tokens without codes (first of a conversation, or of outlying norm)",
}  # fmt: skip
_NOT_LEFT_OUT = {
    "import": ("records", "conversations", "turns", "groups", "largest_group", "split_"),
    "harvest": (
        "conversations",
        "turns",
        "turns.kept",
        "shards",
        "tokens.averaged",
        "tokens.stored",
        "render.turns_exact",
        "render.prefix_stable",
        "render.as_of_reruns",
    ),
    "index": ("turns", "entries", "features", "tokens"),
}
"""Counts of what was read; names that end in _ are beginnings."""


def render_html(report: dict[str, Any]) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def seen(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("turnscope.audit.reports"), autoescape=True, finalize=seen, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(_FILTERS)
    style = (resources.files("turnscope.audit.reports") / "templates" / "audit.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # the style sheet is of the package; a wrong mark-up in it would be ours
    return environment.get_template("audit.html.j2").render(
        report=report, left_out=left_out(report["dropped"]), style=Markup(style), style_hash=digest,
    )  # fmt: skip


def render_markdown(report: dict[str, Any]) -> str:
    """The same as Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def escaped(value: Any) -> Any:
        return _markdown(value) if isinstance(value, str) and not isinstance(value, _Plain) else value

    environment = Environment(
        loader=PackageLoader("turnscope.audit.reports"), autoescape=False, finalize=escaped,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update({**_FILTERS, "said": _said})
    return environment.get_template("audit.md.j2").render(report=report, left_out=left_out(report["dropped"]))


def left_out(dropped: dict[str, dict[str, int]]) -> list[tuple[str, int]]:
    """What stages left out or changed, in words, the most first."""
    rows = [
        (_REASONS.get(name, f"{name.replace('_', ' ').replace('.', ': ')} ({stage})"), n)
        for stage, counts in dropped.items()
        for name, n in counts.items()
        if not _is_read(stage, name)
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _is_read(stage: str, name: str) -> bool:
    known = _NOT_LEFT_OUT[stage]
    if stage == "index" and name.startswith("features."):
        return True
    return name in known or any(name.startswith(each) for each in known if each.endswith("_"))


class _Plain(str):
    """Made here of numbers alone, or escaped already."""

    __slots__ = ()


def _markdown(text: str) -> str:
    """Text that cannot become mark-up, break out of a table, open HTML or become a link by itself."""
    plain = "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~&$" else c for c in visible(text))
    return plain.replace("://", "\\://").replace("www.", "www\\.")


def _said(each: dict[str, Any]) -> str:
    """Where a turn stands and its words, for Markdown."""
    whose = " (of the baseline)" if each.get("of") == "baseline" else ""
    place = f"{_ident(each['conversation_id'])} turn {each['turn']}, {each['role']}{whose}: "
    return _Plain(_markdown(place + (_cut(each["text"]) if each.get("text") is not None else "no text at hand")))


def _cut(text: str | None, most: int = _EVIDENCE) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= most else words[: most - 1] + "…"


def _ident(text: str, most: int = 60) -> str:
    """The name of a conversation or file; the end of a long one is kept, since there its number is."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def _number(value: int) -> str:
    return _Plain(f"{value:,}")


def _decimal(value: float | None, digits: int = 2) -> str:
    return _Plain("–" if value is None else f"{value:.{digits}f}")


def _percent(value: float | None) -> str:
    if value is None:
        return _Plain("–")
    return _Plain(f"{value:.2%}" if 0 < value < 0.01 else f"{value:.1%}")


def _auroc(value: float | None) -> str:
    if value is None:
        return _Plain("–")
    return _Plain("1" if value >= 1 else f"{min(value, 0.999):.3f}".removeprefix("0"))


def _chance(value: float | None) -> str:
    return _Plain("–" if value is None else "< .0001" if value < 1e-4 else f"{value:.4f}".removeprefix("0"))


def _interval(value: list[float] | None, form: str = "auroc") -> str:
    if value is None:
        return _Plain("withheld")
    shown = {"auroc": _auroc, "percent": _percent, "decimal": _decimal}[form]
    return _Plain(f"{shown(value[0])} to {shown(value[1])}")


def _mix(values: list[list[Any]]) -> str:
    """Shares of the most frequent values, such as `assistant 50%, user 50%`."""
    total = sum(n for _, n in values)
    told = [(name, n) for name, n in values if name and n >= 0.005 * total]
    return ", ".join(f"{name} {n / total:.0%}" for name, n in told) if told else "not told"


_FILTERS = {
    "cut": _cut, "ident": _ident, "number": _number, "decimal": _decimal, "percent": _percent, "auroc": _auroc,
    "chance": _chance, "interval": _interval, "mix": _mix,
}  # fmt: skip
