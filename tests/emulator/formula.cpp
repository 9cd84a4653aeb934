// The formula of CUDA's rows, called with any statistics: `test_one_formula.py` compares it with its two others.
#include "emulator.cpp"

namespace {

// statistics: lines of maximum, others, target, count, mass, weighted gap and own; results: loss, factor, uniform term and
// the target's entry.
template <bool SPREADS, bool SOFT, class Real> void outcomes(const Problem &p, const Real *statistics, Real *results) {
    emulator::trouble.clear();
    emulator::readable.clear();
    allow(emulator::readable, p.weight, sizeof(Real), 1, 0, p.rows, 1);
    allow(emulator::readable, p.scales, 8, 1, 0, p.rows, 1);
    for (long long row = 0; row < p.rows; ++row) {
        Real s[7];
        for (int i = 0; i < 7; ++i) s[i] = statistics[i * p.rows + row];
        const Outcome<Real> o = outcome<SPREADS, SOFT>(p, row, {s[0], s[1], s[2]}, SmoothingSums<Real>{s[3], s[4], s[5]}, s[6]);
        const Real numbers[4] = {o.loss, o.factor, o.uniform_term, o.entry};
        for (int i = 0; i < 4; ++i) results[i * p.rows + row] = numbers[i];
    }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void formula(const Problem *p, const void *statistics, void *results) {
    typedef CROSSENT_FORMAT::Real Real;
    constexpr bool SPREADS = CROSSENT_TARGETS != HARD, SOFT_TARGETS = CROSSENT_TARGETS == SOFT;
    outcomes<SPREADS, SOFT_TARGETS>(*p, static_cast<const Real *>(statistics), static_cast<Real *>(results));
}
