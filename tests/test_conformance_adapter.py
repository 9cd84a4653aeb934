"""How an implementation is asked: by its signature, by its adapter, by trying; with help, and without."""

from pathlib import Path

import numpy as np
import pytest

import crossent
from crossent_conformance import backends, evidence, page, probe, subject, table
from crossent_conformance.adapter import UnderTest
from crossent_conformance.run import Run, Settings
from crossent_conformance.subject import DoesNotApply, SubjectError

SMALL = Path(__file__).parent / "subjects" / "small.py"
X = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.25]])
T = np.array([2, 0])


def load(name, backend="numpy", clause="V1"):
    """The subject, tried on the backend, as a test of that clause finds it."""
    found = subject.load(f"{SMALL}:{name}")
    traits = probe.examine(found, backends.load(backend))
    found.begin(traits, clause)
    return found, traits


def test_a_mean_of_rows_is_taken_row_by_row():
    found, traits = load("textbook")
    assert traits.fixed == {"reduction": "mean"}
    assert traits.flat
    assert not traits.gradient
    np.testing.assert_allclose(found.loss(X, T, reduction="none"), crossent.cross_entropy(X, T, reduction="none"))
    assert found.loss(X, T, reduction="none").shape == (2,)
    for options in ({"reduction": "sum"}, {"reduction": "sequence"}, {"label_smoothing": 0.1}, {"weights": np.ones(2)}):
        with pytest.raises(DoesNotApply, match=next(iter(options))):
            found.loss(X, T, **options)
    with pytest.raises(DoesNotApply, match="gradient") as caught:
        found.loss_and_grad(X, T)
    assert caught.value.gradient


def test_rows_are_not_taken_one_by_one_where_the_reduction_is_the_question():
    found, _ = load("textbook", clause="R1")
    with pytest.raises(DoesNotApply, match="reduction='none'"):
        found.loss(X, T, reduction="none")
    assert found.loss(X, T) == pytest.approx(float(crossent.cross_entropy(X, T)))


def test_logits_of_more_axes_are_flattened_but_not_where_that_is_the_question():
    found, _ = load("textbook")
    x, t = np.stack([X, X + 1])[None], np.stack([T, T[::-1]])[None]
    np.testing.assert_allclose(found.loss(x, t, reduction="none"), crossent.cross_entropy(x, t, reduction="none"))
    assert found.loss(x, t) == pytest.approx(float(crossent.cross_entropy(x, t)))
    with found.unassisted(), pytest.raises(DoesNotApply, match=r"\(N, V\)"):
        found.loss(x, t)


def test_what_is_refused_by_an_error_does_not_apply():
    found, traits = load("of_classes_alone")
    assert traits.refuses.keys() == {"reduction='sequence'", "soft targets"}
    assert "does not take soft targets: TypeError: targets are classes" in traits.notes
    said = "does not take reduction='sequence': ValueError: sequence is not a valid value for reduction"
    assert said in traits.notes
    soft = np.full((2, 3), 0.25)
    for ask in (found.loss, found.loss_and_grad):
        with pytest.raises(DoesNotApply, match="reduction='sequence'"):
            ask(X, T, reduction="sequence")
        with pytest.raises(DoesNotApply, match="soft targets"):
            ask(X, soft, reduction="sum")
    assert found.loss(X, T, reduction="none").shape == (2,)
    for wrong in (soft[:, 0], soft[:, :2]):  # these are no soft targets, which is for others to find out
        with pytest.raises(TypeError):
            found.loss(X, wrong)
    with pytest.raises(ValueError, match="avg"):
        found.loss(X, T, reduction="avg")


def test_rows_are_taken_one_by_one_where_losses_are_refused():
    found, traits = load("of_sums_alone")
    assert "reduction='none'" in traits.refuses
    options = {"reduction": "none", "class_weights": np.array([1.0, 0.5, 2.0])}
    expected = crossent.cross_entropy_and_grad(X, T, **options)
    for got, value in zip(found.loss_and_grad(X, T, **options), expected, strict=True):
        np.testing.assert_allclose(got, value)
    with pytest.raises(KeyError):  # its mean is no reduction that it need not have
        found.loss(X, T)
    found, _ = load("of_sums_alone", clause="R1")
    with pytest.raises(DoesNotApply, match="reduction='none'"):
        found.loss(X, T, reduction="none")


