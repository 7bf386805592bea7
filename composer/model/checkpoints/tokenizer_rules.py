"""What would run for ever in a tokenizer: regexes that backtrack, and chat templates without bounds."""

from __future__ import annotations

import math
import re

import jinja2
from jinja2 import nodes

# Of real tokenizers the longest pattern has some five hundred characters, the longest template 20,000.
LONGEST_REGEX, LONGEST_TEMPLATE = 4000, 200_000
# A loop in a loop in a loop goes over messages, their tool calls and the arguments of these.
DEEPEST, DEEPEST_OF_RANGES = 4, 2
# The largest number that a template may speak of.
LARGEST_NUMBER = 1000
# They make long texts of nothing, or fill a text up to a width.
ENDLESS = {"lipsum", "center", "format", "format_map", "ljust", "rjust", "zfill", "expandtabs"}
# A text for `%` that asks for a width.
_WIDE = re.compile(r"%[-+ #0]*(\d{4,}|\*)")
_MARKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
# A quantifier, with the sign after it that makes it lazy or lets it give back nothing.
_REPEAT = re.compile(r"(?P<sign>[*+?])[+?]?|\{(?!\})(?P<fewest>\d*)(?P<comma>,?)(?P<most>\d*)\}\??")


def slow_regex(pattern: str) -> str | None:
    """Why a pattern may take twice the time for each character, as the end of a sentence; None: it may not.

    That takes something repeated that has a choice or another repetition in it: (a+)+, (a|aa)*, (a?a)+,
    a+{2,}. No tokenizer that is known has one. A fixed number of times is no choice: (\\p{N}{3})+.
    """
    if len(pattern) > LONGEST_REGEX:
        return f"is longer than {LONGEST_REGEX} characters"
    # For each open group, and the whole: whether there is a choice or a repetition in it. chooses: whether
    # there is one in what a repetition here would repeat.
    groups, chooses, place = [False], False, 0
    while place < len(pattern):
        if found := _REPEAT.match(pattern, place):
            place = found.end()
            fewest, most = _times(found)
            if chooses and most > 1:
                return "repeats a group that repeats or chooses, which may take years"
            chooses |= fewest != most
            groups[-1] |= chooses
            continue
        char, place = pattern[place], place + 1
        if char == "(":
            groups.append(False)
            place += pattern.startswith("?", place)
        elif char == "|":
            groups[-1] = True
        elif char == "[":
            place = _after_class(pattern, place)
        elif char == "\\":
            if pattern[place : place + 1] in ("g", "k"):
                return "calls itself, which may take years"
            place = _after_escape(pattern, place)
        chooses = False
        if char == ")" and len(groups) > 1:
            chooses = groups.pop()
            groups[-1] |= chooses
    return None


def slow_template(template: str) -> str | None:
    """Why a chat template could make texts without bounds, as the end of a sentence; None: it could not.

    Looks at what it does and not at what it says: loops in loops, multiplied texts, widths and ranges.
    """
    if len(template) > LONGEST_TEMPLATE:
        return f"is longer than {LONGEST_TEMPLATE} characters"
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_MARKS.sub("", template))
        # How long a range is, the template alone says.
        ranges = any(each.name == "range" for each in tree.find_all(nodes.Name))
        if _depth(tree) > (deepest := DEEPEST_OF_RANGES if ranges else DEEPEST):
            return f"has loops in loops, more than {deepest} deep"
        if any(tree.find_all((nodes.Mul, nodes.Pow))):
            return "multiplies, which may fill the memory"
        for each in tree.find_all((nodes.Name, nodes.Filter, nodes.Getattr)):
            name = getattr(each, "attr" if isinstance(each, nodes.Getattr) else "name")
            if name in ENDLESS:
                return f"uses {name}, which may fill the memory"
        for value in (each.value for each in tree.find_all(nodes.Const)):
            if isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER:
                return f"has a number above {LARGEST_NUMBER}"
            if isinstance(value, str) and _WIDE.search(value):
                return "fills a text up to a width, which may fill the memory"
    except (jinja2.TemplateError, RecursionError, ValueError):
        return "is no template that can be read"
    return None


def _depth(node: nodes.Node) -> int:
    below = max(map(_depth, node.iter_child_nodes()), default=0)
    return below + isinstance(node, nodes.For)


def _times(repeat: re.Match[str]) -> tuple[float, float]:
    """The fewest and the most times of a quantifier."""
    if repeat["sign"]:
        return {"?": (0, 1), "*": (0, math.inf), "+": (1, math.inf)}[repeat["sign"]]
    fewest = int(repeat["fewest"] or 0)
    most = int(repeat["most"] or 0) or math.inf
    return fewest, most if repeat["comma"] else fewest


def _after_class(pattern: str, place: int) -> int:
    """The place after a [class], which may have others in it."""
    depth, first = 1, True
    while place < len(pattern) and depth:
        char, place = pattern[place], place + 1
        if char == "\\":
            place += 1
        elif char == "[":
            depth += 1
        elif char == "]" and not first:
            depth -= 1
        first = first and char == "^"
    return place


def _after_escape(pattern: str, place: int) -> int:
    """The place after what follows a backslash: \\p{Lu} and \\x{41} have braces that repeat nothing."""
    found = re.compile(r"[pPx]\{[^}]*\}").match(pattern, place)
    return found.end() if found else place + 1
