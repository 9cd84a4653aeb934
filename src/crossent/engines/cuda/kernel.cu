// The CUDA engine: one walk over rows of logits, for CuPy arrays and torch tensors alike.
//
//     machine.cuh    what the chip does          exchange.cuh   messages between warps
//     problem.cuh    the argument of a launch   tile.cuh       a part of a row in registers
//     formats.cuh    dtypes, 16 bytes at a time  hard.cuh       rows with one target each
//     rows.cuh       rows in memory              spread.cuh     targets that are more than one class
//     outcome.cuh    the formulas                transform.cuh  temperature and softcap
//     teams.cuh      lanes of a warp             divergence.cuh rows beside those of a teacher
//
// Macros choose the walk that is compiled: CROSSENT_FORMAT (Bfloat16, Float16, Float32, Float64), CROSSENT_LAYOUT (ALIGNED,
// UNALIGNED, STRIDED), CROSSENT_TARGETS (HARD, SMOOTHED, LOG_SUM_EXP, ENTROPY, SPREAD, SOFT, FORWARD, REVERSE,
// JENSEN_SHANNON), CROSSENT_PASS (LOSSES, WALK, DESCRIBE, STATISTICS, GRADIENT), CROSSENT_TRANSFORM (of logits: PLAIN, SCALED,
// CAPPED), CROSSENT_LANES (of a team: 1, 8, 32), CROSSENT_THREADS (of a block, at most: it decides how many registers there
// are).

#ifndef CROSSENT_MACHINE
#define CROSSENT_MACHINE "machine.cuh"
#endif
#include CROSSENT_MACHINE

#include "problem.cuh"
#include "formats.cuh"
#include "rows.cuh"
#include "outcome.cuh"
#include "transform.cuh"
#include "teams.cuh"
#include "exchange.cuh"
#include "tile.cuh"
#include "hard.cuh"
#include "spread.cuh"
#include "divergence.cuh"

// Two blocks on a multiprocessor: one computes while the other loads.
KERNEL(CROSSENT_THREADS, 2) walk(PARAMETER Problem problem) {
    if constexpr (CROSSENT_TARGETS < SPREAD)
        walk_hard<CROSSENT_FORMAT, CROSSENT_LAYOUT, CROSSENT_LANES, CROSSENT_TARGETS, CROSSENT_PASS,
                  CROSSENT_TRANSFORM>(problem);
    else if constexpr (CROSSENT_TARGETS >= FORWARD)
        walk_divergence<CROSSENT_FORMAT, CROSSENT_TARGETS, CROSSENT_PASS, CROSSENT_TRANSFORM>(problem);
    else
        walk_spread<CROSSENT_FORMAT, CROSSENT_TARGETS == SOFT, CROSSENT_PASS, CROSSENT_TRANSFORM>(problem);
}