def test_a_wrong_answer_is_no_refusal():
    _, traits = load("taking_anything")
    assert traits.refuses == {}
    assert not [note for note in traits.notes if "does not take" in note]


@pytest.mark.parametrize("spec", [f"{SMALL}:Fused", "torch.nn.functional:cross_entropy"])
def test_what_pytorch_refuses_is_found(spec):
    torch = backends.load("torch")
    if isinstance(torch, str):
        pytest.skip(torch)
    traits = probe.examine(subject.load(spec), torch)
    assert traits.refuses.keys() == {"reduction='sequence'"}
    assert "ValueError: sequence is not a valid value for reduction" in traits.refuses["reduction='sequence'"]


def test_nothing_is_refused_by_crossent_itself():
    for name in backends.BACKENDS:
        if not isinstance(backend := backends.load(name), str):
            assert probe.examine(subject.load(subject.DEFAULT), backend).refuses == {}


def test_losses_without_a_reduction():
    found, traits = load("losses")
    assert traits.fixed == {"reduction": "none"}
    loss, d_logits = found.loss_and_grad(X, T, reduction="none", ignore_index=0)
    assert loss.tolist()[1] == 0
    assert d_logits.shape == X.shape
    with pytest.raises(DoesNotApply, match="reduction='mean'"):
        found.loss(X, T)


def test_a_smoothing_that_has_no_name_is_found_by_trying():
    found, traits = load("smoothed")
    assert traits.fixed == {"smoothing": "uniform"}
    given = {"label_smoothing": 0.25, "smoothing": "uniform"}
    np.testing.assert_allclose(found.loss(X, T, **given), crossent.cross_entropy(X, T, **given))
    with pytest.raises(DoesNotApply, match="smoothing='others'"):
        found.loss(X, T, label_smoothing=0.25)
    # Its own default reduction is another than the contract's, which is therefore said.
    assert found.loss(X, T).shape == ()


@pytest.mark.parametrize("smoothing", ["others", "uniform"])
def test_a_smoothing_is_found_whichever_class_is_taken_for_the_target(smoothing):
    def off_by_one(logits, targets, label_smoothing=0.0):
        return crossent.cross_entropy(logits, (targets + 1) % 5, label_smoothing=label_smoothing, smoothing=smoothing)

    traits = probe.examine(UnderTest(off_by_one, "a test"), backends.load("numpy"))
    assert traits.fixed == {"reduction": "mean", "smoothing": smoothing}


def test_gradients_come_from_autograd():
    found, traits = load("on_tensors", "torch")
    assert traits.gradient
    assert traits.int64_only
    assert traits.flat
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(X), torch.tensor(T)
    loss, d_logits = found.loss_and_grad(x, t.to(torch.int32), grad_output=torch.tensor(0.5, dtype=torch.float64))
    expected = crossent.cross_entropy_and_grad(X, T, grad_output=np.asarray(0.5))
    assert not loss.requires_grad
    np.testing.assert_allclose(d_logits, expected[1])
    rows, d_rows = found.loss_and_grad(x, t, reduction="none")
    np.testing.assert_allclose(rows, crossent.cross_entropy(X, T, reduction="none"))
    assert d_rows.shape == x.shape
    with found.unassisted(), pytest.raises(RuntimeError, match="Int"):
        found.loss(x, t.to(torch.int32))
    # What autograd does with a gradient from above is not this function's answer.
    with found.unassisted(), pytest.raises(DoesNotApply, match="grad_output"):
        found.loss_and_grad(x, t, grad_output=torch.tensor(0.5))


