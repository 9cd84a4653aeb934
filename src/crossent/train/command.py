"""What `crossent train` does, from checked arguments to a table, a picture and a file. Needs rich and matplotlib.

What can be refused is refused before training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from crossent.info import Backend, UsageError, backends_for_training, printable
from crossent.train import picture as pictures
from crossent.train.corpus import Corpus, prepare, read
from crossent.train.loop import COMPARED_STEPS, Results, Run, Settings, train
from crossent.train.memory import peak


def run(
    text: Path | None,
    backends: list[str] | None,
    settings: Settings,
    picture: Path,
    json_file: Path | None,
    linear: bool = False,
) -> None:
    """Train on every backend, show the table, write the picture and the JSON.

    linear: with logits and without, and compare the two.
    """
    files = [path for path in (picture, json_file) if path is not None]
    for path in files:
        if not path.absolute().parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no directory {path.absolute().parent}")
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a directory")
    accepted = sorted(Figure().canvas.get_supported_filetypes())
    if picture.suffix[1:].lower() not in accepted:
        raise UsageError(f"cannot draw {picture}: accepted are files ending in {', '.join(accepted)}")
    chosen = backends_for_training(backends)
    corpus = prepare(*read(text), settings.vocabulary, settings.seq)

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:  # wide enough for the table
        console.width = max(console.width, 100)
    console.print(
        f"{corpus.source}: {corpus.characters:,} characters, V = {corpus.V:,} byte-pair tokens,\n"
        f"{len(corpus.training):,} tokens for training and {len(corpus.validation_targets):,} for validation"
    )
    results = Results(corpus, settings, list(_runs(console, chosen, corpus, settings, linear)))
    console.print(_table(results), soft_wrap=False)
    console.print(
        f"log V = {results.initial_loss:.4f}: the loss before anything is learnt\n"
        f"unigram perplexity on the validation text: {corpus.unigram_perplexity():.1f}\n"
        f"Δ NumPy: the largest difference of the training loss from NumPy's, in {COMPARED_STEPS} steps and in all"
    )
    if linear:
        console.print(_table_of_ways(results), soft_wrap=False)
        console.print(
            "Δ: the largest difference of the training loss without logits from the same backend's with them\n"
            "MiB: how far the output layer, its loss and their gradients raise the resident memory of a process"
        )
    try:
        pictures.draw(results, picture)
        if json_file is not None:
            json_file.write_text(json.dumps(results.as_json(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from error
    for path in files:
        console.print(f"written: {printable(str(path))}")


def _runs(console: Console, backends: list[Backend], corpus: Corpus, settings: Settings, linear: bool) -> Iterator[Run]:
    """Train one backend after the other, with logits and perhaps without, each under its own bar."""
    ways = [(backend, way) for backend in backends for way in ((False, True) if linear else (False,))]
    name, loss = TextColumn("{task.description:<16}", markup=False), TextColumn("{task.fields[loss]:>13}")
    with Progress(name, BarColumn(), MofNCompleteColumn(), loss, TimeElapsedColumn(), console=console) as bars:
        names = (backend.name + (", linear" if way else "") for backend, way in ways)
        tasks = [bars.add_task(name, total=settings.steps, loss="", start=False) for name in names]
        for (backend, way), task in zip(ways, tasks, strict=True):
            bars.start_task(task)

            def show(done: int, loss: float, task: int = task) -> None:
                bars.update(task, completed=done, loss=f"loss {loss:.4f}")  # type: ignore[arg-type]

            found = train(backend, corpus, settings, show, way)
            if linear:
                tokens = settings.batch * settings.seq
                found.peak_bytes = peak(backend, corpus.V, settings.hidden, tokens, way)
            yield found


def _table(results: Results) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("backend", no_wrap=True)
    # A GPU's name may be longer than the line has room for; numbers are never cut.
    table.add_column("device", overflow="fold")
    compared = (f"Δ NumPy,\n{COMPARED_STEPS} steps", "Δ NumPy,\nall")
    for heading in ("first\nloss", "last\nloss", "validation\nperplexity", "tokens/s", *compared):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in results.runs:
        if run.linear:
            continue
        differences = (results.difference(run, steps) for steps in (COMPARED_STEPS, None))
        table.add_row(
            run.backend,
            printable(run.device),
            f"{run.losses[0]:.4f}",
            f"{run.losses[-1]:.4f}",
            f"{run.validation_perplexity:.1f}",
            _speed(run),
            *map(_difference, differences),
        )
    return table


def _table_of_ways(results: Results) -> Table:
    """Each backend without logits, beside itself with them."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("without logits", no_wrap=True)
    headings = ("validation\nperplexity", "tokens/s", "with\nlogits", "Δ", "MiB", "with\nlogits")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in results.runs:
        other = results.with_logits(run.backend)
        if run.linear and other is not None:
            table.add_row(
                run.backend,
                f"{run.validation_perplexity:.1f}",
                _speed(run),
                _speed(other),
                _difference(results.difference_of_ways(run)),
                _mebibytes(run),
                _mebibytes(other),
            )
    return table


def _speed(run: Run) -> str:
    return "–" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}"


def _difference(largest: float | None) -> str:
    return "–" if largest is None else "0" if largest == 0.0 else f"{largest:.1e}"


def _mebibytes(run: Run) -> str:
    return "–" if run.peak_bytes is None else f"{run.peak_bytes / 2**20:.1f}"
