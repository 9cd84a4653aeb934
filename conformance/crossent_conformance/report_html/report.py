"""The results of `crossent conform` as a page: the matrices, the error plots, what was run, the contract's words."""

from __future__ import annotations

from typing import Any

from crossent_conformance import figure
from crossent_conformance.report_html import matrix, run
from crossent_conformance.report_html.frame import document
from crossent_conformance.report_html.words import (
    CLASSES,
    FAILS,
    HOLDS,
    NOT,
    SIGNS,
    breakable,
    clauses_by_status,
    count,
    text,
)


def page(results: dict[str, Any]) -> str:
    """The report on the results."""
    subjects = results["subjects"]
    name = subjects[0]["name"] if len(subjects) == 1 else f"{len(subjects)} implementations"
    parts = [f"<header><h1>Conformance of {breakable(name)}</h1>", _opening(results), "</header><main>"]
    if len(subjects) > 1:
        parts.append(_overview(subjects, results["contract"]))
    parts += [_subject(subject, number, results) for number, subject in enumerate(subjects)]
    parts += [_plots(results), run.what_was_run(results), run.contract(results), "</main>"]
    return document(f"Conformance of {name}", "".join(parts))


def _opening(results: dict[str, Any]) -> str:
    said = (
        "Each clause of the contract of cross-entropy, asked of an implementation on every backend and dtype that it "
        "takes, and judged against a 60-digit oracle."
    )
    when = f"{results['created']} · {results['seconds']:g} s · seed {results['seed']}"
    stopped = (
        ""
        if results["complete"]
        else '<p class="stopped">✕ The run was interrupted: here is what it had finished; the rest was not asked.</p>'
    )
    return f'<p>{said}</p><p class="soft small">{text(when)}</p>{stopped}'


def _overview(subjects: list[dict[str, Any]], contract: dict[str, str]) -> str:
    lines = "".join(
        f'<li><a href="#s{number}">{breakable(subject["name"])}</a>{_version(subject)}: {_verdict(subject)}</li>'
        for number, subject in enumerate(subjects)
    )
    return (
        f'<section aria-labelledby="glance"><h2 id="glance">At a glance</h2>'
        f'<ul class="subjects">{lines}</ul>{matrix.glance(subjects, contract)}</section>'
    )


def _verdict(subject: dict[str, Any]) -> str:
    status, words = verdict(subject)
    return f'<span class="verdict {CLASSES[status]}">{SIGNS[status]} {text(words)}</span>'


def verdict(subject: dict[str, Any]) -> tuple[str, str]:
    """The status of an implementation and what is said of it in one line."""
    clauses = clauses_by_status(subject)
    failing = clauses[FAILS]
    if failing:
        asked = len(failing) + len(clauses[HOLDS])
        return FAILS, f"fails {len(failing)} of the {count(asked, 'clause')} that apply"
    if clauses[HOLDS]:
        return HOLDS, f"all that applies holds: {count(len(clauses[HOLDS]), 'clause')}"
    return NOT, "nothing that was asked applies"


def _subject(subject: dict[str, Any], number: int, results: dict[str, Any]) -> str:
    held, failed, other = (sum(cell[key] for cell in subject["cells"]) for key in ("held", "failed", "not_applicable"))
    cells = [cell["status"] for cell in subject["cells"]]
    clauses = clauses_by_status(subject)
    totals = (
        f"{count(held, 'case')} held, {failed} failed, {other} did not apply. Of {count(len(cells), 'cell')} below, "
        f"{cells.count(HOLDS)} hold, {cells.count(FAILS)} fail, {cells.count(NOT)} do not apply."
    )
    if clauses[FAILS]:
        totals += f" What fails: {', '.join(clauses[FAILS])}."
    asked = [clause for found in clauses.values() for clause in found]
    missing = [clause for clause in results["contract"] if clause not in asked]
    if missing:
        totals += f" No case was asked of {', '.join(missing)}."
    notes = "".join(f"<li>{text(note)}</li>" for note in subject["notes"])
    return (
        f'<section aria-labelledby="s{number}"><h2 id="s{number}">{breakable(subject["name"])}{_version(subject)}</h2>'
        f"<p>{_verdict(subject)}</p><p>{text(totals)}</p>"
        + (f'<details class="small"><summary>How it was asked</summary><ul>{notes}</ul></details>' if notes else "")
        + matrix.matrix(subject, number, results["contract"])
        + "</section>"
    )


def _version(subject: dict[str, Any]) -> str:
    return f' <span class="soft">{text(subject["version"])}</span>' if subject["version"] else ""


def _plots(results: dict[str, Any]) -> str:
    found = dict.fromkeys(
        curve["dtype"] for subject in results["subjects"] for curve in subject.get("curves") or () if curve["errors"]
    )
    if not found:
        return ""
    order = ("float64", "float32", "float16", "bfloat16")
    dtypes = sorted(found, key=lambda dtype: order.index(dtype) if dtype in order else len(order))
    figures = "".join(
        f"<figure>{figure.error_plot(lines, dtype)}<figcaption>{run.plot_as_table(lines, dtype)}</figcaption></figure>"
        for dtype in dtypes
        if (lines := figure.series(results, dtype))
    )
    return (
        '<section aria-labelledby="plots"><h2 id="plots">Error against confidence</h2>'
        "<p>Eight logits, seven of them equal, the target ahead by the gap: the further right, the surer the "
        "prediction. 1 means that nothing of the value is right. The shade is what the contract allows; where it "
        "reaches the top, the true value is below 1e-30 (float64: 1e-300) or too small for the dtype, and need only "
        "be as small.</p>"
        f'<div class="plots">{figures}</div></section>'
    )