def test_a_signature_does_not_tell_whether_a_gradient_comes_along():
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(X), torch.tensor(T)
    exact = crossent.cross_entropy_and_grad(X, T)[1]
    found, traits = load("without_gradient", "torch")
    assert traits.gradient
    assert not traits.pairs
    assert (found.loss_and_grad(x, t)[1] == 0).all()
    found, traits = load("pairs_of_any_options", "torch")
    assert traits.pairs
    np.testing.assert_array_equal(found.loss_and_grad(x, t)[1], exact)
    out = torch.empty_like(x)
    assert found.loss_and_grad(x, t, out=out, grad_output=0.5)[1] is out
    found, traits = load("off_the_graph", "torch")
    assert not traits.gradient
    with pytest.raises(DoesNotApply, match="gradient"):
        found.loss_and_grad(x, t)


def test_a_gradient_that_raises_is_none_that_is_missing():
    torch = pytest.importorskip("torch")
    found, traits = load("breaking_backward", "torch")
    assert traits.gradient
    with pytest.raises(ZeroDivisionError):
        found.loss_and_grad(torch.tensor(X), torch.tensor(T))


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("without_gradient", "fails."),
        ("breaking_backward", "fails."),
        ("off_the_graph", "holds (values alone: no gradient was asked for on torch)."),
    ],
)
def test_what_was_not_asked_does_not_hold(name, verdict):
    pytest.importorskip("torch")
    settings = Settings(("torch",), ("V1",), curves=False, workers=1, first_failure=True)
    results = Run([f"{SMALL}:{name}"], settings).execute()
    assert f":{name}: {verdict}" in table.text(results)
    alone = "values alone: no gradient was asked for on torch" in page.of_results(results.to_json())
    assert alone is (name == "off_the_graph")


def test_an_error_may_use_the_names_of_the_implementation():
    found, _ = load("of_another_name")
    assert found.names_of("logits") == ("logits", "scores")
    assert found.names_of("weights") == ("weights",)
    keras = subject.load("crossent_conformance.peers.keras:sparse")
    assert keras.names_of("logits") == ("logits", "y_pred", "output")


def test_a_gradient_of_its_own_is_not_on_the_graph():
    torch = pytest.importorskip("torch")
    found, _ = load("losses", "torch")
    with pytest.raises(DoesNotApply, match="autograd"):
        found.loss(torch.tensor(X, requires_grad=True), torch.tensor(T), reduction="none")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (
            "of_three",
            (2,),
            "tuple of 3 (numpy.ndarray, numpy.ndarray, None) came back; accepted: the loss, or (loss, d_",
        ),
        ("of_four_arrays", (2,), "tuple of 4 (numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray) came back"),
        ("of_nothing", (2,), "None came back; accepted: the loss, or (loss, d_logits), as arrays"),
        ("of_nothing", (1, 2), "None came back"),
        (
            "of_a_list",
            (2,),
            "list of 2 (numpy.ndarray, numpy.ndarray) came back; accepted: the loss, or (loss, d_logits)",
        ),
        ("of_numbers", (2, 2), "list of 4 (float, float, float, float) came back; accepted: the loss, or"),
    ],
)
def test_what_came_back_and_what_is_accepted(name, shape, words):
    found, traits = load(name)
    assert not [note for note in traits.notes if "WrongType" in note]
    x, t = np.resize(X, (*shape, 3)), np.resize(T, shape)
    options = {"reduction": "none"} if found.takes("reduction") else {}
    for ask in (found.loss, found.loss_and_grad):
        with pytest.raises(evidence.WrongTypeError) as caught:
            ask(x, t, **options)
        assert str(caught.value).startswith(words)


