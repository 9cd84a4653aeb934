"""The parent of a run: which cases there are, which process runs which, what becomes of one that hangs or crashes.

    run = Run([spec, ...], Settings(backends=["numpy"]), listener)
    results = run.execute()

Worker processes (`process` here, `worker` there) do the asking; nothing an implementation does can take the results
along. `listener` is called with the results and the number of cases done and planned after every case, and with the
clause and the backend of which this was the last case.

Why this is not left to pytest-xdist, pytest-timeout and pytest-reportlog, which was tried: pytest-timeout never ends a
call that keeps the interpreter's lock, as many extensions do, for its thread and its signal handler both wait for that
lock; pytest's own exit after a timeout does, but only since pytest 9. xdist names the test in which a worker died and
goes on, but hands cases out in batches to sessions that begin and end with one implementation: the limits on hangs and
crashes need to be known before a case starts, trial calls, which may crash as well, decide which cases there are, and a
hundred mutants would be a hundred sessions of some seconds each, where a worker here takes another implementation
between two cases. What a crash leaves (the last call, the fatal error, the frames) would need the files of `witness`
and the logs all the same.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from crossent_conformance import contract, known, places, witness
from crossent_conformance.adapter import Traits
from crossent_conformance.process import STARTING, End, Worker
from crossent_conformance.results import FAILS, NOT, Case, Failure, Results, SubjectResult
from crossent_conformance.subject import SubjectError

ENDS_OF_A_TEST = 2
"""Crashes of one test, after which its other cases are not tried; one hang is enough."""
ENDS_OF_A_BACKEND = 12
"""Hangs and crashes on one backend, after which its other cases are not tried."""

MOST_EXPLAINED = 16
"""More faults than these are told with the input as the case gave it."""
ROUNDS = 3
"""How often small inputs are looked for: one shows which other cases are another fault."""

Ended = tuple[SubjectResult, str, str]
"""An implementation, and the clause and the backend of which it has no more cases."""
Listener = Callable[[Results, int, int, Ended | None], None]


@dataclass(frozen=True)
class Settings:
    """What is asked of every implementation of a run."""

    backends: tuple[str, ...] = ()
    """None named: those whose arrays the implementation takes."""
    clauses: tuple[str, ...] = ()
    """None named: all."""
    cases: tuple[str, ...] = ()
    """Names or patterns of tests. None: all."""
    exclude: tuple[str, ...] = ()
    """Clauses and cases that are left out."""
    allow: tuple[str, ...] = ()
    """Clauses and cases whose failures do not count, besides those of the profile."""
    profile: str = ""
    known: Path | None = None
    """A file of known failures, instead of the one beside the implementation."""
    quick: bool = False
    """Whether a test is asked in one dtype and mode, of few random inputs, and none that takes seconds."""
    seed: int = 0
    thorough: bool = False
    time_limit: float = 60.0
    workers: int = 0
    """0: one a core, four at most."""
    first_failure: bool = False
    """Whether an implementation is left alone after its first failing case, which is then told as it is."""
    curves: bool = True
    shards: int = 0
    """How many processes have a shard of the vocabulary each; 0: P1 to P4 are not asked."""
    command: str = "crossent conform"


@dataclass
class _Subject:
    """An implementation on its way through the run."""

    result: SubjectResult
    traits: dict[str, Traits] = field(default_factory=dict)
    ends: Counter[Any] = field(default_factory=Counter)
    refusals: dict[str, str] = field(default_factory=dict)
    """By backend, why its first call failed, of those that are asked all the same."""
    done: bool = False


@dataclass
class _Job:
    subject: _Subject
    what: str
    argument: Any
    case: dict[str, Any] | None = None


class BrokenRunError(Exception):
    """The suite itself could not be run; the message says why."""


class Run:
    """One run: every case of every implementation."""

    def __init__(self, specs: list[str], settings: Settings, listener: Listener | None = None) -> None:
        self.settings = settings
        self.listener = listener
        self.specs = specs
        self.results = Results(
            command=settings.command,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=settings.seed,
            thorough=settings.thorough,
            clauses_asked=list(settings.clauses) or None,
            shards=settings.shards,
            profile=settings.profile,
            allowed=list(settings.allow),
            excluded=list(settings.exclude),
            quick=settings.quick,
        )
        self._subjects: list[_Subject] = []
        self._queue: deque[_Job] = deque()
        self._workers: list[Worker] = []
        self._owners: dict[tuple[str, str, str], Worker] = {}
        self._cases: list[dict[str, Any]] = []
        self._left: Counter[tuple[str, str, str]] = Counter()
        self._backends: dict[str, dict[str, Any] | str] = {}
        self._done = self._planned = 0
        self._folder = ""
        self._started = time.monotonic()

    def execute(self) -> Results:
        """Run everything; an interruption leaves the results as far as they are."""
        with self._folder_of_workers():
            try:
                self._execute()
            finally:
                self.results.seconds = time.monotonic() - self._started
        return self.results

    @contextlib.contextmanager
    def _folder_of_workers(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="crossent-conform-", ignore_cleanup_errors=True) as self._folder:
            try:
                yield
            finally:
                for each in self._workers:
                    each.end()

    def _execute(self) -> None:
        self._asker = self._hire_first()
        for spec in self.specs:
            self._open(spec)
        self._plan()
        while len(self._workers) < min(self._crew(), max(1, len(self._queue) // 8)):
            self._hire()
        self._serve()
        self.results.complete = True  # an interruption from here on costs no more than small inputs
        if not self.settings.first_failure:
            explained: list[set[str]] = [set() for _ in self._subjects]
            for _ in range(ROUNDS):
                self._explain(explained)
                self._serve()

    # ---- workers

    def _crew(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.settings.workers or min(4, cores)

    def _hire(self) -> Worker:
        path = [os.getcwd(), *[entry for entry in sys.path if entry]]
        hired = Worker({**vars(self.settings), "folder": self._folder, "path": path})
        self._workers.append(hired)
        return hired

    def _dismiss(self, gone: Worker) -> None:
        gone.end()
        self._workers.remove(gone)

    def _hire_first(self) -> Worker:
        """A worker that has told of the cases and the backends that there are."""
        hired = self._hire()
        answer = hired.answer()
        if isinstance(answer, End):
            raise BrokenRunError(f"the suite could not be started: {answer}")
        what, content = answer
        if what != "ready":
            raise BrokenRunError(str(content))
        hired.ready = True
        self._cases, self._backends = content["cases"], content["backends"]
        names = self.settings.cases
        if names and not any(known.is_of(name, case["clause"], case["id"]) for name in names for case in self._cases):
            near = known.near(names[0], (case["id"].partition("::")[2] for case in self._cases))
            raise SubjectError(f"no case of what is asked is called {' or '.join(names)}{near}")
        return hired

    # ---- implementations

    def _open(self, spec: str) -> None:
        """Load the implementation and try it on every backend."""
        answer = self._ask("subject", spec)
        if isinstance(answer, str):
            raise SubjectError(f"{spec}: importing it did not end well: {answer}")
        what, content = answer
        if what == "error":
            raise SubjectError(content)
        result = SubjectResult(name=content["name"], spec=spec, version=content["version"])
        subject = _Subject(result)
        result.may_fail = self._may_fail(content["home"])
        for name, described in self._backends.items():
            if isinstance(described, str):
                result.not_covered[name] = described
                continue
            traits = subject.traits[name] = self._tried(subject, name, described)
            if traits.refusal is not None:
                result.not_covered[name] = traits.refusal
            else:
                result.backends[name] = {**described, "notes": list(traits.notes), "gradient": traits.gradient}
        if not result.backends:
            refusals = "; ".join(f"{name}: {why}" for name, why in result.not_covered.items())
            raise SubjectError(f"{spec} takes arrays of no backend that can be used here: {refusals}")
        notes = [described["notes"] for described in result.backends.values()]
        result.notes = [note for note in notes[0] if all(note in others for others in notes)]
        self._subjects.append(subject)
        self.results.subjects.append(result)

    def _may_fail(self, home: Path | None) -> list[known.Entry]:
        """What is known to fail, or allowed to, of the implementation in that file."""
        file = self.settings.known
        if file is None and home is not None and (beside := known.beside(home)).is_file():
            file = beside
        found = known.entries(file, self.settings.allow, self.settings.profile)
        asked = self.settings.clauses or tuple(each for each in contract.clauses() if each[:1] != contract.SHARDS)
        others = [test for test in contract.tests() if contract.clause_of(test) not in asked]
        for entry in found:
            entry.left_out = any(known.is_of(entry.name, contract.clause_of(test), f"::{test}") for test in others)
        return found

    def _tried(self, subject: _Subject, name: str, described: dict[str, Any]) -> Traits:
        """What small calls on the backend show."""
        spec = subject.result.spec
        answer = self._ask("probe", name, spec)
        if isinstance(answer, str):
            # A first call already took the interpreter along, or never came back.
            subject.ends[name] = ENDS_OF_A_BACKEND
            return Traits(dtypes=tuple(described["dtypes"]), notes=(f"its first call: {answer}",))
        traits: Traits = answer[1]
        if traits.refusal is None:
            answer = self._ask("refused", (name, traits), spec)
            if not isinstance(answer, str):
                return self._paced(name, answer[1], spec)
            # If one of these calls does not end well, that is for the cases to show.
            note = f"whether it takes other reductions and soft targets was not found out: {answer}"
            return replace(traits, notes=(*traits.notes, note))
        if name not in self.settings.backends or not traits.tried:
            return traits
        # A refusal on a backend that was asked for by name is for the cases to show, too. What it always does is
        # unknown then; that it takes a mean is what lets most cases ask it.
        subject.refusals[name] = traits.refusal
        full = tuple(dtype for dtype in ("float64", "float32") if dtype in described["dtypes"])
        notes = (f"its first call: {traits.refusal}",)
        return Traits(dtypes=full, flat=traits.flat, fixed={"reduction": "mean"}, notes=notes)

    def _paced(self, name: str, traits: Traits, spec: str) -> Traits:
        """The traits with how long calls take; if finding out does not end well, the cases will show it."""
        answer = self._ask("pace", (name, traits), spec)
        return traits if isinstance(answer, str) else answer[1]

    def _ask(self, what: str, argument: Any, spec: str | None = None) -> tuple[str, Any] | str:
        """The answer to a message outside the queue; or, in one line, how the worker ended, whose place another takes.

        `spec` is the implementation that the other one has to load.
        """
        self._asker.deadline = time.monotonic() + max(self.settings.time_limit, 30.0)
        self._asker.pipe.send((what, argument))
        answer = self._asker.answer()
        if not isinstance(answer, End):
            return answer
        ended = str(answer)
        self._dismiss(self._asker)
        self._asker = self._hire_first()
        if spec is not None:
            again = self._ask("subject", spec)
            assert not isinstance(again, str), again
        return ended

    # ---- cases

    def _plan(self) -> None:
        for subject in self._subjects:
            for case in self._asked(subject):
                subject.result.planned += 1
                if case["dtype"] not in subject.traits[case["backend"]].dtypes:
                    refusal = subject.refusals.get(case["backend"])
                    why = f"logits of {case['dtype']}" if refusal is None else f"its first call: {refusal}"
                    self._note(subject, case, NOT, message=why)
                else:
                    self._queue.append(_Job(subject, "case", case["nodeid"], case))
                    self._left[self._part(subject, case)] += 1
            settings = self.settings
            if settings.curves and not (settings.clauses or settings.cases or settings.quick):
                for name in subject.result.backends:
                    self._queue.append(_Job(subject, "curves", (name, list(subject.traits[name].dtypes))))
        self._planned = len(self._queue)

    def _asked(self, subject: _Subject) -> list[dict[str, Any]]:
        """The cases that the implementation is asked; an entry of what may fail hears of those that are left out."""
        of_backends = [case for case in self._cases if case["backend"] in subject.result.backends]
        asked = [case for case in of_backends if self._is_asked(case)]
        if self.settings.quick:
            tests = defaultdict(list)
            for case in asked:
                if case["dtype"] in subject.traits[case["backend"]].dtypes and not case["long"]:
                    tests[case["test"]].append(case)
            asked = [places.one_of(name, cells) for name, cells in tests.items()]
        kept = {case["id"] for case in asked}
        for case in of_backends if len(kept) < len(of_backends) else ():
            for entry in subject.result.may_fail:
                if entry.source == known.FILE and not entry.left_out and case["id"] not in kept:
                    entry.left_out = entry.names(_case(case, NOT))
        return asked

    def cases(self) -> list[dict[str, Any]]:
        """The cases that there are for any implementation."""
        with self._folder_of_workers():
            self._hire_first()
            return [case for case in self._cases if self._is_asked(case)]

    def _explain(self, explained: list[set[str]]) -> None:
        """Ask once more for the failures that are told, with the time to look for small inputs."""
        items = {case["id"]: case for case in self._cases}
        for subject, done in zip(self._subjects, explained, strict=True):
            subject.result.settle()
            for fault in subject.result.faults():
                told = fault.failure.kind != "disagrees" or fault.case.id in done
                if not told and len(done) < MOST_EXPLAINED:
                    done.add(fault.case.id)
                    case = items[fault.case.id]
                    self._queue.append(_Job(subject, "explain", (case["nodeid"], fault.failure.fault), case))
                    self._planned += 1

    def _explained(self, subject: _Subject, case: dict[str, Any], found: dict[str, Any]) -> None:
        """A small input takes the place of the first one; one that fails no more, or otherwise, does not."""
        [before] = [each for each in subject.result.cases if each.id == case["id"]]
        now = found["failure"]
        if now is not None and before.failure is not None and now.shrunk:
            now.fault, now.names = before.failure.fault, now.names or before.failure.names
            before.failure, before.message = now, now.message
            subject.result.judge(before)

    def _is_asked(self, case: dict[str, Any]) -> bool:
        def named(names: tuple[str, ...]) -> bool:
            return any(known.is_of(name, case["clause"], case["id"]) for name in names)

        return not named(self.settings.exclude) and (not self.settings.cases or named(self.settings.cases))

    def _serve(self) -> None:
        while True:
            for each in list(self._workers):
                if each.ready and not each.jobs:
                    self._feed(each)
            busy = [each for each in self._workers if each.jobs or not each.ready]
            if not any(each.jobs for each in busy) and not self._queue:
                return
            waiting = min(each.deadline for each in busy) - time.monotonic()
            wait([each.pipe for each in busy], timeout=max(0.0, min(waiting, 1.0)))
            for each in busy:
                self._listen(each)

    def _next(self, hungry: Worker) -> _Job | None:
        """What the worker is to do. The cases of a test that asks other processes share these, and so a worker."""
        for at, job in enumerate(self._queue):
            if job.case is not None and job.case["elsewhere"]:
                test = job.subject.result.spec, job.case["backend"], job.case["function"]
                if self._owners.get(test, hungry) is not hungry and self._owners[test] in self._workers:
                    continue
                self._owners[test] = hungry
            del self._queue[at]
            return job
        return None

    def _feed(self, hungry: Worker) -> None:
        while (job := self._next(hungry)) is not None:
            subject = job.subject
            if subject.done:
                self._count()
                continue
            if job.what == "case" and job.case is not None and (why := self._not_tried(subject, job.case)):
                self._failed(job, "not tried", why)
                continue
            spec = subject.result.spec
            if hungry.spec != spec:
                hungry.spec = spec
                hungry.send(_Job(subject, "subject", spec), self.settings.time_limit)
                hungry.send(_Job(subject, "traits", subject.traits), self.settings.time_limit)
            hungry.send(job, self._limit(job))
            return

    def _limit(self, job: _Job) -> float:
        """What a case may take; one of other processes knows the limit itself, and may have to start them first."""
        starts = job.case is not None and (job.case["elsewhere"] or job.case["clause"].startswith(contract.SHARDS))
        return self.settings.time_limit + (STARTING if starts else 0.0)

    def _listen(self, to: Worker) -> None:
        while to.pipe.poll():
            try:
                what, content = to.receive()
            except (EOFError, OSError):
                return self._lost(to, to.crash)
            if not to.ready:
                if what != "ready":
                    raise BrokenRunError(str(content))
                to.ready = True
                return None
            if what in ("error", "broken"):
                raise BrokenRunError(str(content))
            job = to.jobs.popleft()
            to.deadline = time.monotonic() + (self._limit(to.jobs[0]) if to.jobs else 0.0)
            if job.what == "case":
                assert job.case is not None
                if content["kind"] == "hangs":  # processes that the case had started
                    job.subject.ends[job.case["backend"], job.case["function"]] += ENDS_OF_A_TEST
                self._note(job.subject, job.case, **content)
                self._count(job)
            elif job.what == "explain":
                assert job.case is not None
                self._explained(job.subject, job.case, content)
                self._count()
            elif job.what == "curves":
                job.subject.result.curves += content
                self._count()
        if (to.jobs or not to.ready) and time.monotonic() > to.deadline:
            self._lost(to, to.hang(self.settings.time_limit))
        return None

    def _lost(self, gone: Worker, end: End) -> None:
        """A worker hangs or is gone: its case has failed, another takes its place."""
        jobs = list(gone.jobs)
        if not gone.ready and not jobs:
            raise BrokenRunError(f"a process of the suite could not be started: {end}")
        cases = [job for job in jobs if job.what == "case"]
        for job in cases:
            assert job.case is not None
            subject = job.subject
            subject.ends[job.case["backend"], job.case["function"]] += ENDS_OF_A_TEST if end.kind == "hangs" else 1
            subject.ends[job.case["backend"]] += 1
            self._failed(job, end.kind, end.why, end.input(job.case["mode"]))
        self._dismiss(gone)
        for job in jobs:
            if job.what in ("curves", "explain"):
                self._count()
        self._hire()

    def _not_tried(self, subject: _Subject, case: dict[str, Any]) -> str | None:
        ends = subject.ends
        if ends[case["backend"], case["function"]] >= ENDS_OF_A_TEST:
            return "other cases of this test hung or crashed"
        if ends[case["backend"]] >= ENDS_OF_A_BACKEND:
            return "the first call or many cases on this backend hung or crashed"
        return None

    def _failed(self, job: _Job, kind: str, why: str, last: dict[str, Any] | None = None) -> None:
        assert job.case is not None
        name = job.case["id"].partition("::")[2]
        failure = Failure(case=name, kind=kind, message=why, says=why.partition("\n")[0], input=last)
        called = "" if last is None else witness.in_words(last)
        self._note(job.subject, job.case, FAILS, kind=kind, message=why, failure=failure, last_call=called)
        self._count(job)

    def _note(self, subject: _Subject, of: dict[str, Any], outcome: str, **more: Any) -> None:
        case = _case(of, outcome, **more)
        subject.result.judge(case)
        subject.result.cases.append(case)
        if case.counts and self.settings.first_failure:
            subject.done = True

    @staticmethod
    def _part(subject: _Subject, case: dict[str, Any]) -> tuple[str, str, str]:
        return subject.result.spec, case["clause"], case["backend"]

    def _count(self, job: _Job | None = None) -> None:
        """A job is done: one of the cases, or any other."""
        self._done += 1
        self.results.seconds = time.monotonic() - self._started
        ended = None
        if job is not None and job.case is not None:
            part = self._part(job.subject, job.case)
            self._left[part] -= 1
            ended = (job.subject.result, *part[1:]) if not self._left[part] else None
        if self.listener is not None:
            self.listener(self.results, self._done, self._planned, ended)


def _case(of: dict[str, Any], outcome: str, **more: Any) -> Case:
    """A case, as the workers tell it, with its outcome."""
    return Case(**{name: of[name] for name in ("id", "clause", "backend", "dtype", "mode")}, outcome=outcome, **more)
