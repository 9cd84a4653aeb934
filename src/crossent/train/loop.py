"""Training one backend, and what all runs together say. No branch per backend: arrays come from `Backend.array`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import crossent
from crossent.info import Backend, versions
from crossent.train import output
from crossent.train.corpus import Corpus
from crossent.train.model import Adam, LanguageModel, cosine
from crossent.train.vocabulary import PADDING

REFERENCE = "numpy"
COMPARED_STEPS = 100


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides the text and the backend."""

    steps: int = 300
    seed: int = 0
    vocabulary: int = 2048
    batch: int = 16
    seq: int = 64
    window: int = 4
    embedding: int = 128
    hidden: int = 256
    learning_rate: float = 6e-3
    validations: int = 8
    """How often the validation loss is taken during training, besides once before it."""


@dataclass
class Run:
    """What one backend did."""

    backend: str
    version: str
    device: str
    linear: bool = False
    """Whether it made no logits of all tokens."""
    peak_bytes: int | None = None
    """What `memory.peak` measured; None where it did not."""
    validation_perplexity: float = float("nan")
    tokens_per_second: float | None = None
    """None after a single step, which is not timed."""
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """The training loss of each step, before its update."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """Steps done, and the mean loss of the validation tokens then."""

    @property
    def label(self) -> str:
        """Unlike any other of the same results."""
        return f"{self.backend}, linear" if self.linear else self.backend


@dataclass(frozen=True)
class Results:
    """A text, the settings and one run for each backend, or two where both ways to the loss are compared."""

    corpus: Corpus
    settings: Settings
    runs: list[Run]

    @property
    def reference(self) -> Run | None:
        """NumPy's run with logits, if NumPy was among the backends."""
        return self.with_logits(REFERENCE)

    def with_logits(self, backend: str) -> Run | None:
        """A backend's run with logits, if there is one."""
        return next((run for run in self.runs if (run.backend, run.linear) == (backend, False)), None)

    @property
    def initial_loss(self) -> float:
        """log V: the loss of a model that has learnt nothing."""
        return math.log(self.corpus.V)

    def difference(self, run: Run, steps: int | None = None) -> float | None:
        """The largest distance of a run's loss curve from NumPy's, in the first `steps` or in all; None without it."""
        return _distance(run, self.reference, steps)

    def difference_of_ways(self, run: Run) -> float | None:
        """The largest distance of a curve without logits from its backend's with them; None for one with logits."""
        return _distance(run, self.with_logits(run.backend)) if run.linear else None

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        corpus = self.corpus
        return {
            "machine": versions(),
            "text": {
                "source": corpus.source,
                "characters": corpus.characters,
                "training_tokens": len(corpus.training),
                "validation_tokens": len(corpus.validation_targets),
            },
            "settings": asdict(self.settings),
            "V": corpus.V,
            "log_V": self.initial_loss,
            "unigram_perplexity": corpus.unigram_perplexity(),
            "backends": [
                {
                    "first_loss": run.losses[0],
                    "last_loss": run.losses[-1],
                    f"largest_difference_first_{COMPARED_STEPS}_steps": self.difference(run, COMPARED_STEPS),
                    "largest_difference": self.difference(run),
                    "largest_difference_from_logits": self.difference_of_ways(run),
                    **asdict(run),
                    "validation": [{"step": step, "loss": loss} for step, loss in run.validation],
                }
                for run in self.runs
            ],
        }


def _distance(run: Run, other: Run | None, steps: int | None = None) -> float | None:
    if other is None:
        return None
    pairs = zip(run.losses[:steps], other.losses[:steps], strict=True)
    return max(abs(own - its) for own, its in pairs)


def train(
    backend: Backend,
    corpus: Corpus,
    settings: Settings,
    progress: Callable[[int, float], None] | None = None,
    linear: bool = False,
) -> Run:
    """Train from the seed's parameters on the seed's batches; `progress` hears of each step done and its loss.

    linear: without making the logits of all tokens, in training and validation.
    """
    began = time.perf_counter()
    xp = backend.namespace()
    run = Run(backend.name, backend.version(), backend.device_name(), linear)
    sizes = corpus.V, settings.window, settings.embedding, settings.hidden
    model = LanguageModel(xp, *sizes, settings.seed, backend.array)
    optimiser = Adam(xp, model.parameters)
    loss_fn = output.loss(xp, linear, ignore_index=PADDING)
    batches = corpus.batches(settings.seed, settings.batch, settings.seq)
    validate_at = {settings.steps * part // settings.validations for part in range(1, settings.validations + 1)}

    run.validation.append((0, validation_loss(model, corpus, backend, settings.batch, linear)[0]))
    training_time = 0.0
    for step in range(settings.steps):
        started = time.perf_counter()
        token_ids = backend.array(next(batches))
        hidden, targets = crossent.shift_for_next_token(model.forward(token_ids), token_ids)
        weight, bias = model.output
        run.losses.append(float(loss_fn.forward(hidden, weight, targets, bias)))
        optimiser.step(model.backward(*loss_fn.backward()), settings.learning_rate * cosine(step, settings.steps))
        if step > 0:  # in the first step libraries compile, start threads and fill their caches
            training_time += time.perf_counter() - started
        if step + 1 in validate_at:
            loss, run.validation_perplexity = validation_loss(model, corpus, backend, settings.batch, linear)
            run.validation.append((step + 1, loss))
        if progress is not None:
            progress(step + 1, run.losses[-1])
    if training_time > 0.0:
        run.tokens_per_second = (settings.steps - 1) * settings.batch * settings.seq / training_time
    run.seconds = time.perf_counter() - began
    return run


def validation_loss(
    model: LanguageModel, corpus: Corpus, backend: Backend, batch: int, linear: bool = False
) -> tuple[float, float]:
    """The mean loss of all validation tokens, and its perplexity; padding is ignored."""
    # A sum over each batch divided by the tokens of all: batches with padding weigh no more than they hold.
    loss_fn = output.loss(model.xp, linear, ignore_index=PADDING, reduction="sum")
    weight, bias = model.output
    total = 0.0
    for first in range(0, len(corpus.validation), batch):
        token_ids = backend.array(corpus.validation[first : first + batch])
        hidden, targets = crossent.shift_for_next_token(model.forward(token_ids), token_ids)
        total = total + loss_fn.forward(hidden, weight, targets, bias)
    loss = total / len(corpus.validation_targets)
    return float(loss), float(crossent.perplexity(loss))
