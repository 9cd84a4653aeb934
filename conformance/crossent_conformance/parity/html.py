"""The verdict of `crossent parity` as one HTML page that stands alone: what fails first, then the tables."""

from __future__ import annotations

from crossent_conformance.parity.answers import ERRORS, PARTS, Results
from crossent_conformance.parity.cases import CASES
from crossent_conformance.parity.report import Cell, Cells, cells, described, errors, nothing, number
from crossent_conformance.parity.verdict import Problem, Verdict
from crossent_conformance.report_html import count, document, text

_CLASSES = {"same": "holds", "differs": "fails", "does not apply": "not", "raises": "not"}
_PARTS = {"loss": "loss", "d_logits": "grad", "answer": "answer"}
_MOST = 10
"""More problems than these are folded away."""


def page(verdict: Verdict) -> str:
    """The page."""
    results, baseline = verdict.results, verdict.baseline
    title = f"Parity of {results.subject['name']}"
    parts = [f"<header><h1>{text(title)}</h1>", _opening(verdict), "</header><main>", _problems(verdict.problems)]
    if verdict.among or baseline is None:
        parts.append(_section("Between backends", results, cells(results, verdict.among), set()))
    if baseline is not None:
        regressed = {(problem.case, problem.dtype) for problem in verdict.problems if problem.regression}
        title_of_table = f"To the baseline of {baseline.created}"
        parts.append(_section(title_of_table, results, cells(results, verdict.against), regressed))
    parts += [_who(verdict), "</main>"]
    return document(title, "".join(parts))


def _opening(verdict: Verdict) -> str:
    results = verdict.results
    if verdict.problems:
        word = f'<p class="verdict fails">✕ fails: {count(len(verdict.problems), "problem")}</p>'
    elif verdict.compared:
        word = '<p class="verdict holds">✓ parity holds</p>'
    else:
        word = f'<p class="verdict not">– {text(nothing(verdict))}</p>'
    when = f"{results.created} · {results.seconds:.0f} s · seed {results.seed}"
    notes = "".join(f"<p>{text(note[:1].upper() + note[1:])}.</p>" for note in verdict.notes)
    refused = f"<p>{text(f'{ERRORS}: {errors(verdict)}')}</p>" if errors(verdict) else ""
    return (
        f"{word}<p>The same inputs to the same implementation on several backends: {text(described(results))}.</p>"
        f'{refused}{notes}<p class="soft small">{text(when)}</p>'
    )


def _problems(problems: list[Problem]) -> str:
    if not problems:
        return ""
    items = [f'<li class="failure">{text(problem.text)}</li>' for problem in problems]
    first, others = (f'<ul class="subjects">{"".join(part)}</ul>' for part in (items[:_MOST], items[_MOST:]))
    rest = f"<details><summary>{len(items) - _MOST} more</summary>{others}</details>" if len(items) > _MOST else ""
    return f"<section><h2>What fails</h2>{first}{rest}</section>"


def _section(title: str, results: Results, found: Cells, failing: set[tuple[str, str]]) -> str:
    dtypes = list(dict.fromkeys(asked.dtype for asked in results.asked))
    head = "".join(f'<th scope="col" class="place">{text(dtype)}</th>' for dtype in dtypes)
    rows = []
    for name in dict.fromkeys(asked.case for asked in results.asked):
        about = f'<span class="gist">{text(CASES[name].about)}</span>' if name in CASES else ""
        row = "".join(_cell(found.get((name, dtype)), (name, dtype) in failing) for dtype in dtypes)
        rows.append(f'<tr><th scope="row" class="clause">{text(name)}{about}</th>{row}</tr>')
    return (
        f'<section><h2>{text(title)}</h2><p class="small soft"><b>1.5 · 0.2</b> reads: the two most distant results '
        "are 1.5 eps apart, 0.2 of what the contract allows.</p>"
        f'<div class="box" role="region" aria-label="{text(title)}" tabindex="0"><table class="matrix glance">'
        f'<thead><tr><th scope="col" class="clause">Case</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div></section>"
    )


def _cell(cell: Cell | None, fails: bool) -> str:
    if cell is None or cell.status == "alone":
        return '<td class="absent"><span aria-hidden="true">·</span><span class="hidden">nothing compared</span></td>'
    status = "fails" if fails else _CLASSES[cell.status]
    word = {"fails": "✕ fails", "holds": "✓ holds", "not": f"– {cell.status}"}[status]
    parts = "".join(
        f'<span class="counts">{_PARTS[what]} {number(part["eps"])} · {number(part["fraction"])}</span>'
        for what, part in cell.largest.items()
    )
    pairs = {what: " and ".join(cell.largest[what]["between"]) for what in PARTS if what in cell.largest}
    hover = text("; ".join(f"{_PARTS[what]}: {pair}" for what, pair in pairs.items()))
    return f'<td class="cell {status}" title="{hover}"><b>{word}</b>{parts}</td>'


def _who(verdict: Verdict) -> str:
    rows = [_run("this run", verdict.results)]
    if verdict.baseline is not None:
        rows.append(_run("baseline", verdict.baseline))
    return f"<section><h2>What was run</h2>{''.join(rows)}</section>"


def _run(title: str, results: Results) -> str:
    items = [("command", results.command), ("created", results.created)]
    items += [(name, str(value)) for name, value in results.machine.items()]
    for name, item in results.backends.items():
        notes = "; ".join(item["notes"])
        about = f"{item['version']} on {item['device']}, {item['mode']}: {', '.join(item['dtypes'])}"
        items.append((name, f"{about}; {notes}" if notes else about))
    items += [(name, f"not covered: {why}") for name, why in results.not_covered.items()]
    listed = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in items)
    return f"<h3>{text(title)}</h3><dl>{listed}</dl>"
