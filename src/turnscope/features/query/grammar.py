"""The text of a query to its tree: an LALR(1) grammar, so time grows with length alone. Nothing is evaluated."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, cast

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from turnscope.features.query.errors import QueryError, did_you_mean, quoted
from turnscope.features.query.tree import (
    WORD,
    And,
    Count,
    FeatureTest,
    FieldTest,
    Near,
    Node,
    Not,
    Operator,
    Or,
    Place,
    Threshold,
    Value,
)

GRAMMAR = r"""
    start: either
    either: both (_OR both)*
    both: negated (_AND negated)*
    negated: NOT* (_OPEN either _CLOSE | bare | compare)
    bare: _subject
    compare: _subject COMPARE _value
    _subject: FEATURE | STRING | LABEL | WORD | call
    call: WORD _OPEN (argument (_COMMA argument)*)? _CLOSE
    argument: either | NUMBER
    _value: NUMBER | PERCENTILE | TIMES_MAX | STRING | WORD | FEATURE

    _OPEN: "("
    _CLOSE: ")"
    _COMMA: ","
    _OR.3: /\|\|?|(or|OR)(?![\w-])/
    _AND.3: /&&?|(and|AND)(?![\w-])/
    NOT.3: /!(?!=)|(not|NOT)(?![\w-])/
    COMPARE: /[<>!=]=|[<>=]/
    FEATURE.2: /[Ff][0-9]+(?![\w-])/
    PERCENTILE.2: /p([0-9]+(\.[0-9]*)?|\.[0-9]+)(?![\w.-])/
    TIMES_MAX.2: /(([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*\*?\s*)?max(?![\w-])/
    NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?(?![\w.])/
    LABEL.2: /label\.([^\W\d][\w-]*|"([^"\\]|\\["'\\])*"|'([^'\\]|\\["'\\])*')/
    STRING: /"([^"\\]|\\["'\\])*"|'([^'\\]|\\["'\\])*'/
    WORD: /[^\W\d][\w-]*/
    %ignore /\s+/
"""
_FUNCTIONS = {"next": "[N,] query", "prev": "[N,] query", "within": "N, query", "any": "query", "all": "query",
              "count": "query", "label": '"words"', "has": "field"}  # fmt: skip
_EXAMPLES = {
    "has": "has(topic)",
    "label": 'label("polite refusal")',
    "next": "next(F12) or next(3, F12)",
    "prev": "prev(F12) or prev(3, F12)",
    "within": "within(3, F12)",
}
_TERM = 'a term is a feature (F12, "words of its explanation"), a field (role = user), a function or a bracket'


class Limits(NamedTuple):
    """What a query may ask for. `seconds` is checked between steps; None for no limit."""

    characters: int = 4096
    depth: int = 32
    terms: int = 64
    distance: int = 10_000
    seconds: float | None = None


DEFAULT_LIMITS = Limits()


def parse(text: str, limits: Limits = DEFAULT_LIMITS) -> Node:
    """The tree of a query. Raises QueryError, which points at the column."""
    if len(text) > limits.characters:
        raise QueryError(
            f"the query has {len(text):,} characters, more than {limits.characters:,}", text, limits.characters,
            fix="make it shorter, or ask in parts",
        )  # fmt: skip
    if not text.strip():
        raise QueryError("the query is empty", text, 0, fix=f"try F0; {_TERM}")
    return _Builder(text, limits).either(cast("Tree[Token]", _tree(text, limits).children[0]))


@functools.cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", lexer="contextual", maybe_placeholders=False)


def _tree(text: str, limits: Limits) -> Tree[Token]:
    """The parser's tree. Depth is held down token by token, before anything recursive sees the tree."""
    steps = _parser().parse_interactive(text)
    last, opened, terms = None, list[Token](), 0
    try:
        for token in steps.iter_parse():
            last = token
            if token.type == "_OPEN":
                opened.append(token)
                if len(opened) > limits.depth:
                    _stop(f"brackets stand more than {limits.depth} deep", text, token)
            elif token.type == "_CLOSE" and opened:
                opened.pop()
            elif token.type in ("FEATURE", "STRING", "LABEL", "WORD", "NUMBER"):
                terms += 1
                if terms > 3 * limits.terms:
                    _stop(f"the query has more than {limits.terms} terms", text, token)
        return cast("Tree[Token]", steps.feed_eof(last))
    except UnexpectedInput as error:
        raise _syntax_error(error, text, opened) from None


def _stop(what: str, text: str, token: Token) -> NoReturn:
    raise QueryError(what, text, token.start_pos or 0, token.end_pos, fix="make it simpler, or ask in parts")


def _syntax_error(error: UnexpectedInput, text: str, opened: Sequence[Token]) -> QueryError:
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        # at what is open when that is all that is wrong, else at the end
        if opened and "_CLOSE" in error.expected:
            start = opened[-1].start_pos or 0
            return QueryError("this bracket is not closed", text, start, fix="add )")
        at = len(text.rstrip())
        return QueryError("the query ends too early", text, at, fix=_expected(error.expected))
    start = error.pos_in_stream or 0
    end = error.token.end_pos if isinstance(error, UnexpectedToken) else None
    found = text[start : end or start + 1]
    if found[0] in "\"'":
        if isinstance(error, UnexpectedCharacters):
            fix = f"end it with {found[0]}; inside, only \\\" \\' and \\\\ are escapes"
            return QueryError("this text in quotes has no end", text, start, len(text), fix=fix)
    elif found[0] == ")" and not opened:
        return QueryError("this bracket closes nothing", text, start, fix="take it away, or open one before")
    expected = error.expected if isinstance(error, UnexpectedToken) else cast("Any", error).allowed or set[str]()
    return QueryError(
        f"{quoted(found)} cannot stand here", text, start, end, fix=_expected(expected, found, in_brackets=bool(opened))
    )


def _expected(expected: set[str], found: str = "", *, in_brackets: bool = False) -> str:
    if "FEATURE" in expected and "COMPARE" not in expected and "NOT" not in expected:
        return "after a comparison sign comes a number, p90, 0.5max, a word, or text in quotes"
    if "FEATURE" in expected:
        if found[:1].isdigit() or found[:1] in ("+", "-", "."):
            return "a comparison begins with a feature or a field: F12 > 0.4"
        return _TERM
    if found[:1] in ("<", ">", "=", "!"):
        return "two comparisons are joined by &: F12 > 0.2 & F12 < 0.6"
    return "terms are joined by & (and) or | (or)" + (", brackets are closed by )" if in_brackets else "")


class _Builder:
    """From the parser's tree to ours. Recursion is as deep as brackets are, which is limited."""

    def __init__(self, text: str, limits: Limits) -> None:
        self._text, self._limits, self._terms = text, limits, 0

    def either(self, tree: Tree[Token]) -> Node:
        items = [self._both(item) for item in _trees(tree)]
        return items[0] if len(items) == 1 else Or(_flat(items, Or))

    def _both(self, tree: Tree[Token]) -> Node:
        items = [self._negated(item) for item in _trees(tree)]
        return items[0] if len(items) == 1 else And(_flat(items, And))

    def _negated(self, tree: Tree[Token]) -> Node:
        inner = cast("Tree[Token]", tree.children[-1])
        node = self.either(inner) if inner.data == "either" else self._test(inner)
        for _ in tree.children[:-1]:
            node = node.item if isinstance(node, Not) else Not(node)
        return node

    def _test(self, tree: Tree[Token]) -> Node:
        subject, *rest = tree.children
        compare = cast("tuple[Token, Token]", tuple(rest)) if rest else None
        if isinstance(subject, Tree):
            return self._call(subject, compare)
        self._count_term(subject)
        if subject.type == "FEATURE":
            return self._feature(int(subject[1:]), compare, _place(subject))
        if subject.type == "STRING":
            return self._feature(self._words(subject), compare, _place(subject))
        name, is_label = self._field(subject)
        if compare is None:
            shown = str(subject)
            raise self._error(
                f"the field {quoted(shown)} is compared with nothing", subject,
                fix=f"write has({shown}), or {shown} = ..."
                + (f"; functions take brackets: {shown}({_FUNCTIONS[shown]})" if shown in _FUNCTIONS else ""),
            )  # fmt: skip
        sign, value = compare
        return FieldTest(name, is_label, _operator(sign), self._value(value), _place(subject))

    def _feature(self, feature: int | str, compare: tuple[Token, Token] | None, place: Place) -> FeatureTest:
        if compare is None:
            return FeatureTest(feature, None, None, place)
        sign, value = compare
        return FeatureTest(feature, _operator(sign), self._threshold(value), place)

    def _threshold(self, token: Token) -> Threshold:
        place = _place(token)
        if token.type == "NUMBER":
            return Threshold("raw", self._number(token), place)
        if token.type == "TIMES_MAX":
            factor = token[:-3].rstrip().rstrip("*").rstrip()
            return Threshold("max", self._finite(float(factor or "1"), token), place)
        if token.type == "PERCENTILE":
            percent = float(token[1:])
            if percent > 100:
                raise self._error("a percentile lies between 0 and 100", token)
            return Threshold("percentile", percent, place)
        raise self._error(
            "a feature is compared with a number, a percentile or a part of its maximum", token,
            fix="F12 > 0.4, F12 > p90 (of its active values) or F12 > 0.5max",
        )  # fmt: skip

    def _value(self, token: Token) -> Value:
        if token.type == "NUMBER":
            return Value(self._number(token), _place(token))
        if token.type == "STRING":
            return Value(_unquoted(token), _place(token))
        if not WORD.fullmatch(token):
            raise self._error("only a feature is compared with parts of a maximum", token, fix="put text in quotes")
        return Value({"true": True, "false": False}.get(token, str(token)), _place(token))

    def _call(self, tree: Tree[Token], compare: tuple[Token, Token] | None) -> Node:
        token, *arguments = cast("tuple[Token, *tuple[Tree[Token], ...]]", tuple(tree.children))
        name, place = str(token), _place(token)
        if name not in _FUNCTIONS:
            fix = did_you_mean(name, _FUNCTIONS) or f"functions are {', '.join(_FUNCTIONS)}"
            raise self._error(f"no function {quoted(name)}", token, fix=fix)
        if compare and name not in ("count", "label"):
            fix = "F12 > 0.4 goes inside: next(F12 > 0.4)"
            raise self._error(f"{name}(...) is true or false and is compared with nothing", compare[0], fix=fix)
        if name == "label":
            words = self._only(arguments, token, "STRING")
            self._count_term(token)
            return self._feature(self._words(words), compare, place)
        if name == "has":
            field, is_label = self._field(self._only(arguments, token, "WORD", "LABEL"))
            self._count_term(token)
            return FieldTest(field, is_label, None, None, place)
        if name in ("next", "prev", "within"):
            return self._near(name, arguments, token)
        if len(arguments) != 1 or isinstance(arguments[0].children[0], Token):
            raise self._usage(token)
        item = self.either(arguments[0].children[0])
        self._count_term(token)
        if name == "any":
            return Count(item, ">", 0.0, place)
        if name == "all":
            return Count(item.item if isinstance(item, Not) else Not(item), "=", 0.0, place)
        if compare is None or compare[1].type != "NUMBER":
            raise self._error("count(...) is compared with a number", token, fix="count(F12) >= 3")
        return Count(item, _operator(compare[0]), self._number(compare[1]), place)

    def _near(self, name: str, arguments: Sequence[Tree[Token]], token: Token) -> Near:
        first = arguments[0].children[0] if arguments else None
        steps = first if isinstance(first, Token) else None
        inner = arguments[1:] if steps is not None else arguments
        if len(inner) != 1 or isinstance(inner[0].children[0], Token) or (steps is None and name == "within"):
            raise self._usage(token)
        number = 1.0 if steps is None else self._number(steps)
        if steps is not None and not (number.is_integer() and 1 <= number <= self._limits.distance):
            raise self._error(f"turns are counted from 1 to {self._limits.distance:,}", steps)
        n = int(number)
        self._count_term(token)
        item = self.either(inner[0].children[0])
        low, high = {"next": (1, n), "prev": (-n, -1), "within": (-n, n)}[name]
        return Near(low, high, item, _place(token))

    def _usage(self, token: Token) -> QueryError:
        usage = f"{token}({_FUNCTIONS[str(token)]})"
        return self._error(f"{token} is written {usage}", token, fix=_EXAMPLES.get(str(token), f"{token}(F12)"))

    def _only(self, arguments: Sequence[Tree[Token]], token: Token, *types: str) -> Token:
        """The one argument of a function that takes a name or a text, not a query."""
        leaf = arguments[0].children[0] if len(arguments) == 1 else token
        while isinstance(leaf, Tree) and len(leaf.children) == 1 and leaf.data != "call":
            leaf = leaf.children[0]
        if not isinstance(leaf, Token) or leaf is token or leaf.type not in types:
            raise self._usage(token)
        return leaf

    def _field(self, token: Token) -> tuple[str, bool | None]:
        if token.type != "LABEL":
            return str(token), None
        name = token[len("label.") :]
        return (_unquoted(name) if name[0] in "\"'" else name), True

    def _words(self, token: Token) -> str:
        words = _unquoted(token)
        if not re.search(r"\w", words):
            raise self._error("these words name no feature", token, fix='"words of its explanation"')
        return words

    def _number(self, token: Token) -> float:
        return self._finite(float(token), token)

    def _finite(self, number: float, token: Token) -> float:
        if not math.isfinite(number):
            raise self._error("this number is too large", token)
        return number

    def _count_term(self, token: Token) -> None:
        self._terms += 1
        if self._terms > self._limits.terms:
            _stop(f"the query has more than {self._limits.terms} terms", self._text, token)

    def _error(self, what: str, token: Token, *, fix: str = "") -> QueryError:
        return QueryError(what, self._text, token.start_pos or 0, token.end_pos, fix=fix)


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    return cast("list[Tree[Token]]", tree.children)


def _flat(items: Sequence[Node], kind: type[And] | type[Or]) -> tuple[Node, ...]:
    return tuple(part for item in items for part in (item.items if isinstance(item, kind) else (item,)))


def _place(token: Token) -> Place:
    return Place(token.start_pos or 0, token.end_pos or 0)


def _operator(token: Token) -> Operator:
    return cast("Operator", "=" if token == "==" else str(token))


def _unquoted(literal: str) -> str:
    return re.sub(r"\\(.)", r"\1", literal[1:-1])
