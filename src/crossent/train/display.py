"""What a person sees in the terminal: the text's figures, a progress bar for each backend, the table. Needs rich."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from crossent.info import Backend
from crossent.train.corpus import Corpus
from crossent.train.loop import Run, Settings, train
from crossent.train.results import COMPARED_STEPS, Results


def console() -> Console:
    """Standard output; where it is not a terminal, wide enough for the table."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=max(terminal.width, 100))


def introduce(console: Console, corpus: Corpus) -> None:
    """Say what is learnt."""
    V = len(corpus.vocabulary)
    console.print(
        f"{corpus.source}: {corpus.characters:,} characters, V = {V:,} byte-pair tokens,\n"
        f"{len(corpus.training):,} tokens for training and {len(corpus.validation_targets):,} for validation",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def train_all(console: Console, backends: list[Backend], corpus: Corpus, settings: Settings) -> Iterator[Run]:
    """Train one backend after the other, each under its own bar."""
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]:>13}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = [bars.add_task(backend.name, total=settings.steps, loss="", start=False) for backend in backends]
        for backend, task in zip(backends, tasks, strict=True):
            bars.start_task(task)

            def show(done: int, loss: float, task: int = task) -> None:
                bars.update(task, completed=done, loss=f"loss {loss:.4f}")  # type: ignore[arg-type]

            yield train(backend, corpus, settings, show)


def summarise(console: Console, results: Results) -> None:
    """The table, and what to compare its numbers with."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("backend", no_wrap=True)
    # A GPU's name may be longer than the line has room for; numbers are never cut.
    table.add_column("device", overflow="fold")
    for heading in ("first\nloss", "last\nloss", "validation\nperplexity", "tokens/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in (f"{COMPARED_STEPS} steps", "all"):
        table.add_column(f"Δ NumPy,\n{heading}", justify="right", no_wrap=True)
    for run in results.runs:
        table.add_row(
            run.backend,
            run.device,
            f"{run.losses[0]:.4f}",
            f"{run.losses[-1]:.4f}",
            f"{run.validation_perplexity:.1f}",
            "–" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
            _difference(results.difference(run, COMPARED_STEPS)),
            _difference(results.difference(run)),
        )
    console.print(table)
    console.print(
        f"log V = {results.initial_loss:.4f}: the loss before anything is learnt\n"
        f"unigram perplexity on the validation text: {results.corpus.unigram_perplexity():.1f}\n"
        f"Δ NumPy: the largest difference of the training loss from NumPy's, in {COMPARED_STEPS} steps and in all",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _difference(difference: float | None) -> str:
    if difference is None:
        return "–"
    return "0" if difference == 0.0 else f"{difference:.1e}"
