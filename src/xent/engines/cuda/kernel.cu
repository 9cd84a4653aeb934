// The CUDA engine: one walk over rows of logits, for CuPy arrays and torch tensors alike.
//
//     machine.cuh    what the chip does          exchange.cuh   what warps tell one another
//     problem.cuh    what a launch is told       tile.cuh       a part of a row in registers
//     formats.cuh    dtypes, 16 bytes at a time  hard.cuh       rows with one target each
//     rows.cuh       rows in memory              spread.cuh     targets that are more than one class
//     outcome.cuh    the formulas
//     teams.cuh      lanes of a warp
//
// Macros choose the walk that is compiled: XENT_FORMAT (Bfloat16, Float16, Float32, Float64), XENT_LAYOUT (ALIGNED,
// UNALIGNED, STRIDED), XENT_TARGETS (HARD, SMOOTHED, SPREAD, SOFT), XENT_GRADIENT (0, 1), XENT_LANES (of a
// team: 1, 8, 32), XENT_THREADS (of a block, at most: it decides how many registers there are).

#ifndef XENT_MACHINE
#define XENT_MACHINE "machine.cuh"
#endif
#include XENT_MACHINE

#include "problem.cuh"
#include "formats.cuh"
#include "rows.cuh"
#include "outcome.cuh"
#include "teams.cuh"
#include "exchange.cuh"
#include "tile.cuh"
#include "hard.cuh"
#include "spread.cuh"

enum Targets { HARD, SMOOTHED, SPREAD, SOFT };

// Two blocks on a multiprocessor: one computes while the other loads.
KERNEL(XENT_THREADS, 2) walk(PARAMETER Problem problem) {
    if constexpr (XENT_TARGETS == HARD || XENT_TARGETS == SMOOTHED)
        walk_hard<XENT_FORMAT, XENT_LAYOUT, XENT_LANES, XENT_TARGETS == SMOOTHED, XENT_GRADIENT>(problem);
    else
        walk_spread<XENT_FORMAT, XENT_TARGETS == SOFT, XENT_GRADIENT>(problem);
}
