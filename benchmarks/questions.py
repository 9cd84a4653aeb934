"""The questions that are asked: of whom, on which problems, and how often the logits must be moved for an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks import linear, ours, peers, tokens
from benchmarks.contenders import Contender
from benchmarks.problem import IGNORED_EVERY, ITEMSIZES, Problem
from crossent.engines import threads

BIG, WIDE = "2048x50257", "4096x10000"
DTYPES = (f"{WIDE}:float64", f"{WIDE}:float16", f"{WIDE}:bfloat16")
"""On the smaller of the two: NumPy takes tens of ns to round a gradient that is subnormal in float16."""
HALVES = ("512x50257:float16", "512x50257:bfloat16")
"""Where a smaller size tells as much: what a call needs besides its arrays, and copies of them in another dtype."""
SMALL = ("8x16", "8x100")

VOCABULARIES = (2, 10, 32, 100, 1_000, 10_000, 100_000, 1_000_000)
LOGITS = 2**24
"""N·V where V varies: 64 MiB, and as much again for the gradient, which no cache holds."""
ROWS = (1, 8, 64, 512, 2048)

GPU_VOCABULARIES = (32768, 131072, 4096, 262144, 50257, 128256)
"""The most telling first. Rows of 50257 begin at any alignment; 128256 is no power of two."""
GPU_BYTES = 2**30
GPU_SWEEP = (2**22, 2**24, 2**26, 2**28, 2**30, 2**32)
"""Bytes of logits where that is what varies."""

LINEAR_BIG, LINEAR_WIDE, LINEAR_LONG = "2048x768x50257", "2048x512x32000", "8192x512x32000"
"""Rows, width and vocabulary. A call takes seconds, and of the longest one memory is asked alone."""
LINEAR_ROUNDS = 3

SPEED, CALL, SCALING_V, SCALING_N, THREADS, MEMORY = "speed", "call", "V", "N", "threads", "memory"
LINEAR, TOKENS = "linear", "tokens"
"""What a question's table shows."""


@dataclass(frozen=True)
class Question:
    """One thing to find out about every contender."""

    name: str
    title: str
    contenders: list[Contender]
    traffic: float = 0
    """How often a program that wastes nothing reads or writes the logits' bytes; 0 where speed is not in bytes."""
    sizes: tuple[str, ...] = (BIG, WIDE)
    kind: str = SPEED
    with_options: bool = False
    bases: tuple[tuple[str, str], ...] = ()
    """Of a table of tokens, the names of its ratios, and the contenders that they are over."""
    rounds: int | None = None
    """How often its contenders take turns; without, each is measured by itself."""

    def find(self, contender: str) -> Contender:
        """The contender of that label."""
        return next(one for one in self.contenders if one.label == contender)

    def problems(self, sizes: str | None = None) -> list[Problem]:
        """What it is asked about: its own sizes, or, unless it is about small calls, those given of its kind."""
        own = [replace(Problem.parse(text), with_options=self.with_options) for text in self.sizes]
        if sizes is None or self.kind == CALL:
            return own
        given = [replace(Problem.parse(text), with_options=self.with_options) for text in sizes.split(",")]
        return [one for one in given if (one.width is None) is (own[0].width is None)]

    def usable(self, problem: Problem) -> list[Contender]:
        """The contenders that take the problem's dtype and whose libraries are here."""
        return [one for one in self.contenders if problem.dtype in one.dtypes and one.usable]


def _float32(contenders: list[Contender]) -> list[Contender]:
    return [one.in_float32_only() for one in contenders]


def _by_threads(contenders: list[Contender]) -> list[Contender]:
    """From one thread in doublings to as many as large calls use."""
    most = threads.get_num_threads()
    counts = [n for n in (2**i for i in range(most.bit_length())) if n < most] + [most]
    return [one.limited_to(n) for one in contenders for n in counts]


def _gpu_sizes(dtype: str, vocabularies: tuple[int, ...] = GPU_VOCABULARIES) -> tuple[str, ...]:
    return tuple(f"{-(-GPU_BYTES // (v * ITEMSIZES[dtype]))}x{v}:{dtype}" for v in vocabularies)


