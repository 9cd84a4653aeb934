"""The HTML report: one page that stands alone (`pages.read`), says all that was found, runs nothing it was given."""

import itertools
import re

import pytest
from tests import sample_results as sample
from tests.pages import read
from tests.test_conformance_figure import contrast

from crossent_conformance import page, severity


def of(*subjects, **more):
    return read(page.of_results(sample.results(*subjects, **more)))


@pytest.fixture(scope="module")
def root():
    return of(sample.good, sample.bad, sample.partial)


def matrices(root):
    return [table for table in root.all("table", cls="matrix") if "glance" not in table.classes]


def failure_of(root, clause, dtype):
    """The failure that a failing cell of the only matrix leads to."""
    (cell,) = [
        cell
        for row in matrices(root)[0].all("tr")
        if row.all("th", cls="clause", scope="row") and row.all("a")[0].text == clause
        for place, cell in enumerate(row.all("td", cls="cell"))
        if "fails" in cell.classes and dtype == ("float64", "float32")[place]
    ]
    (failure,) = root.all("article", id=cell.all("a")[0].attributes["href"].removeprefix("#"))
    return failure


def with_input(clause, dtype, **changed):
    """The failure of a page on which every input was another."""
    results = sample.results(sample.bad)
    for cell in results["subjects"][0]["cells"]:
        if cell["failure"] is not None and cell["failure"]["input"] is not None:
            cell["failure"]["input"].update(changed)
    return failure_of(read(page.of_results(results)), clause, dtype)


# ---- the page


@pytest.mark.parametrize("subjects", [(), (sample.good,), (sample.partial,)], ids=len)
def test_a_page_of_few_is_a_page(subjects):
    assert len(matrices(of(*subjects))) == len(subjects)


