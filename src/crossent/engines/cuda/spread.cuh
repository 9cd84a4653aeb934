// Targets that are more than one class: soft targets, and smoothed ones that class weights make uneven.
//
// A row belongs to a warp, or to all warps of a cluster, whose threads take every so-manieth class. They go over it
// several times, which the cache makes cheap: one cluster has one row.
#pragma once

// What a warp sends to the others: sums, or a largest number and its place.
struct Message {
    double number[4];
};

// A running sum; what `high` loses by rounding gathers in `low`.
template <class Real> struct Sum {
    Real high = 0, low = 0;

    METHOD void add(Real x) {
        const Real after = high + x, taken = after - high;
        low += (high - (after - taken)) + (x - taken);
        high = after;
    }
    // An infinity in `high` has left a NaN in `low`.
    METHOD double total() const {
        return low != low ? static_cast<double>(high) : static_cast<double>(high) + static_cast<double>(low);
    }
};

// The threads that share a row.
struct Group {
    typedef Team<32> team;

    Exchange<Message> exchange;
    bool together;
    int warps, warp, size, member, cluster_log2;

    METHOD explicit Group(const Problem &problem)
        : exchange(problem.pieces, 1 << problem.cluster_log2), together(problem.pieces > 1), warps(problem.pieces), warp(0),
          cluster_log2(problem.cluster_log2) {
        if (together) {
            const int rank = static_cast<int>(block()) & (exchange.blocks - 1);
            warp = warps_of_block() * rank + warp_of_block();
            sync_cluster(exchange.blocks);
        }
        size = warps * 32;
        member = warp * 32 + team::lane();
    }

    METHOD long long first_row() const {
        return together ? block() >> cluster_log2 : block() * warps_of_block() + warp_of_block();
    }
    METHOD long long rows_at_once() const { return together ? blocks() >> cluster_log2 : blocks() * warps_of_block(); }

    METHOD Message sums(double a, double b, double c, double d) {
        Message mine = {{team::sum(a), team::sum(b), team::sum(c), team::sum(d)}};
        if (!together) return mine;
        exchange.send(warp, mine);
        const Message *all = exchange.all();
        mine = {{0, 0, 0, 0}};
        for (int i = team::lane(); i < warps; i += 32)
            for (int k = 0; k < 4; ++k) mine.number[k] += all[i].number[k];
        for (int k = 0; k < 4; ++k) mine.number[k] = team::sum(mine.number[k]);
        return mine;
    }

    // The largest number, and the first place of those that have it.
    METHOD Message largest(double x, int place) {
        Message mine = of_warp(x, place);
        if (!together) return mine;
        exchange.send(warp, mine);
        const Message *all = exchange.all();
        mine = all[0];
        for (int i = team::lane(); i < warps; i += 32) mine = better(mine, all[i]);
        return of_warp(mine.number[0], static_cast<int>(mine.number[1]));
    }

    template <class Format> METHOD void clear(const Row<Format, true> &d, int classes) const {
        for (int j = member; j < classes; j += size) d.put(j, Format::narrow_one(0));
    }

  private:
    METHOD static Message better(const Message &a, const Message &b) {
        const bool first = a.number[0] == b.number[0] ? a.number[1] <= b.number[1]
                                                      : larger(a.number[0], b.number[0]) == a.number[0];
        // NaN is not equal to itself, and has no place that matters.
        return first || a.number[0] != a.number[0] ? a : b;
    }

    METHOD static Message of_warp(double x, int place) {
        Message mine = {{x, static_cast<double>(place), 0, 0}};
        for (int mask = 16; mask; mask /= 2)
            mine = better(mine, {{from_partner(mine.number[0], mask), from_partner(mine.number[1], mask), 0, 0}});
        return mine;
    }
};