_FORWARD = ours.forward(*ours.CPU, "jax", "dask")
_OUT, _FRESH = ours.into_out(*ours.CPU), _float32(ours.fresh(*ours.CPU, "jax", "dask"))
_AUTOGRAD = ours.autograd("torch", "jax")
_PEERS_FORWARD = [
    peers.TORCH_FORWARD, peers.COMPILED_FORWARD, peers.OPTAX_FORWARD, peers.SCIPY_FORWARD, peers.TEXTBOOK_FORWARD,
]  # fmt: skip
_PEERS_BACKWARD = [peers.TORCH_BACKWARD, peers.COMPILED_BACKWARD, peers.OPTAX_BACKWARD]
# Compiling takes seconds and a process's memory with it: only where large calls are timed.
_NOT_COMPILED_FORWARD = [one for one in _PEERS_FORWARD if one is not peers.COMPILED_FORWARD]
_NOT_COMPILED_BACKWARD = [one for one in _PEERS_BACKWARD if one is not peers.COMPILED_BACKWARD]
_SCALING = [peers.THE_COPY, *ours.into_out("numpy"), *_AUTOGRAD, peers.TORCH_BACKWARD, peers.OPTAX_BACKWARD]

_GPU_FLOAT32 = _gpu_sizes("float32")
_GPU_HALVES = (*_gpu_sizes("float16"), *_gpu_sizes("bfloat16", GPU_VOCABULARIES[:3]))

