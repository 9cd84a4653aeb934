"""A failing cell of the HTML report: the case, its input, what should have come and what came, the clause's words."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

from crossent_conformance.report_html.words import breakable, count, number, prose, text

MOST_OTHERS = 30
"""More failing cases than these are counted, not named."""


def failure(cell: dict[str, Any], identity: str, cases: list[dict[str, Any]], contract: dict[str, str]) -> str:
    """What is known of a cell that fails."""
    clause, known = cell["clause"], cell["failure"]
    place = f"{cell['backend']} {cell['dtype']}"
    words = f"<blockquote><b>{text(clause)}</b> {prose(contract.get(clause, ''))}</blockquote>"
    if known is None:
        parts = [f"<h3>{text(place)}</h3>", words, "<p>Nothing more is known of this failure.</p>"]
    else:
        parts = [
            f'<h3><span class="kind">✕ {text(known["kind"])}</span> on {text(place)}: '
            f"<code>{breakable(known['case'])}</code></h3>",
            words,
            _values(known),
            _message(known),
            _input(known),
        ]
    parts.append(_others(cell, cases))
    if cell["lacks"]:
        parts.append(f'<p class="small">Cases that do not apply, for want of: {text("; ".join(cell["lacks"]))}</p>')
    return f'<article class="failure" id="{identity}">{"".join(parts)}</article>'


def _values(known: dict[str, Any]) -> str:
    if known["what"] is None and known["expected"] is None and known["given"] is None:
        return ""
    what = f" {text(known['what'])}" if known["what"] else ""
    shown = [(f"expected{what}", _value(known["expected"])), (f"given{what}", _value(known["given"]))]
    if known["error"] is not None:
        shown.append(("error, in units of the contract", _error(known["error"])))
    items = "".join(f'<div><dt>{name}</dt><dd class="number">{value}</dd></div>' for name, value in shown)
    return f'<dl class="values">{items}</dl>'


def _error(error: Any) -> str:
    if not math.isfinite(float(error)):
        return "no measure: a NaN or an infinity is wrong or missing"
    return f"{number(error)} times what is allowed"


def _value(value: Any) -> str:
    """A number, or numbers, as Python prints them."""
    if isinstance(value, str):
        return text(value)
    return text(json.dumps(value).replace('"', ""))


def _message(known: dict[str, Any]) -> str:
    if not known["message"].strip():
        return ""
    said = f"<pre>{text(known['message'])}</pre>"
    return said if known["what"] is None else f"<details><summary>The suite&#8217;s words</summary>{said}</details>"


def _input(known: dict[str, Any]) -> str:
    given = known["input"]
    if given is None:
        return "<p>The input is not known.</p>"
    title = "Input, made as small as the suite could" if known["shrunk"] else "Input, as the case gave it"
    if given.get("function"):
        title = f"The last call, of {given['function']}"
    if given["shape"] is None:
        return f"<h4>{text(title)}</h4>"
    facts = [
        ("options", _options(given.get("options") or {})),
        (
            "logits",
            text(f"{given.get('dtype', '')}, shape {_shape(given['shape'])}, handed over {given.get('mode', '')}"),
        ),
    ]
    if given.get("targets_shape") is not None:
        facts.append(("targets", text(f"{given.get('targets_dtype', '')}, shape {_shape(given['targets_shape'])}")))
    parts = [f"<h4>{text(title)}</h4>"]
    if given["logits"] is None:
        parts.append("<p>Too many logits to show.</p>")
    else:
        parts.append(_table(given["logits"], given.get("targets"), given["shape"]))
    parts.append("<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>")
    return "".join(parts)


def _options(options: dict[str, Any]) -> str:
    if not options:
        return "none: the defaults"
    return "<br>".join(f"<code>{text(name)} = {_value(value)}</code>" for name, value in options.items())


def _shape(shape: list[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _table(logits: Any, targets: Any, shape: list[int]) -> str:
    """Logits, a line a token, with the target's entry marked; soft targets in a second line."""
    try:
        lines = [_line(logits, targets, index, shape) for index in product(*map(range, shape[:-1]))]
    except (TypeError, IndexError, KeyError):
        # Whatever was recorded is not of the shape that was: it is shown as it is.
        return f"<pre>logits {_value(logits)}\ntargets {_value(targets)}</pre>"
    if not lines:
        return f"<p>No tokens. Targets: <code>{_value(targets)}</code></p>"
    classes = "".join(f'<th scope="col">{j}</th>' for j in range(shape[-1]))
    first, last = '<th scope="col">token</th><th scope="col">class</th>', '<th scope="col">target</th>'
    return (
        '<div class="box input" role="region" aria-label="Input" tabindex="0">'
        f"<table><thead><tr>{first}{classes}{last}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _line(logits: Any, targets: Any, index: tuple[int, ...], shape: list[int]) -> str:
    row, target = _at(logits, index), _at(targets, index) if targets is not None else None
    if len(row) != shape[-1]:
        raise IndexError
    soft = isinstance(target, list)
    token = ", ".join(map(str, index)) or "0"
    entries = "".join(
        f'<td class="number{" target" if j == target and not soft else ""}">{_value(value)}</td>'
        for j, value in enumerate(row)
    )
    last = "soft, below" if soft else "" if target is None else _value(target)
    line = f'<tr><th scope="row">{token}</th><td>logit</td>{entries}<td class="number">{last}</td></tr>'
    if isinstance(target, list):
        parts = "".join(f'<td class="number">{_value(value)}</td>' for value in target)
        line += f'<tr><th scope="row">{token}</th><td>target</td>{parts}<td></td></tr>'
    return line


def _at(values: Any, index: tuple[int, ...]) -> Any:
    for place in index:
        values = values[place]
    return values


def _others(cell: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    """The other failing cases of the cell, by name."""
    place = (cell["clause"], cell["backend"], cell["dtype"])
    told = (cell["failure"] or {}).get("case")
    others = [
        case
        for case in cases
        if case["outcome"] == "fails"
        and (case["clause"], case["backend"], case["dtype"]) == place
        and not case["id"].endswith(f"::{told}")
    ]
    if not others:
        return ""
    lines = "".join(
        f"<li><code>{breakable(case['id'])}</code>: {text(case['kind'] or 'fails')}</li>"
        for case in others[:MOST_OTHERS]
    )
    more = f"<li>and {len(others) - MOST_OTHERS} more</li>" if len(others) > MOST_OTHERS else ""
    return f"<details><summary>{count(len(others), 'other failing case')}</summary><ul>{lines}{more}</ul></details>"
