// `math.outcome` for the kernels: from the statistics of a row to its loss and the numbers of its gradient, by the same
// formula, under the same names.
#pragma once

template <class Real> struct Statistics {
    Real maximum, others, target;  // m, S = Σ_{j≠t} exp(x_j − m), x_t
};

// Sums over the other classes, for targets that are more than one class.
template <class Real> struct SmoothingSums {
    Real count, mass, weighted_gap;
};

// d_j = factor·exp(x_j − m) − uniform_term·u_j for j ≠ t, and d_t = entry; for a measure see `outcome_of_measure`.
template <class Real> struct Outcome {
    Real loss, entry, factor, uniform_term;
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
DEVICE Outcome<Real> outcome(const Problem &problem, long long row, const Statistics<Real> &found, SmoothingSums<Real> sums,
                             Real own) {
    const bool ieee = problem.ieee;
    const Real infinity = Limits<Real>::infinity();
    const Real tau = found.target - found.maximum, odds = precise_exp(tau);
    // Where the target is not the maximum, that is among the others and S ≥ 1: nothing cancels on either side.
    const Real log_z = precise_log1p(tau >= 0 ? found.others : (found.others - 1) + odds);
    // Far apart, the loss is counted in units of 1/UNIT until it is weighed.
    const Real most = Limits<Real>::largest() * static_cast<Real>(UNIT), reach = most * static_cast<Real>(UNIT);
    bool far = found.maximum > most || (-found.target > most && found.target > -infinity);
    if (SPREADS) far = far || sums.weighted_gap > reach || -sums.weighted_gap > reach;
    const Real unit = far ? static_cast<Real>(UNIT) : Real(1), log_z_units = log_z * unit;
    Real gap = found.maximum * unit - found.target * unit;
    Real q_t = own, shared = 0, c = 1;
    if (!SOFT) {
        q_t = static_cast<Real>(problem.target_mass) * own;
        c = 0;
        if (SPREADS) {
            const Real part = !ieee && found.target == -infinity ? Real(0) : Real(problem.includes_target);
            const Real shares = sums.count + part;
            c = shares == 0 ? Real(0) : static_cast<Real>(problem.smoothing) / shares;
            sums.mass *= c;
            sums.weighted_gap *= c;
            shared = c * part * own;
            if (!ieee) q_t += shared, shared = 0;
        }
    }
    if (!ieee && found.target == -infinity && q_t == 0) gap = 0;
    Real loss = q_t * (gap + log_z_units);
    if (SPREADS) {
        if (ieee && !SOFT) {
            loss += shared * (gap + log_z_units);
            q_t += shared;
        }
        loss += sums.mass * log_z_units + sums.weighted_gap * (far ? Real(1) : static_cast<Real>(1 / UNIT));
    }
    const Real lse = found.maximum + log_z, z_loss = static_cast<Real>(problem.z_loss), mass = SPREADS ? sums.mass : Real(0);
    if (z_loss != 0) loss += (z_loss * lse) * (lse * unit);
    double scale = scale_of(problem, row);
    if (problem.weight) {
        const Real weight = of_line<Real>(problem.weight, row);
        loss = !ieee && weight == 0 ? Real(0) : weight * loss;
        scale *= weight;
    }
    if (far) loss *= static_cast<Real>(1 / UNIT);
    // One division is enough: Z ≥ 1, or NaN.
    const Real inverse = 1 / (found.others + odds);
    double entry = -(scale * q_t) * (found.others * inverse);
    if (SPREADS) entry += scale * mass * (odds * inverse);
    Real factor = static_cast<Real>(scale * ((q_t + mass) * inverse));
    if (z_loss != 0) {
        // It may be past the dtype, and yet is no more than 0 where a probability is 0: scaled first, then clipped.
        const double rest = clipped(2 * problem.z_loss * scale * lse);
        entry += rest * (odds * inverse);
        factor = clipped(static_cast<Real>(factor + rest * inverse));
    }
    return {loss, static_cast<Real>(entry), factor, static_cast<Real>(scale * c)};
}

// A row's value times its weight, 0 where that is; and what its gradient is multiplied by.
template <class Real> DEVICE Real weighed(const Problem &problem, long long row, Real value) {
    if (!problem.weight) return value;
    const Real weight = of_line<Real>(problem.weight, row);
    return weight == 0 ? Real(0) : weight * value;
}
template <class Real> DEVICE double weighed_scale(const Problem &problem, long long row) {
    return scale_of(problem, row) * of_line<Real>(problem.weight, row);
}

// The measure of a row itself by `math.measures`, and the numbers of its gradient: d_j = factor·exp(y_j − m), for the
// entropy times (m − y_j) − `uniform_term`, which is E/Z. rest: Z − 1.
template <Targets MEASURE, class Real>
DEVICE Outcome<Real> outcome_of_measure(const Problem &problem, long long row, Real maximum, Real rest, Real moment) {
    const Real log_z = precise_log1p(rest), inverse = 1 / (1 + rest), mean = moment * inverse;
    const Real value = MEASURE == ENTROPY ? log_z + mean : maximum + log_z;
    return {weighed(problem, row, value), 0, static_cast<Real>(weighed_scale<Real>(problem, row) * inverse), mean};
}

// Write the statistics of a row, line after line.
template <class Real>
DEVICE void store_statistics(const Problem &problem, long long row, const Statistics<Real> &found,
                             const SmoothingSums<Real> &sums, Real own) {
    const Real numbers[7] = {found.maximum, found.others, sums.count, sums.mass, sums.weighted_gap, own, found.target};
#pragma unroll
    for (int i = 0; i < 7; ++i) store(static_cast<Real *>(problem.found) + i * problem.rows + row, numbers[i]);
}

// The numbers that make the gradient of a row, from a table; `maximum` is the row's.
template <class Real> DEVICE Outcome<Real> load_outcome(const Problem &problem, long long row, Real &maximum) {
    const Real *numbers = static_cast<const Real *>(problem.numbers) + row;
    maximum = load(numbers);
    return {0, load(numbers + 3 * problem.rows), load(numbers + problem.rows), load(numbers + 2 * problem.rows)};
}