def test_headings_leave_no_level_out(root):
    levels = [int(element.tag[1]) for element in root.all() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_place_that_holds_text_is_escaped():
    def hostile(value):
        if isinstance(value, dict):
            return {key: hostile(item) for key, item in value.items()}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return f"{value}<b id=hostile>\x1b\ud800" if isinstance(value, str) and value not in kept else value

    kept = (
        "holds",
        "fails",
        "known",
        "does not apply",
        "wrong",
        "extreme",
        "nan",
        "inf",
        "-inf",
        "float32",
        *sample.CONTRACT,
    )
    results = sample.results(sample.good, sample.bad)
    for subject in results["subjects"]:
        for name in ("backends", "not_covered"):
            subject[name] = {f"{key}<b id=hostile>": value for key, value in subject[name].items()}
    text = page.of_results(hostile(results))
    assert not read(text).all(id="hostile")
    assert text.count("&lt;b id=hostile&gt;") > 200
    assert "\x1b" not in text
    text.encode()


def test_a_phone_is_not_scrolled_sideways(root):
    assert root.all("meta", name="viewport")[0].attributes["content"] == "width=device-width,initial-scale=1"
    for table in root.all("table"):
        assert "box" in table.parent.classes
        assert table.parent.attributes["tabindex"] == "0"
    style = root.all("style")[0].text
    assert re.search(r"\.box\{[^}]*overflow-x:auto", style)
    assert re.search(r"\.matrix \.clause[^{]*\{position:sticky;left:0", style)
    for table in root.all(
        "table", cls="matrix"
    ):  # where it is narrow, it has a column for each dtype, and a line for each backend
        assert "stacked" in table.parent.classes
    for table in matrices(root):
        dtypes = [head.text for head in table.all("tr", cls="dtypes")[0].all("th")]
        assert f"of{len(dtypes) - 1}" in table.classes
        backends = [head.text for head in table.all("th", scope="colgroup")]
        heads = {f"d{at}": dtype for at, dtype in enumerate(dtypes) if at}
        assert re.search(r"\.stacked tbody \.backend\{display:block;grid-column:1", style)
        assert all(f".{name}{{grid-column:" in style for name in heads)
        places = [place.text for place in table.all("th", cls="place")]
        for row in table.all("tr"):
            if row.all("th", cls="clause", scope="row"):
                assert [head.text for head in row.all("th", cls="backend")] == backends
                cells = [child for child in row.all("td") if child.parent is row]
                assert [heads[cell.classes[-1]] for cell in cells] == places


def test_symbols_are_explained_where_they_stand(root):
    for table in root.all("table", cls="matrix"):
        section = table.parent.parent
        before = section.children[: section.children.index(table.parent)]
        (legend,) = [each for each in before if getattr(each, "classes", []) == ["legend"]]
        signs = {cell.all("b")[0].text for cell in table.all("td", cls="cell")}
        assert not [sign for sign in signs if sign not in legend.words]
        for grade, means in severity.MEANS.items():
            assert f"{page.SIGNS[grade]} {grade} fails: {means}" in legend.words
        assert ("12/1/2" in legend.words) == ("glance" not in table.classes)
    assert not [svg for svg in root.all("svg") if "width" in svg.attributes]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out(root, scheme):
    style = root.all("style")[0].text
    assert "@media(prefers-color-scheme:dark)" in style
    colours = dict(re.findall(r"--([\w-]+):(#\w+)", re.findall(r":root\{([^}]*)\}", style)[scheme]))
    colours = {name: code if len(code) == 7 else re.sub(r"(\w)", r"\1\1", code) for name, code in colours.items()}
    for ink, *grounds in (
        ("ink", "ground", "paper", "mark"),
        ("soft", "ground", "paper"),
        ("link", "ground", "paper"),
        *((f"{status}-ink", status, "ground") for status in ("good", "bad", "less", "none")),
    ):
        for ground in grounds:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


# ---- the matrix


def test_every_cell_is_there_and_says_what_it_says(root):
    subjects = sample.results(sample.good, sample.bad, sample.partial)["subjects"]
    for table, subject in zip(matrices(root), subjects, strict=True):
        heads = table.all("thead")[0]
        backends = [
            head.text for head in heads.all("th", scope="colgroup") for _ in range(int(head.attributes["colspan"]))
        ]
        places = list(zip(backends, [head.text for head in heads.all("th", cls="place", scope="col")], strict=True))
        left = {(cell["clause"], cell["backend"], cell["dtype"]): cell for cell in subject["cells"]}
        for row in table.all("tr"):
            if not row.all("th", cls="clause", scope="row"):
                continue
            drawn = [child for child in row.all("td") if child.parent is row]
            for place, entry in zip(places, drawn, strict=True):
                cell = left.pop((row.all("a")[0].text, *place), None)
                if cell is None:
                    assert "no case" in entry.text
                    continue
                counts = (cell["held"], cell["failed"], cell["not_applicable"])
                worst = page.number(cell["worst"]) if cell["status"] != "does not apply" else ""
                assert f"{page.SIGNS[page.status(cell)]} {page.status(cell)}" in entry.text
                looks = {"wrong": ["fails"], "extreme": ["fails", "extreme"], "does not apply": ["not"]}
                status = page.status(cell)
                assert entry.classes[1:-1] == looks.get(status, [status])
                seen = "{}/{}/{}".format(*counts) + (f" ·\N{NO-BREAK SPACE}{worst}" if worst else "")
                heard = "{} held, {} failed, {} do not apply".format(*counts) + " (3 known to)" * bool(cell["known"])
                heard += f", worst error {worst}" * bool(worst)
                assert seen in entry.all("span", cls="counts")[0].text
                assert entry.all("span", cls="hidden")[0].text == heard
                assert all(reason in entry.text for reason in cell["lacks"] if cell["status"] != "fails")
        assert not left


def test_clauses_stand_in_groups(root):
    groups = [row.all("th", scope="rowgroup")[0].text for row in matrices(root)[0].all("tr", cls="group")]
    assert groups == ["Values", "Reductions", "Special values", "Arrays", "Derivatives"]
    results = sample.results(sample.partial)
    results["subjects"][0]["cells"].append(sample.cell("Z1", "jax", "float32", "holds"))
    (table,) = matrices(read(page.of_results(results).replace('"#c-Z1"', '"#contract"')))
    assert [row.all("th")[0].text for row in table.all("tr", cls="group")][-1] == "Other"
    assert "Z1" in table.text


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (sample.good, "✓ all that applies holds: 7 clauses"),
        (
            sample.bad,
            "✕ fails 5 of the 6 clauses that apply: 4 wrong on ordinary inputs, 1 off in few digits, or only where the "
            "model is confident or the logits are extreme; 1 as is known",
        ),
        (sample.partial, "✓ all that applies holds: 1 clause"),
    ],
)
def test_the_verdict(subject, words):
    root = of(subject)
    assert [line.text for line in root.all("span", cls="verdict")] == [words]
    cells = subject().cells()
    totals = f"{sum(cell['held'] for cell in cells)} cases held, {sum(cell['failed'] for cell in cells)} failed"
    assert totals in root.words
    assert f"Of {len(cells)} cells" in root.words
    assert not root.all("table", cls="glance")
    assert "No case was asked" not in root.text