_ALL = (
    Question(
        "forward", "forward", [peers.THE_COPY, *_FORWARD, *_PEERS_FORWARD], traffic=1, sizes=(BIG, WIDE, *DTYPES),
    ),
    Question(
        "gradient", "forward and gradient",
        [peers.THE_COPY, *_OUT, *_FRESH, *_PEERS_BACKWARD, peers.TEXTBOOK_GRADIENT],
        traffic=2, sizes=(BIG, WIDE, *DTYPES),
    ),
    Question(
        "backward", "forward and backward through autograd",
        _float32([peers.THE_COPY, *_OUT, *_AUTOGRAD, *ours.donated("jax"), *_PEERS_BACKWARD]), traffic=2,
    ),
    Question(
        "options", "forward and gradient with label smoothing, z-loss and ignored tokens",
        _float32([
            peers.THE_COPY, *_OUT, *_AUTOGRAD, peers.TORCH_BACKWARD, peers.COMPILED_BACKWARD,
        ]),
        # An ignored row is only written.
        traffic=2 - 1 / IGNORED_EVERY, sizes=(BIG,), with_options=True,
    ),
    Question(
        "small-forward", "a small call, forward",
        _float32([*ours.forward(*ours.CPU, "jax"), *_NOT_COMPILED_FORWARD]),
        sizes=SMALL, kind=CALL,
    ),
    Question(
        "small-gradient", "a small call, forward and gradient",
        _float32([*ours.fresh(*ours.CPU, "jax"), *_NOT_COMPILED_BACKWARD,
                  peers.TEXTBOOK_GRADIENT]),
        sizes=SMALL, kind=CALL,
    ),
    Question(
        "small-backward", "a small call, forward and backward through autograd",
        _float32([*_AUTOGRAD, *_NOT_COMPILED_BACKWARD]), sizes=SMALL, kind=CALL,
    ),
    Question(
        "scaling-v", "forward and gradient against V, N·V constant", _float32(_SCALING), traffic=2,
        sizes=tuple(f"{max(1, LOGITS // v)}x{v}" for v in VOCABULARIES), kind=SCALING_V,
    ),
    Question(
        "scaling-n", "forward and gradient against N, V constant", _float32(_SCALING), traffic=2,
        sizes=tuple(f"{n}x50257" for n in ROWS), kind=SCALING_N,
    ),
    Question(
        "threads", "forward and gradient against threads",
        _float32(_by_threads([peers.TORCH_COPY, *ours.into_out("numpy", "torch"), peers.TORCH_BACKWARD])),
        traffic=2, sizes=(BIG,), kind=THREADS,
    ),
    Question(
        "memory-forward", "memory of forward", [*_FORWARD, *_NOT_COMPILED_FORWARD],
        sizes=(BIG, *HALVES), kind=MEMORY,
    ),
    Question(
        "memory-gradient", "memory of forward and gradient",
        [*ours.in_place(*ours.CPU), *_OUT, *_FRESH, *_NOT_COMPILED_BACKWARD, peers.TEXTBOOK_GRADIENT],
        sizes=(BIG, *HALVES), kind=MEMORY,
    ),
    Question(
        "linear", "loss and gradients of hidden states and of the weight of the output layer",
        [*linear.PRODUCTS[1:], linear.TORCH, *linear.PEERS], sizes=(LINEAR_BIG,), kind=LINEAR, rounds=LINEAR_ROUNDS,
    ),
    Question(
        "linear-blocks", "the same, by the memory of the blocks and in other libraries",
        [*linear.PRODUCTS, linear.TORCH, *linear.BLOCKS, linear.NUMPY, *linear.PEERS, linear.JAX_PRODUCTS, linear.JAX],
        sizes=(LINEAR_WIDE,), kind=LINEAR, rounds=LINEAR_ROUNDS,
    ),
    Question(
        "memory-linear", "memory of the loss and gradients of hidden states and of the weight",
        [linear.TORCH, *linear.PEERS], sizes=(LINEAR_LONG,), kind=MEMORY,
    ),
    Question(
        "tokens", "log-probabilities, entropy and rank", tokens.NUMBERS, kind=TOKENS,
        sizes=(BIG, WIDE, f"{WIDE}:bfloat16"), bases=(("loss", tokens.LOSS), ("formula", tokens.FORMULA)),
    ),
    Question(
        "divergences", "divergences of a student's logits from a teacher's", tokens.DIVERGENCES, kind=TOKENS,
        sizes=(BIG, WIDE, f"{WIDE}:bfloat16"), bases=(("reading", tokens.READING), ("F.kl_div", tokens.KL_DIV)),
    ),
    Question(
        "gpu-forward", "forward on a GPU",
        [*peers.GPU_COPIES, *ours.unchecked(ours.forward), *ours.forward(*ours.GPU), *ours.all_ignored(),
         *peers.GPU_FORWARD],
        traffic=1, sizes=(*_GPU_FLOAT32, *_GPU_HALVES),
    ),
    Question(
        "gpu-gradient", "forward and gradient on a GPU",
        [*peers.GPU_COPIES, *ours.unchecked(ours.into_out), *ours.into_out(*ours.GPU), *ours.in_place(*ours.GPU),
         *ours.fresh(*ours.GPU), *ours.autograd("torch-cuda"), *peers.GPU_BACKWARD],
        traffic=2, sizes=(*_GPU_FLOAT32, *_GPU_HALVES),
    ),
    Question(
        "gpu-options", "forward and gradient on a GPU with label smoothing, z-loss and ignored tokens",
        [*peers.GPU_COPIES, *ours.into_out(*ours.GPU), *peers.GPU_BACKWARD[:1]],
        traffic=2 - 1 / IGNORED_EVERY, sizes=(*_GPU_FLOAT32[:2], *_GPU_HALVES[:2]), with_options=True,
    ),
    Question(
        "gpu-bytes", "forward and gradient on a GPU against N, V constant",
        [*peers.GPU_COPIES, *ours.unchecked(ours.into_out), *peers.GPU_BACKWARD[:2]], traffic=2, kind=SCALING_N,
        sizes=tuple(f"{nbytes // (4 * GPU_VOCABULARIES[0])}x{GPU_VOCABULARIES[0]}" for nbytes in GPU_SWEEP),
    ),
    Question(
        "gpu-call", "the host's time for a small call on a GPU",
        _float32([*ours.unchecked(ours.forward), *ours.unchecked(ours.into_out), *ours.forward(*ours.GPU),
                  *ours.into_out(*ours.GPU), *peers.GPU_FORWARD[:1]]),
        sizes=("64x1000",), kind=CALL,
    ),
    Question(
        "gpu-call-backward", "the host's time for a small call on a GPU, through autograd",
        _float32([*ours.autograd("torch-cuda"), *peers.GPU_BACKWARD[:1]]), sizes=("64x1000",), kind=CALL,
    ),
)  # fmt: skip

QUESTIONS = {question.name: question for question in _ALL}
