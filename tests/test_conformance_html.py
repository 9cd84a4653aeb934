"""The HTML report: one valid page that stands alone, says everything that was found, and runs nothing it was given."""

import itertools
import re
from html.parser import HTMLParser

import pytest
from tests import sample_results as sample
from tests.test_conformance_figure import contrast

from crossent_conformance import report_html
from crossent_conformance.report_html.words import SIGNS, number

VOID = {"meta", "br", "wbr", "hr", "img", "input", "link", "rect", "path"}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def classes(self):
        return (self.attributes.get("class") or "").split()

    def all(self, tag=None, **attributes):
        """Every element below of that tag, with these attributes; `cls` is one of its classes."""
        cls = attributes.pop("cls", None)
        found = []
        for child in self.children:
            if isinstance(child, Element):
                fits = tag in (None, child.tag) and (cls is None or cls in child.classes)
                if fits and attributes.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes, **({} if cls is None else {"cls": cls}))
        return found

    def above(self):
        return [] if self.parent is None else [self.parent, *self.parent.above()]


class Tree(HTMLParser):
    """A parser that takes no tag for closed that is not."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("root", [], None)
        self.feed(page)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is never closed"

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), f"<{tag}> has an attribute twice"
        element = Element(tag, attributes, self.at)
        self.at.children.append(element)
        if tag not in VOID or (tag in ("rect", "path") and not self.get_starttag_text().endswith("/>")):
            self.at = element

    def handle_startendtag(self, tag, attributes):
        self.at.children.append(Element(tag, attributes, self.at))

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}> {self.at.attributes}"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def read(*subjects, **more):
    return Tree(report_html.page(sample.results(*subjects, **more))).root


@pytest.fixture(scope="module")
def text():
    return report_html.page(sample.results(sample.good, sample.bad, sample.partial))


@pytest.fixture(scope="module")
def root(text):
    return Tree(text).root


def matrices(root):
    return [table for table in root.all("table", cls="matrix") if "glance" not in table.classes]


def the_failure(root, clause, dtype):
    """The failure that a failing cell of the only matrix leads to."""
    (cell,) = [
        cell
        for row in matrices(root)[0].all("tr")
        if row.all("th", cls="clause") and row.all("th", cls="clause")[0].text.startswith(clause)
        for cell in row.all("td", cls="fails")
        if row.children.index(cell) == {"float64": 1, "float32": 2}[dtype]
    ]
    (failure,) = root.all("article", id=cell.all("a")[0].attributes["href"].removeprefix("#"))
    return failure


# ---- the page


@pytest.mark.parametrize(
    "subjects", [(), (sample.good,), (sample.partial,), (sample.good, sample.bad, sample.partial)], ids=len
)
def test_tags_are_balanced_and_ids_are_unique(subjects):
    root = read(*subjects)
    ids = [element.attributes["id"] for element in root.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"] for link in root.all("a")} <= {f"#{identity}" for identity in ids}
    assert len(root.all("h1")) == 1
    labels = [
        element.attributes["aria-labelledby"] for element in root.all() if "aria-labelledby" in element.attributes
    ]
    assert set(labels) <= set(ids)


def test_headings_leave_no_level_out(root):
    levels = [int(element.tag[1]) for element in root.all() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_fetched(text, root):
    for element in root.all():
        for name in ("src", "srcset", "action", "data", "poster", "background", "xlink:href"):
            assert name not in element.attributes
        assert element.attributes.get("href", "#").startswith("#")
        assert not [name for name in element.attributes if name.startswith("on")]
    assert not root.all("link")
    assert not root.all("iframe")
    assert "@import" not in text
    assert "url(" not in text
    assert set(re.findall(r"\w+://[^\"' <]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_what_comes_from_results_is_text(text, root):
    assert len(root.all("script")) == 1
    assert "alert(" not in root.all("script")[0].text
    assert "<script>alert" not in text
    assert "\x1b" not in text
    text.encode()
    (heading,) = root.all("h2", id="s1")
    assert heading.text.startswith("package.<script>alert('x')</script> & \"quotes\" ")


def test_every_place_that_holds_text_is_escaped():
    def hostile(value):
        if isinstance(value, dict):
            return {key: hostile(item) for key, item in value.items()}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return f"{value}<b id=hostile>" if isinstance(value, str) and value not in KEPT else value

    results = hostile(sample.results(sample.good, sample.bad))
    for subject in results["subjects"]:
        subject["backends"] = {f"{name}<b id=hostile>": known for name, known in subject["backends"].items()}
    for subject in results["subjects"]:
        subject["not_covered"] = {f"{name}<b id=hostile>": why for name, why in subject["not_covered"].items()}
        subject["curves"] = []
    page = report_html.page(results)
    assert "<b id=hostile>" not in page
    assert not Tree(page).root.all(id="hostile")
    assert page.count("&lt;b id=hostile&gt;") > 200


KEPT = ("holds", "fails", "does not apply", "nan", "inf", "-inf", *sample.CONTRACT)


def test_a_phone_is_not_scrolled_sideways(root):
    assert root.all("meta", name="viewport")[0].attributes["content"] == "width=device-width,initial-scale=1"
    for table in root.all("table"):
        assert "box" in table.parent.classes
        assert table.parent.attributes["tabindex"] == "0"
    style = root.all("style")[0].text
    assert re.search(r"\.box\{[^}]*overflow-x:auto", style)
    assert re.search(r"\.matrix \.clause[^{]*\{position:sticky;left:0", style)
    for svg in root.all("svg"):
        assert "width" not in svg.attributes


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out(root, scheme):
    style = root.all("style")[0].text
    assert "@media(prefers-color-scheme:dark)" in style
    parts = re.findall(r":root\{([^}]*)\}", style)
    colours = dict(re.findall(r"--([\w-]+):(#\w+)", parts[scheme]))
    colours = {
        name: code if len(code) == 7 else "#" + "".join(2 * c for c in code[1:]) for name, code in colours.items()
    }
    for ink, grounds in {
        "ink": ("ground", "paper", "mark"),
        "soft": ("ground", "paper"),
        "link": ("ground", "paper"),
        "good-ink": ("good", "ground"),
        "bad-ink": ("bad", "ground"),
        "none-ink": ("none", "ground"),
    }.items():
        for ground in grounds:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


# ---- the matrix


def test_every_cell_is_there_and_says_what_it_says(root):
    results = sample.results(sample.good, sample.bad, sample.partial)
    assert len(matrices(root)) == len(results["subjects"])
    for table, subject in zip(matrices(root), results["subjects"], strict=True):
        heads = table.all("thead")[0]
        assert all(head.attributes["scope"] in ("col", "colgroup") for head in heads.all("th"))
        backends = [
            head.text for head in heads.all("th", scope="colgroup") for _ in range(int(head.attributes["colspan"]))
        ]
        places = list(zip(backends, [head.text for head in heads.all("th", cls="place")], strict=True))
        expected = {(cell["clause"], cell["backend"], cell["dtype"]): cell for cell in subject["cells"]}
        assert len(places) == len(set(places))
        seen = 0
        for row in table.all("tr"):
            if "clause" not in row.children[0].classes or row.children[0].attributes["scope"] != "row":
                continue
            clause = row.children[0].all("a")[0].text
            cells = [child for child in row.children if child.tag == "td"]
            for place, drawn in zip(places, cells, strict=True):
                cell = expected.get((clause, *place))
                if cell is None:
                    assert "no case" in drawn.text
                    continue
                seen += 1
                assert cell["status"] in drawn.text
                assert SIGNS[cell["status"]] in drawn.text
                assert f"{cell['held']}/{cell['failed']}/{cell['not_applicable']}" in drawn.text
                words = f"{cell['held']} held, {cell['failed']} failed, {cell['not_applicable']} do not apply"
                assert words in drawn.text
                if cell["worst"] is not None:
                    assert f" ·\N{NO-BREAK SPACE}{number(cell['worst'])}" in drawn.all("span", cls="counts")[0].text
                    assert f"worst error {number(cell['worst'])}" in drawn.text
                assert all(reason in drawn.text for reason in cell["lacks"] if cell["status"] != "fails")
        assert seen == len(expected)


def test_clauses_stand_in_groups(root):
    groups = [row.all("th", scope="rowgroup")[0].text for row in matrices(root)[0].all("tr", cls="group")]
    assert groups == ["Values", "Reductions", "Special values", "Arrays", "Derivatives"]
    for body in matrices(root)[0].all("tbody"):
        letters = {row.all("th", scope="row")[0].text[0] for row in body.all("tr") if row.all("th", scope="row")}
        assert letters == {body.all("th", scope="rowgroup")[0].text[0]}


def test_a_clause_of_no_known_letter_is_shown_too():
    results = sample.results(sample.partial)
    results["subjects"][0]["cells"].append(sample.cell("Z1", "jax", "float32", "holds"))
    root = Tree(report_html.page(results)).root
    assert [row.all("th")[0].text for row in matrices(root)[0].all("tr", cls="group")][-1] == "Other"
    assert "Z1" in matrices(root)[0].text


def test_what_a_case_lacks_opens(root):
    cell = matrices(root)[1].all("td", cls="not")[0]
    (details,) = cell.all("details")
    assert "does not apply" in details.all("summary")[0].text
    assert "reduction='sequence'" in details.all("ul")[0].text
    holding = [cell for cell in matrices(root)[1].all("td", cls="holds") if cell.all("details")]
    assert ["check_targets" in cell.text for cell in holding] == [True]


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (sample.good, "✓ all that applies holds: 7 clauses"),
        (sample.bad, "✕ fails 5 of the 6 clauses that apply"),
        (sample.partial, "✓ all that applies holds: 1 clause"),
    ],
)
def test_the_verdict(subject, words):
    root = read(subject)
    assert [line.text for line in root.all("span", cls="verdict")] == [words]
    cells = subject()["cells"]
    totals = f"{sum(cell['held'] for cell in cells)} cases held, {sum(cell['failed'] for cell in cells)} failed"
    assert totals in root.text
    assert f"Of {len(cells)} cells" in root.text


def test_nothing_that_applies_is_no_success():
    results = sample.results(sample.partial)
    results["subjects"][0]["cells"] = [sample.cell("V1", "jax", "float32", "does not apply")]
    root = Tree(report_html.page(results)).root
    assert root.all("span", cls="verdict")[0].text == "– nothing that was asked applies"
    assert "all that applies holds" not in root.text


def test_several_are_compared_at_a_glance(root):
    (table,) = root.all("table", cls="glance")
    rows = {row.all("th")[0].all("a")[0].text: row.all("td") for row in table.all("tr")[1:]}
    assert list(rows) == list(sample.CONTRACT)
    assert [cell.text for cell in rows["V1"]] == ["✓ holds", "✕ fails", "– does not apply"]
    assert [cell.text for cell in rows["V2"]] == ["✓ holds", "✓ holds", "✓ holds"]
    assert not read(sample.bad).all("table", cls="glance")


# ---- what fails


def test_every_failing_cell_leads_to_its_failure(root):
    cells = [cell for table in matrices(root) for cell in table.all("td", cls="fails")]
    assert len(cells) == 6
    aims = [cell.all("a")[0].attributes["href"] for cell in cells]
    assert len(set(aims)) == 6
    for aim in aims:
        (failure,) = root.all("article", id=aim.removeprefix("#"))
        assert any(element.tag == "details" for element in failure.above())
        row = next(element for element in failure.above() if element.tag == "tr")
        # It stands below the row of its cell.
        rows = [child for child in row.parent.children if isinstance(child, Element)]
        before = rows[rows.index(row) - 1]
        assert aim in [link.attributes["href"] for link in before.all("a")]


def test_a_failure_tells_input_expected_given_error_and_clause():
    failure = the_failure(read(sample.bad), "V1", "float32")
    assert "test_V1_confident_targets[torch-float32-eager]" in failure.text
    assert "disagrees" in failure.text
    values = {pair.all("dt")[0].text: pair.all("dd")[0].text for pair in failure.all("dl", cls="values")[0].all("div")}
    assert values == {
        "expected loss": "1.605228055e-09",
        "given loss": "0.0",
        "error, in units of the contract": "1.2e6 times what is allowed",
    }
    assert "loss = lse − x_t" in failure.all("blockquote")[0].text
    rows = [[cell.text for cell in row.all("td")] for row in failure.all("table")[0].all("tbody")[0].all("tr")]
    assert rows == [["logit", "0.0", "20.25", "1"], ["logit", "-inf", "3.0", "0"]]
    assert [cell.text for cell in failure.all("td", cls="target")] == ["20.25", "-inf"]
    assert "reduction = none" in failure.text
    assert "class_weights = [1.0, 0.5]" in failure.text
    assert "float32, shape (2, 2), handed over eager" in failure.text
    assert "as small as the suite could" in failure.text
    assert "1 of 1 values are off" in failure.text
    assert "for want of: z_loss" in failure.text


def test_the_other_failing_cases_are_named():
    failure = the_failure(read(sample.bad), "V1", "float32")
    (others,) = [details for details in failure.all("details") if "other failing" in details.all("summary")[0].text]
    assert others.all("summary")[0].text == "2 other failing cases"
    assert [line.text for line in others.all("li")] == [
        "clauses/test_values.py::test_V1_second: raises",
        "clauses/test_values.py::test_V1_third: raises",
    ]


def test_soft_targets_and_shapes_of_any_rank():
    failure = the_failure(read(sample.bad), "R1", "float32")
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in failure.all("tbody")[0].all("tr")]
    assert rows == [
        ["0, 0", "logit", "0.5", "0.25", "2.0", "soft, below"],
        ["0, 0", "target", "0.125", "0.75", "0.0", ""],
        ["0, 1", "logit", "1.0", "nan", "inf", "soft, below"],
        ["0, 1", "target", "1.0", "0.0", "0.0", ""],
    ]
    assert "as the case gave it" in failure.text
    assert "none: the defaults" in failure.text
    assert "TypeError: a loss of <script>" in failure.all("pre")[0].text


@pytest.mark.parametrize(
    ("logits", "targets", "shape", "shown"),
    [
        ([0.5, "-inf"], 1, [2], ["logit", "0.5", "-inf", "1"]),
        ([[]], [0], [1, 0], ["logit", "0"]),
        ([[1.0]], None, [1, 1], ["logit", "1.0", ""]),
        ([[1.0, 2.0]], [-100], [1, 2], ["logit", "1.0", "2.0", "-100"]),
    ],
)
def test_unusual_inputs(logits, targets, shape, shown):
    results = sample.results(sample.bad)
    for cell in results["subjects"][0]["cells"]:
        if cell["failure"] is not None and cell["failure"]["input"] is not None:
            cell["failure"]["input"].update(logits=logits, targets=targets, shape=shape)
    failure = the_failure(Tree(report_html.page(results)).root, "V1", "float64")
    assert [cell.text for cell in failure.all("tbody")[0].all("td")] == shown


@pytest.mark.parametrize(
    ("logits", "shape", "words"),
    [([], [0, 3], "No tokens"), ([[1.0, 2.0]], [2, 2], "logits [[1.0, 2.0]]"), (3.0, [1, 2], "logits 3.0")],
)
def test_an_input_without_rows_or_of_another_shape_is_shown_as_it_is(logits, shape, words):
    results = sample.results(sample.bad)
    for cell in results["subjects"][0]["cells"]:
        if cell["failure"] is not None and cell["failure"]["input"] is not None:
            cell["failure"]["input"].update(logits=logits, targets=[], shape=shape)
    assert words in the_failure(Tree(report_html.page(results)).root, "V1", "float64").text


def test_infinite_errors_large_inputs_and_unknown_ones():
    root = read(sample.bad)
    special = the_failure(root, "S3", "float32")
    assert "a NaN or an infinity is wrong or missing" in special.text
    assert [value.text for value in special.all("dd", cls="number")][:2] == ["inf", "nan"]
    large = the_failure(root, "A7", "float32")
    assert "Too many logits to show" in large.text
    assert "shape (65536, 32769)" in large.text
    assert "no answer within 60 seconds" in large.text
    crash = the_failure(root, "A4", "float32")
    assert "The input is not known" in crash.text
    assert "signal 11" in crash.all("pre")[0].text


def test_a_failure_of_which_nothing_is_known():
    results = sample.results(sample.bad)
    for cell in results["subjects"][0]["cells"]:
        cell["failure"] = None
    assert "Nothing more is known" in the_failure(Tree(report_html.page(results)).root, "V1", "float32").text


# ---- the rest


def test_a_plot_for_each_dtype_with_its_numbers(root):
    figures = root.all("figure")
    assert [figure.all("svg")[0].attributes["aria-label"].split()[-1] for figure in figures] == [
        "float64",
        "float32",
        "float16",
        "bfloat16",
    ]
    rows = {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in figures[1].all("tr")[1:]}
    assert rows["crossent · numpy"][1::2] == ["nowhere", "nowhere"]
    torch = next(cells for name, cells in rows.items() if name.startswith("package."))
    assert torch[0] == "NaN or infinite at gap 80"
    assert re.fullmatch(r"at \d+ of 120 gaps, first at \d", torch[1])
    optax = next(cells for name, cells in rows.items() if name.startswith("optax."))
    assert optax[2:] == ["not asked"]


def test_without_curves_there_are_no_plots():
    results = sample.results(sample.good)
    results["subjects"][0]["curves"] = [{**results["subjects"][0]["curves"][0], "errors": None}]
    root = Tree(report_html.page(results)).root
    assert not root.all("figure")
    assert not root.all(id="plots")


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
        assert words in section.text
    assert "interrupted" not in section.text


def test_an_interrupted_run_says_so_at_the_top():
    assert not read(sample.good).all("p", cls="stopped")
    root = read(sample.bad, complete=False, clauses_asked=["V1", "V2"], thorough=True)
    (words,) = root.all("p", cls="stopped")
    assert "interrupted" in words.text
    assert words.above()[0].tag == "header"
    run = root.all("section", **{"aria-labelledby": "run"})[0].text
    assert "interrupted" in run
    assert "V1, V2" in run
    assert "thorough" in run


def test_clauses_without_a_case_are_not_passed_over():
    results = sample.results(sample.good)
    results["subjects"][0]["cells"] = [cell for cell in results["subjects"][0]["cells"] if cell["clause"] != "S3"]
    assert "No case was asked of S3." in Tree(report_html.page(results)).root.text
    assert "No case was asked" not in read(sample.good).text


def test_the_contract_is_there_word_for_word(root):
    for clause, words in sample.CONTRACT.items():
        (quote,) = root.all("blockquote", id=f"c-{clause}")
        assert quote.text == f"{clause} {words.replace('`', '')}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""),
        (0, "0"),
        (0.55, "0.55"),
        (1.0, "1"),
        (40, "40"),
        (99.999, "100"),
        (1272.3, "1272"),
        (1234567.0, "1.2e6"),
        (1e-9, "1e-9"),
        ("inf", "∞"),
        ("nan", "nan"),
    ],
)
def test_numbers_are_short(value, said):
    assert number(value) == said


def test_a_page_of_another_report():
    root = Tree(report_html.document("a <title>", "<p>body</p>")).root
    assert root.all("title")[0].text == "a <title>"
    assert root.all("p")[0].text == "body"