def test_nothing_that_applies_is_no_success_and_what_was_not_asked_is_said():
    results = sample.results(sample.partial)
    results["subjects"][0]["cells"] = [sample.cell("V1", "jax", "float32", "does not apply")]
    root = read(page.of_results(results))
    assert root.all("span", cls="verdict")[0].text == "– nothing that was asked applies"
    assert "No case was asked of V2, R1, S3, A4, A7, D1." in root.words
    results = sample.results(sample.bad)
    results["subjects"][0]["cells"] = [cell for cell in results["subjects"][0]["cells"] if cell["clause"] != "V2"]
    said = "do not apply. What fails: V1, R1, S3, A4, A7. No case was asked of V2."
    assert said in read(page.of_results(results)).words


def test_what_is_known_to_fail_is_neither_a_failure_nor_hidden():
    results = sample.results(sample.bad)
    (subject,) = results["subjects"]
    subject["cells"] = [
        cell for cell in subject["cells"] if cell["clause"] in ("V2", "A4") and cell["status"] != "fails"
    ]
    subject["faults"] = []
    root = read(page.of_results(results))
    words = "○ nothing fails but what is known to, of 1 clause; 1 hold"
    assert [line.text for line in root.all("span", cls="verdict")] == [words]
    (cell,) = matrices(root)[0].all("td", cls="known")
    (failure,) = root.all("article", id=cell.all("a")[0].attributes["href"].removeprefix("#"))
    assert "3 cases known to fail: the framework promises nothing better" in failure.words
    assert "What is wrong" not in root.words


def test_several_are_compared_at_a_glance(root):
    (table,) = root.all("table", cls="glance")
    rows = {row.all("a")[0].text: [cell.text for cell in row.all("td")] for row in table.all("tr")[1:]}
    assert list(rows) == list(sample.CONTRACT)
    assert rows["V1"] == ["✓ holds", "! extreme", "– does not apply"]
    assert rows["S3"] == ["✓ holds", "✕ wrong", "– does not apply"]
    results = sample.results(sample.good, sample.bad)
    next(cell for cell in results["subjects"][1]["cells"] if cell["clause"] == "V1")["severity"] = "wrong"
    (table,) = read(page.of_results(results)).all("table", cls="glance")
    assert [cell.text for cell in table.all("tr")[1].all("td")] == ["✓ holds", "✕ wrong"]  # the worst of its cells


# ---- what fails


def test_every_failing_cell_leads_to_its_failure_below_its_row(root):
    cells = [cell for table in matrices(root) for cell in table.all("td", cls="fails")]
    aims = [cell.all("a")[0].attributes["href"] for cell in cells]
    assert len(set(aims)) == 6
    for aim, cell in zip(aims, cells, strict=True):
        (failure,) = root.all("article", id=aim.removeprefix("#"))
        assert any(element.tag == "details" for element in failure.above())
        rows = cell.parent.parent.all("tr")
        below = next(element for element in failure.above() if "why" in element.classes)
        assert rows.index(below) == rows.index(cell.parent) + 1


