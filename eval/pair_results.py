"""What an evaluation of a pair found, as figures: results.json and the table that is printed."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import results
from .pair_rows import NAMES, PairRow
from .rows import Status

#: What each classifier is called.
WORDS = {"pair": "pair", "f": "f alone", "g": "g alone", "average": "averaged logits"}
#: The ends of what is known of both questions.
ENDS = {
    "silent_error_lower": "silent error, found (a lower bound)",
    "silent_error_upper": "silent error, not excluded (an upper bound)",
    "abstention_lower": "no answer or a wrong one, found (a lower bound)",
    "abstention_upper": "no answer or a wrong one, not excluded (an upper bound)",
}


def is_of(out: Path) -> bool:
    """Whether a directory has results, of a pair."""
    try:
        return "classifiers" in results.read(out)
    except ValueError:
        return False


def figures(
    identity: Mapping[str, Any],
    name: str,
    source: str | None,
    rows: Iterable[PairRow],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of results.json, as `results.results`: shares are of all n.

    Of each classifier `clean_error`, `clean_abstention`, and, where a bound was asked for,
    `certified_error`: what the bounds, the complete stage left out, do not exclude. `ENDS` counts
    all stages.
    """
    rows = list(rows)
    n, bounded = len(rows), set(identity["stages"]) & {"ibp", "lp", "crown", "alpha"}
    found = {each: _classifier(rows, each, bool(bounded)) for each in NAMES}
    wrong = (Status.MISCLASSIFIED, Status.FALSIFIED)
    counts = {
        "silent_error_lower": sum(row.silent in wrong for row in rows),
        "silent_error_upper": sum(row.silent is not Status.VERIFIED for row in rows),
        "abstention_lower": sum(row.abstains is Status.FALSIFIED for row in rows),
        "abstention_upper": sum(row.abstains is not Status.VERIFIED for row in rows),
    }
    return {
        "schema": results.SCHEMA,
        "model": name,
        "source": source,
        **{key: identity[key] for key in results.SETTINGS},
        "first": min(row.index for row in rows),
        "n": n,
        "classifiers": found,
        **{key: count / n for key, count in counts.items()},
        "undecided": sum(row.silent is Status.UNKNOWN for row in rows),
        "decided": {
            question: {
                stage: sum(getattr(row, f"{question}_by") == stage for row in rows)
                for stage in identity["stages"]
            }
            for question in ("silent", "abstains")
        },
        "seconds": {stage: round(seconds.get(stage, 0.0), 3) for stage in identity["stages"]},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": results.versions(),
        "weights_sha256": identity["weights_sha256"],
    }


def _classifier(rows: Sequence[PairRow], name: str, bounded: bool) -> dict[str, float]:
    answers = [(getattr(row, name), row.label) for row in rows]
    found = {
        "clean_error": sum(answer not in (-1, label) for answer, label in answers),
        "clean_abstention": sum(answer == -1 for answer, _ in answers),
    }
    if bounded:
        proven = (
            row.margin(name) > 0 and (answer == label or (name == "pair" and answer == -1))
            for row, (answer, label) in zip(rows, answers, strict=True)
        )
        found["certified_error"] = len(rows) - sum(proven)
    return {key: count / len(rows) for key, count in found.items()}


def table(found: Mapping[str, Any]) -> str:
    """The figures as lines to print."""
    n = found["n"]
    columns = {"clean_error": "clean error", "clean_abstention": "clean abstention"}
    if "certified_error" in found["classifiers"]["pair"]:
        columns["certified_error"] = "certified error"
    width = max(map(len, WORDS.values()))
    lines = [results.title(found), f"  {'':<{width}}  " + "  ".join(columns.values())]
    for name, words in WORDS.items():
        shares = found["classifiers"][name]
        cells = (f"{shares[key]:>{len(text)}.2%}" for key, text in columns.items())
        lines.append(f"  {words:<{width}}  " + "  ".join(cells))
    ends = [(words, found[key]) for key, words in ENDS.items()]
    ends.append(("silent error, undecided", found["undecided"] / n))
    wide = max(len(words) for words, _ in ends)
    lines += [f"  {words:<{wide}}  {share:>7.2%}" for words, share in ends]
    took = ", ".join(f"{stage} {spent:.1f}" for stage, spent in found["seconds"].items())
    return "\n".join([*lines, f"  seconds: {took}"])
