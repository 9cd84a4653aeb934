// Rows with one target each, or measured by themselves: a row is read once, and its gradient written from what the registers
// hold.
//
// A short row belongs to a team of lanes, alone. The pieces of a long row, a tile each, belong to the warps of a block, or
// of a cluster of blocks; a warp that has several holds the last until the gradient, and reads the others again.
#pragma once

template <class Format, Layout LAYOUT, int LANES, Targets TARGETS, Pass PASS, Transform TRANSFORM>
DEVICE void walk_hard(const Problem &problem) {
    typedef typename Format::Real Real;
    typedef Team<LANES> team;
    constexpr bool HAS_TARGET = TARGETS == HARD || TARGETS == SMOOTHED;
    typedef Tile<Format, LAYOUT, LANES, TARGETS, PASS == DESCRIBE || !HAS_TARGET, TRANSFORM> Held;
    typedef typename Held::Part Found;
    Held tile;
    const Seen<Real, TRANSFORM> seen(problem);
    const bool together = LANES == 32 && problem.pieces > 1, ieee = problem.ieee;
    const int cluster = 1 << problem.cluster_log2, rank = static_cast<int>(block()) & (cluster - 1);
    const int warps = together ? warps_of_block() * cluster : 1;
    const int warp = together ? warps_of_block() * rank + warp_of_block() : 0;
    long long row = together ? block() >> problem.cluster_log2 : (block() * threads() + thread()) / LANES;

    Exchange<Found> exchange(problem.pieces, cluster);
    // No block is written to that has not begun.
    if (together) sync_cluster(cluster);

    // All teams of a warp go on until the first of them has no row.
    for (; row - (together ? 0 : team::before()) < problem.rows;
         row += together ? blocks() >> problem.cluster_log2 : blocks() * threads() / LANES) {
        const bool is_row = row < problem.rows;
        const bool counts = is_row && !is_ignored<Real>(problem, row);
        const Row<Format, LAYOUT == STRIDED> x(problem.logits, row, problem.logits_row, problem.logits_column);
        const int target = HAS_TARGET && counts ? place_of_target<PASS>(problem, row) : -1;

        Found found{};
        found.maximum = -Limits<Real>::infinity();
        Outcome<Real> result{0, 0, 0, 0};
        int piece = warp;
        bool is_held = true;
        if (PASS == GRADIENT) {
            while (piece < problem.pieces) piece += warps;
            is_held = false;
            if (counts) result = load_outcome<Real>(problem, row, found.maximum);
        } else {
            const Real logit = target >= 0 ? seen(x.number(target))
                               : HAS_TARGET && counts ? logit_elsewhere<PASS, Real>(problem, row)
                                                      : Limits<Real>::nan();
            const Real threshold = PASS == DESCRIBE && target >= 0 ? x.number(target) : Real(0);
#pragma unroll 1
            for (; piece < problem.pieces; piece += warps) {
                const int first = piece * tile.WIDTH;
                tile.load(x.from(first), counts ? problem.classes - first : 0);
                found = tile.statistics(target < 0 ? -1 : target - first, threshold, seen, ieee);
                if (together && counts) exchange.send(piece, found);
            }
            if (together && counts) {
                const Found *parts = exchange.all();
                if (PASS != WALK && warp) continue;
                found = merged<LANES>(parts, problem.pieces);
            }
            const bool writes = is_row && warp == 0 && team::lane() == 0;
            const Statistics<Real> all{found.maximum, found.others, logit};
            const SmoothingSums<Real> sums = sums_of(found);
            if (PASS == STATISTICS) {
                if (writes) store_statistics<Real>(problem, row, all, sums, 1);
                continue;
            }
            if constexpr (PASS == DESCRIBE) {
                if (writes) store_spread(problem, row, found);
            }
            if constexpr (!HAS_TARGET) {
                if (counts) result = outcome_of_measure<TARGETS>(problem, row, found.maximum, found.rest(), found.moment);
            } else if (counts) {
                const Real own = target >= 0 ? of_line<Real>(problem.class_weights, target) : Real(1);
                result = outcome<TARGETS == SMOOTHED, false>(problem, row, all, sums, own);
            }
            if (writes) store(static_cast<Real *>(problem.losses) + row, result.loss);
            if (PASS != WALK) continue;
        }

        if (TRANSFORM == CAPPED && target >= 0) result.entry *= seen.slope(x.number(target));
        // All lanes have read the target's logit, which one of them is going to write.
        sync_warp();
        const Row<Format, LAYOUT == STRIDED> d(problem.gradient, row, problem.gradient_row, problem.gradient_column);
        const Real centre = counts ? centre_of(found.maximum) : Real(0);
#pragma unroll 1
        for (piece -= warps; piece >= 0; piece -= warps) {
            const int first = piece * tile.WIDTH;
            if (!is_held) tile.load(x.from(first), counts ? problem.classes - first : 0);
            is_held = false;
            const int left = is_row ? problem.classes - first : 0, place = target < 0 ? -1 : target - first;
            tile.store(d.from(first), left, place, centre, result, seen, ieee);
        }
    }
}
