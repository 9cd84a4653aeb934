"""What all runs together say: a table's cells, and the same as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from crossent.info import versions
from crossent.train.corpus import Corpus
from crossent.train.loop import Run, Settings

REFERENCE = "numpy"
COMPARED_STEPS = 100


@dataclass(frozen=True)
class Results:
    """A text, the settings and one run for each backend."""

    corpus: Corpus
    settings: Settings
    runs: list[Run]

    @property
    def reference(self) -> Run | None:
        """NumPy's run, if NumPy was among the backends."""
        return next((run for run in self.runs if run.backend == REFERENCE), None)

    @property
    def initial_loss(self) -> float:
        """log V: the loss of a model that has learnt nothing."""
        return math.log(len(self.corpus.vocabulary))

    def difference(self, run: Run, steps: int | None = None) -> float | None:
        """The largest difference of a run's loss curve from NumPy's; None without NumPy's."""
        return None if self.reference is None else run.largest_difference(self.reference, steps)

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
            "V": len(corpus.vocabulary),
            "log_V": self.initial_loss,
            "unigram_perplexity": corpus.unigram_perplexity(),
            "backends": [self._run_as_json(run) for run in self.runs],
        }

    def _run_as_json(self, run: Run) -> dict[str, Any]:
        return {
            "backend": run.backend,
            "version": run.version,
            "device": run.device,
            "first_loss": run.losses[0],
            "last_loss": run.losses[-1],
            "validation_perplexity": run.validation_perplexity,
            "tokens_per_second": run.tokens_per_second,
            "seconds": run.seconds,
            f"largest_difference_first_{COMPARED_STEPS}_steps": self.difference(run, COMPARED_STEPS),
            "largest_difference": self.difference(run),
            "losses": run.losses,
            "validation": [{"step": step, "loss": loss} for step, loss in run.validation],
        }
