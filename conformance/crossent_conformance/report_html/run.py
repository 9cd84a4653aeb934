"""The rest of the HTML report: the plots' numbers as a table, what was run on what, the words of the contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crossent_conformance import sweep
from crossent_conformance.contract import GROUPS
from crossent_conformance.figure import Series
from crossent_conformance.report_html.words import breakable, number, prose, text


def plot_as_table(lines: Sequence[Series], dtype: str) -> str:
    """The plot for those who do not see it: the largest errors, and where they leave what is allowed."""
    of_line: dict[int, dict[str, Series]] = {}
    for line in lines:
        of_line.setdefault(line.number, {})[line.what] = line
    rows = ""
    for _, found in sorted(of_line.items()):
        label = next(iter(found.values())).label
        entries = "".join(_worst(found.get(what), dtype) for what in sweep.KINDS)
        rows += f'<tr><th scope="row">{breakable(label)}</th>{entries}</tr>'
    heads = "".join(
        f'<th scope="col">{what}: largest error</th><th scope="col">more than allowed</th>' for what in sweep.KINDS
    )
    return (
        f"<details><summary>{text(dtype)} in numbers</summary>"
        f'<div class="box" role="region" aria-label="Errors, {text(dtype)}" tabindex="0">'
        '<table class="figures"><thead><tr>'
        f'<th scope="col">implementation</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def what_was_run(results: dict[str, Any]) -> str:
    """The run: command, machine, versions, what was not covered and why."""
    machine = results["machine"]
    asked = results["clauses_asked"]
    facts = [
        ("command", f"<code>{text(results['command'])}</code>"),
        ("started", text(results["created"])),
        ("took", f"{results['seconds']:g} seconds"),
        ("state", "complete" if results["complete"] else "interrupted: what it had finished is here"),
        ("seed", f"{results['seed']}{', thorough' if results['thorough'] else ''}"),
        ("clauses", text(", ".join(asked)) if asked else "all"),
        ("machine", text(f"Python {machine['python']}, {machine['system']}, {machine['cores']} cores")),
    ]
    parts = "".join(_of_subject(subject) for subject in results["subjects"])
    return f'<section aria-labelledby="run"><h2 id="run">What was run</h2>{_list(facts)}{parts}</section>'


def contract(results: dict[str, Any]) -> str:
    """The words of every clause."""
    parts, group = [], None
    for clause, words in results["contract"].items():
        if group != (group := GROUPS.get(clause[:1], "Other")):
            parts.append(f"<h3>{text(group)}</h3>")
        parts.append(f'<blockquote id="c-{text(clause)}"><b>{text(clause)}</b> {prose(words)}</blockquote>')
    return (
        '<section aria-labelledby="contract"><h2 id="contract">The contract</h2>'
        f"<details><summary>The words of every clause</summary>{''.join(parts)}</details></section>"
    )


def _worst(line: Series | None, dtype: str) -> str:
    known = (
        []
        if line is None
        else [
            (error, gap, allowed)
            for error, gap, allowed in zip(
                line.values(), line.gaps, sweep.allowed(line.gaps, line.what, dtype), strict=True
            )
            if error is not None
        ]
    )
    if not known:
        return '<td colspan="2">not asked</td>'
    error, gap, _ = max(known, key=lambda entry: (entry[0], -entry[1]))
    beyond = [gap for error, gap, allowed in known if error > allowed]
    where = f"at {len(beyond)} of {len(known)} gaps, first at {beyond[0]}" if beyond else "nowhere"
    largest = f"{number(error)} at gap {gap}" if math.isfinite(error) else f"NaN or infinite at gap {gap}"
    return f"<td>{largest}</td><td>{where}</td>"


def _of_subject(subject: dict[str, Any]) -> str:
    facts = [
        ("asked as", f"<code>{breakable(subject['spec'])}</code>"),
        ("version", text(subject["version"] or "unknown")),
    ]
    if subject["notes"]:
        facts.append(("notes", _items(subject["notes"])))
    rows = "".join(
        f'<tr><th scope="row">{breakable(name)}</th><td>{text(known["version"])}</td><td>{text(known["device"])}</td>'
        f"<td>{text(', '.join(known['dtypes']))}</td><td>{text(', '.join(known['modes']))}</td>"
        f"<td>{_items([note for note in known['notes'] if note not in subject['notes']])}</td></tr>"
        for name, known in subject["backends"].items()
    )
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("backend", "version", "device", "dtypes", "modes", "notes")
    )
    table = (
        f'<div class="box" role="region" aria-label="Backends of {text(subject["name"])}" tabindex="0">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    missing = [f"{name}: {why}" for name, why in subject["not_covered"].items()]
    uncovered = f"<p>Not covered:</p>{_items(missing)}" if missing else "<p>Every backend was covered.</p>"
    return f"<h3>{text(subject['name'])}</h3>{_list(facts)}{table}{uncovered}"


def _list(facts: list[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>"


def _items(values: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(value)}</li>" for value in values) + "</ul>" if values else ""
