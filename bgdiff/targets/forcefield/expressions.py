"""Recognise energy expressions: compare a text with a template, number by number and name by name.

OpenMM keeps the physics of a custom force in strings. Two strings mean the same here if they have the same
tokens, after names that are defined as plain numbers have been replaced by them; white space, the spelling of
numbers and the order of definitions do not matter. ``{name}`` in a template stands for any number.
"""

import math
import re

__all__ = ["match_expression"]

Token = float | str

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>\{?[A-Za-z_]\w*\}?)|(?P<sign>\S))"
)
_HEAD = ""


def match_expression(text: str, template: str) -> dict[str, float] | None:
    """Return the numbers that stand where ``template`` has placeholders, or None if the two differ.

    Both are an expression followed by definitions, ``"a*x + b; b = 2*c; c = 3"``. Definitions of plain
    numbers that nothing uses are allowed in ``text``, as OpenMM writes them. A placeholder that occurs
    more than once must stand for one number.
    """
    found = _split(text)
    wanted = _split(template)
    if found is None or wanted is None or found.keys() != wanted.keys():
        return None
    numbers: dict[str, float] = {}
    for name, tokens in wanted.items():
        if len(tokens) != len(found[name]):
            return None
        for expected, token in zip(tokens, found[name], strict=True):
            if isinstance(expected, str) and expected.startswith("{"):
                expected = numbers.setdefault(expected[1:-1], token) if isinstance(token, float) else math.nan
            if not _same(expected, token):
                return None
    return numbers


def _same(expected: Token, token: Token) -> bool:
    if isinstance(expected, float) and isinstance(token, float):
        return math.isclose(expected, token, rel_tol=1e-12)
    return expected == token


def _split(text: str) -> dict[str, list[Token]] | None:
    """Return the tokens of the head and of each definition that is more than a number; None if ambiguous."""
    parts: dict[str, list[Token]] = {}
    for index, part in enumerate(text.split(";")):
        name, equals, body = part.partition("=")
        if index == 0:
            name, body = _HEAD, part
        elif not part.strip():  # a semicolon at the end
            continue
        elif not equals:
            return None
        if name.strip() in parts:
            return None
        parts[name.strip()] = _tokens(body)
    constants = {
        name: value for name, tokens in parts.items() if name and (value := _constant(tokens)) is not None
    }
    return {
        name: [constants.get(token, token) if isinstance(token, str) else token for token in tokens]
        for name, tokens in parts.items()
        if name not in constants
    }


def _tokens(text: str) -> list[Token]:
    return [
        float(match["number"]) if match["number"] else match["name"] or match["sign"]
        for match in _TOKEN.finditer(text)
    ]


def _constant(tokens: list[Token]) -> float | None:
    sign = -1.0 if tokens[:1] == ["-"] else 1.0
    value = tokens[-1] if len(tokens) == (1 if sign > 0 else 2) else None
    return sign * value if isinstance(value, float) else None