def test_a_loss_alone_is_no_pair():
    found, _ = load("Unpaired")
    with pytest.raises(evidence.WrongTypeError, match=r"^loss_and_grad returned numpy.* accepted: \(loss, d_logits\)$"):
        found.loss_and_grad(X, T)
    found, _ = load("of_numbers")
    with pytest.raises(evidence.WrongTypeError, match=r"^float came back; accepted: "):
        found.loss(np.resize(X, (2, 3, 3)), np.resize(T, (2, 3)))


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_what_came_back_is_said_where_autograd_is_asked(backend):
    if isinstance(found := backends.load(backend), str):
        pytest.skip(found)
    under_test, traits = load("of_three_losses", backend)
    assert not [note for note in traits.notes if "gradient" in note]
    with pytest.raises(evidence.WrongTypeError, match=r"^tuple of 3 \("):
        under_test.loss_and_grad(found.asarray(X, "float32"), found.asarray(T, "int64"))


def test_an_adapter_says_what_it_takes():
    found, traits = load("Renamed")
    assert (found.name, found.backends, traits.dtypes) == ("renamed", ("numpy",), ("float64",))
    assert found.version == np.__version__
    assert probe.examine(found, backends.load("array-api-strict")).refusal == "its adapter does not name this backend"
    options = {"class_weights": np.ones(3)}
    assert found.loss(X, T, **options) == crossent.cross_entropy(X, T, **options)
    with pytest.raises(DoesNotApply, match="class_weights"):
        found.loss_and_grad(X, T, **options)
    for name in ("loss_object", "perplexity", "shift", "threads"):
        with pytest.raises(DoesNotApply):
            getattr(found, name)(*([X, T] if name == "shift" else [] if name == "loss_object" else [1]))
    with pytest.raises(DoesNotApply, match="PyTorch"):
        found.drop_in  # noqa: B018


def test_what_the_contract_does_not_know_is_handed_over():
    found, _ = load("Renamed")
    with pytest.raises(TypeError, match="label_smooth"):
        found.loss(X, T, label_smooth=0.1)
    # The contract's defaults, said aloud, ask for nothing.
    assert found.loss(X, T, label_smoothing=0.0, smoothing="others", check_targets=True, engine="auto") > 0
    with pytest.raises(DoesNotApply, match="check_targets"):
        found.loss(X, T, check_targets=False)


def test_a_refusal_says_why():
    _, traits = load("refusing")
    assert traits.refusal == "ValueError: never"
    _, traits = load("textbook", "jax")
    assert "it returned numpy.float" in traits.refusal


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("crossent", "MODULE:ATTRIBUTE"),
        (":x", "MODULE:ATTRIBUTE"),
        ("nowhere.py:x", "there is no file nowhere.py"),
        ("broken.py:x", "nowhere_to_be_found"),
        ("worse.py:x", "ZeroDivisionError"),
        ("leaving.py:x", "importing it raised SystemExit: 5"),
        (f"{SMALL}:of_one", "of_one cannot be called with logits and targets: too many positional arguments; acc"),
        ("two.py:x", "there is no 'x' in two.py; it has first, second"),
        ("two.py:third.x", "there is no 'x' in two.py$"),
        ("no_such_module:x", "no module 'no_such_module'"),
        ("crossent:nothing", "there is no 'nothing' in crossent"),
        ("numpy:pi", "numpy:pi is float; accepted: a function, a module, or an object with a method 'loss'"),
    ],
)
def test_no_subject(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(5)\n")
    objects = "import types\nthird = types.SimpleNamespace(f=print)\n"
    (tmp_path / "two.py").write_text(f"{objects}def first(): pass\ndef second(): pass\n")
    with pytest.raises(SubjectError, match=message):
        subject.load(spec)


W = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 0.25], [-0.5, 0.0, 1.0], [1.0, 1.0, 1.0]])


