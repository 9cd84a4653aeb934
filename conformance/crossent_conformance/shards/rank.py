"""One of the processes that have the shards: it answers calls, as `team` makes them, until nobody asks any more.

python -m crossent_conformance.shards.rank ADDRESS SUBJECT BACKEND GROUP RANKS FOLDER RANK
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from multiprocessing.connection import Client, Connection
from types import SimpleNamespace
from typing import Any

import numpy as np

from crossent_conformance import backends, places, subject
from crossent_conformance.adapter import UnderTest
from crossent_conformance.implementation import DoesNotApply
from crossent_conformance.shards.groups import GROUPS, Group
from crossent_conformance.shards.team import KEY, Answer, Request

VERBS = {"graph": "loss_and_grad", "linear": "linear_loss_and_grads"}
"""What is asked of an implementation, where a request has a name of its own for it."""


def main(address: str, spec: str, backend: str, kind: str, ranks: str, folder: str, rank: str) -> None:
    """Join the others and serve."""
    group = GROUPS[kind](int(rank), int(ranks), folder)
    host, _, port = address.rpartition(":")
    pipe = Client((host, int(port)), authkey=bytes.fromhex(os.environ[KEY]))
    library = backends.get(backend)
    found = subject.load(spec).sharded(backend)
    pipe.send(group.rank)
    requests = _listening(pipe)
    while (request := requests.get()) is not None:
        pipe.send(_answer(found.of, group, library, request))
    group.leave()


def _listening(pipe: Connection) -> queue.SimpleQueue[Request | None]:
    """What is asked, one after the other. Who asks may go: then so does this process, wherever it waits."""
    requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                request = pipe.recv()
            except (EOFError, OSError):
                os._exit(1)
            requests.put(request)
            if request is None:
                return

    threading.Thread(target=listen, daemon=True).start()
    return requests


def _answer(of: Any, group: Group, backend: backends.Backend, request: Request) -> Answer:
    place = places.Place(backend, request.dtype, request.mode)
    answer = Answer()
    group.met = None
    try:
        found = of(group, list(request.ranges), request.check)
        # By autograd, whatever else there is.
        part = UnderTest(SimpleNamespace(loss=found.loss) if request.verb == "graph" else found, "")
        part.begin(request.traits, "")
        function = getattr(part, VERBS.get(request.verb, request.verb))
        with np.errstate(all="ignore"):
            x, t = place.pair(request.logits, request.targets)
            options = place.options(request.options)
            with group.counting() if request.counts else contextlib.nullcontext():
                found = function(x, t, **options)
            parts = found if isinstance(found, tuple) else (found,)
            for array in parts:
                if not backend.owns(array):
                    raise TypeError(f"it gave {type(array).__name__}, no array of {backend.name}")
            answer.parts = tuple(place.to_numpy(array) for array in parts)
    except DoesNotApply as lack:
        answer.lacks, answer.gradient = str(lack), lack.gradient
    except Exception as error:
        answer.error, answer.text = type(error).__name__, str(error)
    answer.met = group.met
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
