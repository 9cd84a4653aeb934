// `math.transform` for the kernels: logits as everything else sees them, and the slope of their gradient. What is taken of
// one logit has the same bits wherever it is taken.
#pragma once

enum Transform { PLAIN, SCALED, CAPPED };

template <class Real, Transform TRANSFORM> struct Seen {
    Real scale, cap;

    METHOD explicit Seen(const Problem &problem)
        : scale(static_cast<Real>(problem.scale_of_logits)), cap(static_cast<Real>(problem.softcap)) {}

    // y of a logit. The largest logit has the largest, but for rounding.
    METHOD Real operator()(Real x) const {
        if (TRANSFORM == PLAIN) return x;
        const Real a = product(x, scale);
        return TRANSFORM == CAPPED ? product(cap, precise_tanh(a)) : a;
    }

    // 1 − (y/cap)², which is 4u/(1 + u)² with u = exp(−2|x·scale|) and does not cancel; 1 without a cap.
    METHOD Real slope(Real x) const {
        if (TRANSFORM != CAPPED) return Real(1);
        const Real a = product(x, scale), u = exponential(-2 * (a < 0 ? -a : a)), twice = 2 / (1 + u);
        return u * twice * twice;
    }
};