def test_a_linear_loss_without_gradients_of_its_own_is_differentiated():
    torch = pytest.importorskip("torch")
    found = subject.load("crossent_conformance.peers.torch:linear")
    found.begin(probe.examine(found, backends.load("torch")), "L3")
    x, w, t = torch.tensor(X), torch.tensor(W), torch.tensor(T)
    loss, d_weight = found.linear_loss_and_grads(x, t, weight=w, needs=("weight", "bias"))
    expected, (_, exact, _) = crossent.linear_cross_entropy_and_grad(X, W, T)
    np.testing.assert_allclose(loss, expected)
    np.testing.assert_allclose(d_weight, exact)
    with pytest.raises(DoesNotApply, match="classes"):
        found.linear_loss(x, t, weight=w, classes=3)
    with pytest.raises(DoesNotApply, match="other shapes"):
        found.linear_loss(x[None], t[None], weight=w)
    with found.unassisted(), pytest.raises(DoesNotApply, match="needs"):
        found.linear_loss_and_grads(x, t, weight=w, needs=())
    through = found.through_identity()
    np.testing.assert_allclose(through.loss(x, t), crossent.cross_entropy(X, T))
    np.testing.assert_allclose(through.loss_and_grad(x, t)[1], crossent.cross_entropy_and_grad(X, T)[1])


def test_measures_without_gradients_of_their_own_are_differentiated():
    torch = pytest.importorskip("torch")
    found = subject.load("crossent_conformance.peers.torch:functional")
    found.begin(probe.examine(found, backends.load("torch")), "T2")
    x, t = torch.tensor(X), torch.tensor(T)
    for name, arrays in (("token_log_probs", (x, t)), ("entropy", (x,)), ("kl_divergence", (x, x.flip(0)))):
        options = {} if name == "token_log_probs" else {"reduction": "none"}
        exact = getattr(crossent, f"{name}_and_grad")(*arrays, **options)
        assert found.measure(name, gradient=True) is found.measure(name, gradient=True)
        for given, value in zip(found.measure(name, gradient=True)(*arrays, **options), exact, strict=True):
            np.testing.assert_allclose(given, value)
    with pytest.raises(DoesNotApply, match="reduction='sum'"):
        found.measure("entropy")(x, reduction="sum")
    with pytest.raises(DoesNotApply, match="jensen"):
        found.measure("kl_divergence")(x, x, reduction="none", direction="jensen-shannon")
    with pytest.raises(DoesNotApply, match="other shapes"):
        found.measure("token_log_probs")(x[None], t[None])


def test_what_has_no_measures_is_not_asked_for_them():
    found, _ = load("textbook", clause="T1")
    for name, lack in (("entropy", "an entropy"), ("token_statistics", "statistics of tokens")):
        with pytest.raises(DoesNotApply, match=lack):
            found.measure(name)(X)
    with pytest.raises(DoesNotApply, match="a divergence"):
        found.measure("kl_divergence", gradient=True)(X, X)


def test_what_has_no_linear_loss_is_not_asked_for_one():
    found, _ = load("textbook", clause="L1")
    for ask in (found.linear_loss, found.linear_loss_and_grads):
        with pytest.raises(DoesNotApply, match=r"a linear loss|a gradient"):
            ask(X, T, weight=W)
    with pytest.raises(DoesNotApply, match="a linear loss"):
        found.through_identity()


MODULES = Path(__file__).parent / "subjects" / "modules.py"