def test_what_is_wrong_stands_at_the_top_and_leads_to_its_failure():
    results = sample.results(sample.bad)
    (subject,) = results["subjects"]
    other = {**subject["faults"][-1]["failure"], "case": "test_V1_other", "says": "the mean divides by 5"}
    other = {**subject["faults"][-1], "failure": other, "severity": "wrong"}  # told by no cell
    subject["faults"].insert(0, other)
    root = read(page.of_results(results))
    wrong, extreme = root.all("ol", cls="wrong")
    heads = [head.words for head in root.all("h4") if "says" not in head.classes][:2]
    assert heads == [
        "✕ Wrong on ordinary inputs",
        "! Off in few digits, or only where the model is confident or the logits are extreme",
    ]
    said = [fault["failure"]["says"] or fault["failure"]["kind"] for fault in subject["faults"]]
    links = [item.all("a")[0] for item in [*wrong.all("li"), *extreme.all("li")]]
    assert [link.text for link in links] == said
    assert "V1, 2 cases: torch float64, float32" in extreme.words
    assert root.text.index("the mean divides by 5") < root.text.index("Clause by clause")
    for link, fault in zip(links, subject["faults"], strict=True):
        (failure,) = root.all("article", id=link.attributes["href"].removeprefix("#"))
        head = failure.all("h4", cls="says")[0].words
        assert head == f"{page.SIGNS[fault['severity']]} {link.text}"
        assert fault["failure"]["case"] in failure.text


def test_a_failure_tells_input_expected_given_error_and_clause():
    failure = failure_of(of(sample.bad), "V1", "float32")
    values = {pair.all("dt")[0].text: pair.all("dd")[0].text for pair in failure.all("dl", cls="values")[0].all("div")}
    assert values == {
        "expected loss": "1.605228055e-09",
        "given loss": "0.0",
        "error, in units of the contract": "1.2e6 times what is allowed",
    }
    rows = [[cell.text for cell in row.all("td")] for row in failure.all("table")[0].all("tbody")[0].all("tr")]
    assert rows == [["logit", "0.0", "20.25", "1"], ["logit", "-inf", "3.0", "0"]]
    assert [cell.text for cell in failure.all("td", cls="target")] == ["20.25", "-inf"]
    (others,) = [details for details in failure.all("details") if "other failing" in details.text]
    assert others.all("summary")[0].text == "2 other failing cases"
    assert [line.text for line in others.all("li")] == [
        f"clauses/test_values.py::test_V1_{name}: raises" for name in ("second", "third")
    ]
    for words in (
        "! loss[0] is 0, and should be 1.60523e-09 disagrees on torch float32: test_V1_confident_targets[",
        "off in few digits, or only where the model is confident or the logits are extreme",
        "V1 Hard targets: loss = lse − x_t.",
        "options reduction = none class_weights = [1.0, 0.5] logits".replace(" ", ""),
        "float32, shape (2, 2), handed over eager",
        "as small as the suite could",
        "1 of 1 values are off",
        "for want of: z_loss",
    ):
        assert words.replace(" ", "") in failure.words.replace(" ", "")


def test_soft_targets_and_shapes_of_any_rank():
    failure = failure_of(of(sample.bad), "R1", "float32")
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in failure.all("tbody")[0].all("tr")]
    assert rows == [
        ["0, 0", "logit", "0.5", "0.25", "2.0", "soft, below"],
        ["0, 0", "target", "0.125", "0.75", "0.0", ""],
        ["0, 1", "logit", "1.0", "nan", "inf", "soft, below"],
        ["0, 1", "target", "1.0", "0.0", "0.0", ""],
    ]
    for words in ("as the case gave it", "none: the defaults", "TypeError: a loss of <script>"):
        assert words in failure.words


