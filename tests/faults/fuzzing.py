"""Fuzzers: many damaged inputs, each drawn from a seed and a number, and what a reader may make of them.

A case is a function of a random source. It damages an input, lets a reader of the project have it, and returns one word
for the outcome; what it raises beyond that is a failure. `FAULT_CASES` (`make faults CASES=10000`) sets how many cases
the tests marked `fault` draw, `FAULT_SEED` from which seed; both are printed, and seed and number draw a case again.
"""

import json
import os
import random
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from common.errors import InputError, one_line

CASES = int(os.environ.get("FAULT_CASES") or 2000)
SEED = int(os.environ.get("FAULT_SEED") or 0)
FEW = 30
"""Cases of each reader in the default suite."""

Case = Callable[[random.Random], str]

amounts = pytest.mark.parametrize("n", [FEW, pytest.param(CASES, marks=pytest.mark.fault)])
"""Of a test of one reader: a few cases by default, all of them by `make faults`."""


def run_cases(reader: str, case: Case, n: int, *, allowed: Iterable[str], shown: str) -> Counter[str]:
    """Draw `n` cases; an InputError is the outcome "refused". Fails with the first failures if there are any.

    Writes the counts for docs/reliability.md where `FAULT_RESULTS` names a folder. allowed: the outcomes that a case
    may have. shown: what a user sees, for the table.
    """
    print(f"{reader}: {n} cases, seed {SEED}")
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(n):
        try:
            outcome = _outcome(case, random.Random(f"{SEED}/{reader}/{number}"))
            assert outcome in {*allowed}, f"the outcome {outcome!r} is none of {', '.join(allowed)}"
            outcomes[outcome] += 1
        except Exception:
            failures.append(f"seed {SEED}, case {number}:\n{traceback.format_exc()[-1500:]}")
    if folder := os.environ.get("FAULT_RESULTS"):
        row = {"fault": reader, "cases": n, "outcomes": outcomes, "failures": len(failures), "shown": shown}
        (Path(folder) / f"{reader.replace(' ', '_')}.json").write_text(json.dumps(row))
    print(f"  {dict(outcomes)}, {len(failures)} failures")
    assert not failures, f"{len(failures)} of {n} cases failed\n" + "\n".join(failures[:5])
    return outcomes


def _outcome(case: Case, chance: random.Random) -> str:
    """The case's own, or "refused" for an InputError, whose message must be a line for people."""
    try:
        return case(chance)
    except InputError as error:
        line = one_line(error)  # as `run_main` prints it
        assert 10 < len(line) < 2100, line[:200]
        assert "Traceback" not in line
        assert not re.search(r"<[\w.]+ object at 0x", line), line
        return "refused"


# ------------------------------------------------------------------------------------------------------ damage


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to four faults of the kinds that disks, transfers and people make."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(FAULTS)(content, chance)
    return bytes(content)


def flip_bit(content: bytearray, chance: random.Random) -> None:
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def set_byte(content: bytearray, chance: random.Random) -> None:
    if content:
        content[chance.randrange(len(content))] = chance.choice((0, 255, 127, 128, chance.randrange(256)))


def cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content) + 1) :]


def lose(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content) + 1)
    del content[start : start + chance.choice((1, 2, 16, 512, 4096))]


def repeat(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content) + 1)
    content[start:start] = content[start : start + chance.choice((1, 16, 512))]


def insert(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content) + 1)
    content[start:start] = chance.choice((b"\0", b"\r\n", b"\xef\xbb\xbf", chance.randbytes(8), b"9" * 30))


def blank(content: bytearray, chance: random.Random) -> None:
    """A block of zeros, as a file system leaves it after a power cut."""
    start = chance.randrange(len(content) + 1)
    end = min(len(content), start + chance.choice((16, 512, 4096)))
    content[start:end] = bytes(end - start)


def exchange(content: bytearray, chance: random.Random) -> None:
    """Two stretches in each other's place."""
    if len(content) > 64:
        one, other = sorted(chance.sample(range(0, len(content) - 16, 16), 2))
        content[one : one + 16], content[other : other + 16] = content[other : other + 16], content[one : one + 16]


def change_head(content: bytearray, chance: random.Random) -> None:
    """A byte of the first 300, where formats keep sizes."""
    if content:
        content[chance.randrange(min(300, len(content)))] = chance.randrange(256)


FAULTS = (flip_bit, flip_bit, set_byte, cut, lose, repeat, insert, blank, exchange, change_head)

ODD_TEXTS = (
    "",
    " ",
    "-",
    "--",
    "=",
    ",",
    "|",
    "..",
    "a..b",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-999",
    "-1",
    "0",
    "9" * 40,
)
ODD_TEXTS += ("1.5", "true", "None", "none", "é", "\u202e", "\U0001f9e0", "a" * 10_000, "\n", "\0", "'", '"', "`id`")
ODD_TEXTS += ("$(id)", "%s", "{}", "../..", "/dev/null", "/", "~", "~nobody-here/x", "[", "]", "log:", "1,2,", "0x10")


def odd_text(chance: random.Random) -> str:
    """A value that nobody expects: one of ODD_TEXTS, or characters in a row."""
    if chance.random() < 0.7:
        return chance.choice(ODD_TEXTS)
    return "".join(chance.choice("abz019.,:;=|-+*/\\@#~ \téß") for _ in range(chance.randrange(12)))


def odd_json(chance: random.Random, depth: int = 0) -> object:
    """A JSON value of any shape."""
    kind = chance.randrange(9 if depth < 3 else 6)
    if kind < 6:
        numbers = (0, -1, 2.5, 10**20, -(10**400), 1e308, float("nan"), float("inf"), True, False, None)
        return odd_text(chance)[:200] if kind < 2 else chance.choice(numbers)
    if kind < 8:
        return [odd_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {odd_text(chance)[:20]: odd_json(chance, depth + 1) for _ in range(chance.randrange(4))}


def changed_json(value: object, chance: random.Random) -> object:
    """`value` with one part of it replaced, left out or doubled, at any depth."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        if chance.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: changed_json(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        if chance.random() < 0.2:
            return [*value[:at], *value[at + 1 :]] if chance.random() < 0.5 else [*value, value[at]]
        return [*value[:at], changed_json(value[at], chance), *value[at + 1 :]]
    return odd_json(chance)