@pytest.mark.parametrize(
    ("name", "backend", "options", "notes"),
    [
        (
            "Forward",
            "torch",
            {"class_weights": np.array([0.5, 1.0, 2.0]), "ignore_index": 2, "reduction": "sum", "z_loss": 0.125},
            ("one is made for the options of each call", "is asked for class_weights as weight, z_loss as lse_square_"),
        ),
        (
            "Sparse",
            "numpy",
            {"ignore_index": 0, "weights": np.array([0.5, 2.0])},
            ("takes y_true before y_pred", "is told from_logits=True", "is told the dtype of the logits; its mean is"),
        ),
        ("Layer", "numpy", {}, ("takes targets before inputs",)),
        ("Bare", "torch", {}, ("always reduces by 'mean'",)),
        ("sparse", "numpy", {"ignore_index": 2, "reduction": "none"}, ("is asked for ignore_index as ignore_class",)),
        (
            "Linen",
            "jax",
            {"label_smoothing": 0.25, "smoothing": "uniform", "weights": np.array([0.5, 2.0])},
            ("takes labels before logits", "is asked for weights as sample_weight"),
        ),
        ("Equinox", "jax", {"reduction": "none"}, ("one is made for the options of each call",)),
        ("jitted", "jax", {}, ()),
        (
            "of_sums",
            "torch",
            {"ignore_index": 0, "reduction": "sum"},
            ("was made with ignore_index=0, reduction='sum'",),
        ),
        ("smoothed", "jax", {"label_smoothing": 0.25, "smoothing": "uniform"}, ("was made with label_smoothing=0.25",)),
        (
            "apex_like",
            "torch",
            {"label_smoothing": 0.5, "smoothing": "uniform", "reduction": "none"},
            ("is asked for label_smoothing as smoothing, ignore_index as padding_idx",),
        ),
        ("OfADictionary", "jax", {"reduction": "none"}, ()),
        ("OfATuple", "torch", {"class_weights": np.array([0.5, 1.0, 2.0])}, ("is asked for class_weights as weight",)),
        ("OfAnAttribute", "torch", {"ignore_index": 2}, ("one is made for",)),
    ],
)
def test_a_module_is_read(name, backend, options, notes):
    found, traits, place = _module(name, backend)
    assert traits.refusal is None
    for note in notes:
        assert any(told.startswith(note) for told in traits.notes), traits.notes
    arrays = {n: place.asarray(v, "float64") if isinstance(v, np.ndarray) else v for n, v in options.items()}
    x, t = place.asarray(X, "float64"), place.asarray(T, "int64")
    exact = crossent.cross_entropy_and_grad(X, T, **options)
    given = (found.loss(x, t, **arrays),) if backend == "numpy" else found.loss_and_grad(x, t, **arrays)
    for got, value in zip(given, exact, strict=False):
        np.testing.assert_allclose(place.to_numpy(got), value, rtol=1e-12)


def _module(name, backend, clause="R1"):
    if isinstance(place := backends.load(backend), str):
        pytest.skip(place)
    found = subject.load(f"{MODULES}:{name}")
    traits = probe.examine(found, place)
    found.begin(traits, clause)
    return found, traits, place


@pytest.mark.parametrize("spec", ["torch.nn:CrossEntropyLoss", "crossent.torch:CrossEntropyLoss"])
def test_a_class_of_pytorchs_is_asked_what_the_function_is(spec):
    torch = pytest.importorskip("torch")
    found = subject.load(spec)
    found.begin(probe.examine(found, backends.load("torch")), "R1")
    peer = subject.load("crossent_conformance.peers.torch:functional")
    assert (found.version, found.names_of("class_weights")) == (peer.version, ("class_weights", "weight")) or (
        found.version == crossent.__version__
    )
    x, t = torch.tensor(X, dtype=torch.float16), torch.tensor(T)
    options = {"class_weights": torch.tensor([0.5, 1, 2]), "label_smoothing": 0.25, "smoothing": "uniform"}
    assert found.loss(x, t, **options) == pytest.approx(float(peer.loss(x, t, **options)), rel=1e-3)
    assert found.takes("ignore_index")
    assert found.loss(x, torch.tensor([2, -100])) == found.loss(x[:1], t[:1])  # its default, which is no class
    for options in ({"smoothing": "others", "label_smoothing": 0.25}, {"z_loss": 0.5}, {"weights": torch.ones(2)}):
        with pytest.raises(DoesNotApply):
            found.loss(x, t, **options)


def test_what_an_object_was_made_with_is_all_it_does():
    torch = pytest.importorskip("torch")
    found, _, _ = _module("of_sums", "torch")
    x, t = torch.tensor(X), torch.tensor(T)
    for options in (
        {"reduction": "mean", "ignore_index": 0},
        {"reduction": "sum"},
        {"reduction": "sum", "z_loss": 0.5},
    ):
        with pytest.raises(DoesNotApply):
            found.loss(x, t, **options)


