"""What `crossent train` does, from checked arguments to files. What can be refused is refused before training."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from crossent.info import UsageError, backends_for_training
from crossent.train.corpus import prepare, read
from crossent.train.loop import Settings


def run(
    text: Path | None, backends: list[str] | None, settings: Settings, picture: Path, json_file: Path | None
) -> None:
    """Train on every backend, show the table, write the picture and the JSON."""
    missing = [name for name in ("rich", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"crossent train needs what is not installed: pip install {' '.join(missing)}")
    from crossent.train import display, results
    from crossent.train import picture as pictures

    for path in (picture, json_file):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no directory {path.absolute().parent}")
        if path is not None and path.is_dir():
            raise UsageError(f"cannot write {path}: it is a directory")
    pictures.check_name(picture)
    chosen = backends_for_training(backends)
    corpus = prepare(*read(text), settings.vocabulary, settings.seq)

    console = display.console()
    display.introduce(console, corpus)
    outcome = results.Results(corpus, settings, list(display.train_all(console, chosen, corpus, settings)))
    display.summarise(console, outcome)
    try:
        pictures.draw(outcome, picture)
        if json_file is not None:
            json_file.write_text(json.dumps(outcome.as_json(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from error
    for path in (picture, json_file):
        if path is not None:
            console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