@pytest.mark.parametrize(
    ("logits", "targets", "shape", "shown"),
    [
        ([0.5, "-inf"], 1, [2], ["logit", "0.5", "-inf", "1"]),
        ([[]], [0], [1, 0], ["logit", "0"]),
        ([[1.0]], None, [1, 1], ["logit", "1.0", ""]),
        ([[1.0, 2.0]], [-100], [1, 2], ["logit", "1.0", "2.0", "-100"]),
        ([], [], [0, 3], "No tokens"),
        ([[1.0, 2.0]], [], [2, 2], "logits [[1.0, 2.0]]"),
        (3.0, [], [1, 2], "logits 3.0"),
    ],
)
def test_unusual_inputs_are_shown_as_they_are(logits, targets, shape, shown):
    failure = with_input("V1", "float64", logits=logits, targets=targets, shape=shape)
    if isinstance(shown, str):
        assert shown in failure.text
    else:
        assert [cell.text for cell in failure.all("tbody")[0].all("td")] == shown


def test_infinite_errors_large_inputs_and_what_is_not_known():
    root = of(sample.bad)
    for clause, words in {
        "S3": ("expected lossinf", "given lossnan", "a NaN or an infinity is wrong or missing"),
        "A7": ("Too many logits to show", "shape (65536, 32769)", "no answer within 60 seconds"),
        "A4": ("The input is not known", "signal 11"),
    }.items():
        assert not [word for word in words if word not in failure_of(root, clause, "float32").text]
    results = sample.results(sample.bad)
    for cell in results["subjects"][0]["cells"]:
        cell["failure"] = None
    assert "Nothing more is known" in failure_of(read(page.of_results(results)), "V1", "float32").text
    assert "The last call, of their_loss" in with_input("V1", "float32", function="their_loss").text


# ---- the rest


def test_a_plot_for_each_dtype_with_its_numbers(root):
    figures = root.all("figure")
    shown = [figure.all("svg")[0].attributes["aria-label"].split()[-1] for figure in figures]
    assert shown == ["float64", "float32", "float16", "bfloat16"]
    rows = {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in figures[1].all("tr")[1:]}
    assert rows["crossent · numpy"][1::2] == ["nowhere", "nowhere"]
    torch = next(cells for name, cells in rows.items() if name.startswith("package."))
    assert torch[0] == "NaN or infinite at gap 80"
    assert re.fullmatch(r"at \d+ of 120 gaps, first at \d", torch[1])
    assert rows["optax.softmax_cross_entropy_with_integer_labels · jax"][2:] == ["not asked"]
    results = sample.results(sample.good)
    results["subjects"][0]["curves"] = [{**results["subjects"][0]["curves"][0], "errors": None}]
    assert not read(page.of_results(results)).all(id="plots")


def test_what_was_run_is_told(root):
    (section,) = root.all("section", **{"aria-labelledby": "run"})
    for words in (
        "crossent conform a:b --backend torch",
        "71.2 seconds",
        "Python 3.11.7, Linux 6.1 x86_64, 2 cores",
        "complete",
        "cupy: not usable: no CUDA device",
        "crossent_conformance.peers.torch:functional",
        "takes (N, V) logits: others are flattened",
        "float16: RuntimeError: no",
        "2025.1.0",
    ):
        assert words in section.words
    assert "interrupted" not in root.text


def test_an_interrupted_run_says_so_at_the_top():
    root = of(sample.bad, complete=False, clauses_asked=["V1", "V2"], thorough=True)
    (words,) = root.all("p", cls="stopped")
    assert "interrupted" in words.text
    assert words.parent.tag == "header"
    run = root.all("section", **{"aria-labelledby": "run"})[0].text
    assert not [word for word in ("interrupted", "V1, V2", "thorough") if word not in run]


def test_the_contract_is_there_word_for_word(root):
    for clause, words in sample.CONTRACT.items():
        (quote,) = root.all("blockquote", id=f"c-{clause}")
        assert quote.text == f"{clause} {words.replace('`', '')}"


def test_numbers_are_short():
    said = {None: "", 0: "0", 0.55: "0.55", 1.0: "1", 40: "40", 99.999: "100", 1272.3: "1272", 1234567.0: "1.2e6"}
    said |= {1e-9: "1e-9", "inf": "∞", "nan": "nan"}
    assert {value: page.number(value) for value in said} == said
