// `statistics` and `objective` for the kernels: from the statistics of a row to its loss and the numbers of its gradient.
// The formulas and their names are those of the two rooms.
#pragma once

template <class Real> struct Statistics {
    Real maximum, others, target;  // m, S = Σ_{j≠t} exp(x_j − m), x_t
};

// Sums over the other classes, for targets that are more than one class.
template <class Real> struct Spread {
    Real count, mass, deficit;
};

// d_j = factor·exp(x_j − m) − spread·u_j for j ≠ t, and d_t = entry.
template <class Real> struct Outcome {
    Real loss, entry, factor, spread;
};

DEVICE float exponential(float d) {
    // exp(d) as a power of two: log2(e) in two pieces, so that the exponent is rounded once. −∞ gives 0.
    return power_of_two(fused(d, 1.4426950216293335f, d * 1.9259629911266175e-8f));
}
DEVICE double exponential(double d) { return precise_exp(d); }

// The number that exponentials are taken from: a row of nothing but −∞ has none, and −∞ − (−∞) is NaN.
template <class Real> DEVICE Real centre_of(Real m) {
    return m == -Limits<Real>::infinity() ? -Limits<Real>::largest() : m;
}

template <class Real> DEVICE Real clipped(Real x) {
    if (x == Limits<Real>::infinity()) return Limits<Real>::largest();
    return x == -Limits<Real>::infinity() ? -Limits<Real>::largest() : x;
}

// A power of two, which costs no rounding: the largest differences of logits add up to a finite number.
constexpr double UNIT = 1.0 / (1ll << 40);

// `own`: the class weight of a hard target; of soft ones the mass of the class that is kept apart.
template <bool SPREADS, bool SOFT, class Real>
DEVICE Outcome<Real> outcome(const Problem &problem, long long row, const Statistics<Real> &found, Spread<Real> spread,
                             Real own) {
    const bool limits = problem.limits;
    const Real infinity = Limits<Real>::infinity();
    const Real tau = found.target - found.maximum, odds = precise_exp(tau);
    // Where the target is not the maximum, that is among the others and S ≥ 1: nothing cancels on either side.
    const Real log_z = precise_log1p(tau >= 0 ? found.others : (found.others - 1) + odds);
    Real gap = found.maximum - found.target;
    Real q_t = own, shared = 0, c = 1;
    if (!SOFT) {
        q_t = static_cast<Real>(problem.keep) * own;
        c = 0;
        if (SPREADS) {
            const Real part = limits && found.target == -infinity ? Real(0) : Real(problem.share);
            const Real shares = spread.count + part;
            c = shares == 0 ? Real(0) : static_cast<Real>(problem.spread) / shares;
            spread.mass *= c;
            spread.deficit *= c * static_cast<Real>(1 / UNIT);
            shared = c * part * own;
            if (limits) q_t += shared, shared = 0;
        }
    } else {
        spread.deficit *= static_cast<Real>(1 / UNIT);
    }
    if (limits && found.target == -infinity && q_t == 0) gap = 0;
    Real loss = q_t * (gap + log_z), rest = 0;
    if (SPREADS) {
        if (!limits && !SOFT) {
            loss += shared * (gap + log_z);
            q_t += shared;
        }
        loss += spread.mass * log_z + spread.deficit;
        rest = spread.mass;
    }
    if (problem.square != 0) {
        const Real lse = found.maximum + log_z, scaled = static_cast<Real>(problem.square) * lse;
        loss += scaled * lse;
        // Past the dtype, and yet no more than 0 where a probability is 0.
        rest = clipped(rest + 2 * scaled);
    }
    double scale = scale_of(problem, row);
    if (problem.weight) {
        const Real weight = of_line<Real>(problem.weight, row);
        loss = limits && weight == 0 ? Real(0) : weight * loss;
        scale *= weight;
    }
    // One division is enough: Z ≥ 1, or NaN.
    const Real inverse = 1 / (found.others + odds);
    double entry = -(scale * q_t) * (found.others * inverse);
    if (SPREADS || problem.square != 0) entry += scale * rest * (odds * inverse);
    return {loss, static_cast<Real>(entry), static_cast<Real>(scale * ((q_t + rest) * inverse)), static_cast<Real>(scale * c)};
}