def test_an_object_is_asked_to_ignore_the_negative_class_that_it_was_made_with():
    torch = pytest.importorskip("torch")
    found = UnderTest(torch.nn.CrossEntropyLoss(), "torch.nn")
    found.begin(probe.examine(found, backends.load("torch")), "R2")
    assert "was made with ignore_index=-100, reduction='mean'" in found.traits.notes
    x, t = torch.tensor(X), torch.tensor([T[0], -100])
    assert found.loss(x, t, ignore_index=-100) == torch.nn.functional.cross_entropy(x[:1], t[:1])
    assert found.loss(x, torch.tensor(T)) == torch.nn.functional.cross_entropy(x, torch.tensor(T))
    with pytest.raises(DoesNotApply):
        found.loss(x, torch.tensor(T), ignore_index=2)


def test_a_module_that_holds_a_loss_is_asked_itself():
    torch = pytest.importorskip("torch")
    for name in ("Holding", "holding"):
        found, _, _ = _module(name, "torch")
        assert not found.is_adapter
        assert found.loss(torch.tensor(X), torch.tensor(T)) == pytest.approx(2 * float(crossent.cross_entropy(X, T)))


def test_a_class_of_crossents_is_made_for_each_call():
    found = subject.load("crossent:CrossEntropyLoss")
    found.begin(probe.examine(found, backends.load("numpy")), "R1")
    options = {"weights": np.array([0.5, 2.0]), "denominator": "tokens", "label_smoothing": 0.1, "temperature": 2.0}
    assert found.loss(X, T, **options) == crossent.cross_entropy(X, T, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weighed", r"weighed was made with weight; accepted: one without, or its class"),
        ("of_probabilities", r"of_probabilities was made with from_logits=False; accepted: one that takes logits"),
    ],
)
def test_a_module_that_cannot_be_read(name, message):
    with pytest.raises(SubjectError, match=message):
        subject.load(f"{MODULES}:{name}")


def test_an_entry_that_is_not_there_is_named():
    found, _, _ = _module("OfADictionary", "jax")
    missing = subject.load(f"{MODULES}:OfNothing")
    with pytest.raises(evidence.WrongTypeError, match=r"^dict came back; its adapter's result is 'losses'$"):
        missing.plainly(X, T)
    assert found.takes("reduction")


def test_a_jitted_function_is_written_where_it_is_written():
    found, traits, _ = _module("jitted", "jax")
    assert found.file == str(MODULES)
    assert traits.gradient
    assert found.version is None


def test_a_loss_of_keras_itself(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras")
    found = subject.load("keras.losses:SparseCategoricalCrossentropy")
    place = backends.load("jax")
    found.begin(probe.examine(found, place), "R1")
    options = {"ignore_index": 0, "reduction": "none"}
    loss, d_logits = found.loss_and_grad(place.asarray(X, "float64"), place.asarray(T, "int64"), **options)
    exact = crossent.cross_entropy_and_grad(X, T, **options)
    np.testing.assert_allclose(place.to_numpy(loss), exact[0])
    np.testing.assert_allclose(place.to_numpy(d_logits), exact[1])


def test_modules_of_flax_and_equinox_themselves(tmp_path):
    """Where they are: of a file that defines one of each."""
    written = {
        "flax.linen": ("Module", "from flax import linen"),
        "equinox": ("Module", "import equinox as linen"),
    }
    for package, (base, line) in written.items():
        pytest.importorskip(package)
        file = tmp_path / f"{package.replace('.', '_')}_loss.py"
        file.write_text(
            f"""{line}
import crossent
class Loss(linen.{base}):
    reduction: str = "mean"
    def __call__(self, labels, logits):
        return crossent.cross_entropy(logits, labels, reduction=self.reduction)
"""
        )
        found = subject.load(f"{file}:Loss")
        place = backends.load("jax")
        found.begin(probe.examine(found, place), "R1")
        x, t = place.asarray(X, "float64"), place.asarray(T, "int64")
        loss, d_logits = found.loss_and_grad(x, t, reduction="sum")
        np.testing.assert_allclose(place.to_numpy(loss), crossent.cross_entropy(X, T, reduction="sum"))
        assert d_logits.shape == X.shape