// One row: its logits, soft targets and class weights, and what smoothing needs to know of it.
template <class Format, bool SOFT, Transform TRANSFORM> struct SpreadRow {
    typedef typename Format::Real Real;

    const Problem &problem;
    const Row<Format, true> x;
    const Seen<Real, TRANSFORM> seen;
    const long long row;
    // Of soft targets that are smoothed: the even share, that of the others, the mass on classes that cannot occur, the
    // largest mass, its place, and the sum of all others.
    Real even, others, lost, peak, rest;
    int place;

    METHOD SpreadRow(const Problem &problem, long long row)
        : problem(problem), x(problem.logits, row, problem.logits_row, problem.logits_column), seen(problem), row(row) {}

    METHOD Real logit(int j) const { return seen(x.number(j)); }
    METHOD Real soft(int j) const {
        return single<Real>(problem.soft, problem.soft_format, row * problem.soft_row + j * problem.soft_column);
    }
    METHOD Real occurs(Real logit) const { return !problem.ieee && logit == -Limits<Real>::infinity() ? Real(0) : Real(1); }

    METHOD void prepare(Group &group) {
        Sum<Real> count, missing;
        Real most = -Limits<Real>::infinity();
        int where = problem.classes;
        for (int j = group.member; j < problem.classes; j += group.size) {
            const Real q = soft(j), here = occurs(logit(j));
            count.add(here);
            missing.add(q * (1 - here));
            if (q * here > most || most != most) most = q * here, where = j;
        }
        const Message sums = group.sums(count.total(), missing.total(), 0, 0), top = group.largest(most, where);
        place = static_cast<int>(top.number[1]);
        Sum<Real> remaining;
        for (int j = group.member; j < problem.classes; j += group.size)
            if (j != place) remaining.add(soft(j) * occurs(logit(j)));
        const double possible = sums.number[0];
        const Real smoothing = static_cast<Real>(problem.smoothing), n = static_cast<Real>(possible);
        even = smoothing / (n > 1 ? n : Real(1));
        others = n <= 1 ? Real(0) : smoothing / (n - 1);
        lost = static_cast<Real>(sums.number[1]);
        peak = static_cast<Real>(top.number[0]);
        rest = static_cast<Real>(group.sums(remaining.total(), 0, 0, 0).number[0]);
    }

    // The mass of a class: `class_masses` or `soft_masses` of `math.targets`.
    METHOD Real mass(int j, Real logit) const {
        const Real u = of_line<Real>(problem.class_weights, j), here = occurs(logit);
        if (!SOFT) return here == 0 ? Real(0) : u;
        const Real q = soft(j);
        if (problem.smoothing == 0) return q * u;
        const Real kept = static_cast<Real>(problem.target_mass) * q;
        if (problem.includes_target) return (kept + even * here) * u;
        // The others of every class, without what the likeliest has: that would drown the rest.
        const Real sum_of_others = j == place ? rest : (rest - q * here) + peak;
        return (kept + (here * others * sum_of_others + even * here * lost)) * u;
    }

    METHOD void put_gradient(const Group &group, const Row<Format, true> &d, int target, Real centre,
                             const Outcome<Real> &result) const {
        sync_warp();
        for (int j = group.member; j < problem.classes; j += group.size) {
            const Real y = logit(j);
            Real value = result.factor * exponential(y - centre) - result.uniform_term * mass(j, y);
            if (j == target) value = result.entry;
            d.put(j, Format::narrow_one(TRANSFORM == CAPPED ? value * seen.slope(x.number(j)) : value));
        }
    }
};

template <class Format, bool SOFT, Pass PASS, Transform TRANSFORM> DEVICE void walk_spread(const Problem &problem) {
    typedef typename Format::Real Real;
    const bool ieee = problem.ieee;
    const Real infinity = Limits<Real>::infinity(), unit = static_cast<Real>(UNIT);
    Group group(problem);
    for (long long row = group.first_row(); row < problem.rows; row += group.rows_at_once()) {
        SpreadRow<Format, SOFT, TRANSFORM> line(problem, row);
        const Row<Format, true> d(problem.gradient, row, problem.gradient_row, problem.gradient_column);
        Real *loss = static_cast<Real *>(problem.losses) + row;
        if (is_ignored<Real>(problem, row)) {
            if (PASS != GRADIENT && group.member == 0) store(loss, Real(0));
            if (PASS != LOSSES) group.clear(d, problem.classes);
            continue;
        }

        if (PASS == GRADIENT) {
            Real maximum;
            const Outcome<Real> result = load_outcome<Real>(problem, row, maximum);
            if (SOFT && problem.smoothing != 0) line.prepare(group);
            line.put_gradient(group, d, place_of_target<PASS>(problem, row), centre_of(maximum), result);
            continue;
        }

        Real most = -infinity;
        int where = problem.classes;
        for (int j = group.member; j < problem.classes; j += group.size) {
            const Real logit = line.logit(j);
            if (logit > most || logit != logit || where == problem.classes) where = j;
            most = larger(most, logit);
        }
        const Message top = group.largest(most, where);
        const Real maximum = static_cast<Real>(top.number[0]), centre = centre_of(maximum);
        // Any class of soft targets may be kept apart from the sum of exponentials; the likeliest leaves the smallest sum.
        const int target = SOFT ? static_cast<int>(top.number[1]) : place_of_target<PASS>(problem, row);
        const Real logit = target >= 0 ? line.logit(target) : SOFT ? Limits<Real>::nan() : logit_elsewhere<PASS, Real>(problem, row);
        if (SOFT && problem.smoothing != 0) line.prepare(group);

        Sum<Real> others, count, mass, weighted_gap;
        for (int j = group.member; j < problem.classes; j += group.size) {
            if (j == target) continue;
            const Real x = line.logit(j), u = line.mass(j, x), gap = centre * unit - x * unit;
            others.add(exponential(x - centre));
            count.add(line.occurs(x));
            mass.add(u);
            // 0·∞ counts as 0; with `ieee`, an infinite mass at the maximum counts in the mass alone.
            weighted_gap.add((ieee ? gap == 0 : x == -infinity && u == 0) ? Real(0) : u * gap);
        }
        const Message sums = group.sums(others.total(), count.total(), mass.total(), weighted_gap.total());
        const SmoothingSums<Real> shared{static_cast<Real>(sums.number[1]), static_cast<Real>(sums.number[2]),
                                         static_cast<Real>(sums.number[3])};
        const Statistics<Real> all{maximum, static_cast<Real>(sums.number[0]), logit};
        Real own = Limits<Real>::nan();
        if (target >= 0) own = SOFT ? line.mass(target, logit) : of_line<Real>(problem.class_weights, target);
        if (PASS == STATISTICS) {
            if (group.member == 0) {
                store_statistics<Real>(problem, row, all, shared, own);
                if (SOFT) store(problem.apart + row, problem.first_class + target);
            }
            continue;
        }
        const Outcome<Real> result = outcome<true, SOFT>(problem, row, all, shared, own);
        if (group.member == 0) store(loss, result.loss);
        // All threads have read the target's logit, which one of them is going to write.
        if (PASS == WALK) line.put_gradient(group, d, target, centre, result);
    }
}
