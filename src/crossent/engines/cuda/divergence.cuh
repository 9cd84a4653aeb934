// Divergences of rows from those of a teacher, by the formulas of `math.measures` and under its names.
//
// The threads that share a row are those of `spread.cuh`; they go over both rows several times, which the cache makes cheap.
#pragma once

// The product with a probability, 0 where that is.
template <class Real> DEVICE Real times(Real probability, Real x) { return probability * (probability == 0 ? Real(0) : x); }

// A class's term of a divergence, probability·h(x) with h(x) = exp(x) − 1 − x; rise: probability·(exp(x) − 1).
template <class Real> DEVICE Real term_of(Real probability, Real x, Real rise) {
    if (x < Real(0.25) && x > Real(-0.25)) {
        // h(x)/x² = (1 + x/3·(1 + x/4·(…)))/2, exact in the dtype.
        Real tail = 1;
#pragma unroll
        for (int k = sizeof(Real) == 4 ? 8 : 12; k >= 3; --k) tail = 1 + tail * x * (Real(1) / k);
        return probability * x * x * (tail / 2);
    }
    // A term is below 0 by rounding alone; and it is ∞ where the other side leaves out a class, however unlikely.
    return x == -Limits<Real>::infinity() ? -x : larger(rise - times(probability, x), Real(0));
}

// A row as a distribution: its maximum, or what stands for it, log Z and 1/Z.
template <class Real> struct Distribution {
    Real centre, log_z, inverse;

    METHOD Distribution(Real centre, double below, double ties) : centre(centre) {
        const Real rest = static_cast<Real>(below + (ties - 1));
        log_z = precise_log1p(rest);
        inverse = 1 / (1 + rest);
    }
};

// A row and its teacher's. What makes u = ((z − A) − (y − B)) − S, which is log q − log p but for a sum: see
// `math.measures`.
template <class Real> struct Both {
    const Distribution<Real> student, teacher;
    Real other, own, start;  // A, B, S
    Real log_relative;       // log of p·exp(u) over the exponential of the teacher's logit
    bool is_near;
    Real log_sum;

    // y_q: the teacher's logit of the student's likeliest class.
    METHOD Both(const Distribution<Real> &student, const Distribution<Real> &teacher, Real y_q)
        : student(student), teacher(teacher), other(teacher.centre), own(student.centre),
          start(teacher.log_z - student.log_z), log_sum(0) {
        const Real away = teacher.centre - y_q;
        const bool is_sure = student.log_z < Real(0.6931471805599453) && away < 1;
        is_near = is_sure || (away < 1 && start < 1 && start > -1);
        log_relative = (is_sure ? away : -start) - student.log_z;
        if (is_sure) {
            other = y_q;
            start = 0;
        }
        const Real shift = other - own;
        if (shift <= 1 && shift >= -1) {
            start = shift + start;
            other = own = 0;
        }
    }

    // u less a number of all classes, and 0 where neither side occurs.
    METHOD Real u(Real y, Real y_q, Real less) const {
        const Real infinity = Limits<Real>::infinity();
        if (student.centre - y == infinity && teacher.centre - y_q == infinity) return 0;
        return ((y_q - other) - (y - own)) - start - less;
    }

    METHOD Real log_ratio_of(Real y, Real y_q) const { return u(y, y_q, log_sum); }

    // p·expm1(u).
    METHOD Real change(Real y, Real y_q, Real relative) const {
        const Real p = exponential(y - student.centre) * student.inverse, x = u(y, y_q, 0);
        return x < 1 && x > -1 ? p * precise_expm1(x) : exponential(y_q - teacher.centre) * relative - p;
    }
};

// A class of both rows: p, q, q − p, and the logarithms of q/p, or those of the mixture over p and over q. The student's
// gradient is made of `of_p`.
template <class Real, Targets DIRECTION> struct Pair {
    Real p, q, difference, of_p, of_q;

    // mixture, share: those of the teacher and of the student in the mixture.
    METHOD Pair(Real y, Real y_q, const Both<Real> &both, Real mixture, Real share) {
        p = exponential(y - both.student.centre) * both.student.inverse;
        q = exponential(y_q - both.teacher.centre) * both.teacher.inverse;
        const Real r = both.log_ratio_of(y, y_q);
        const bool up = r > 0;
        const Real less = precise_expm1(up ? -r : r);
        difference = (up ? -q : p) * less;
        of_p = of_q = r;
        if (DIRECTION == JENSEN_SHANNON) {
            // log(m/p) and log(m/q), of which the one with the smaller argument is found first.
            const Real small = precise_log1p((up ? share : mixture) * less);
            of_p = up ? small + r : small;
            of_q = up ? small : small - r;
        }
    }
};

// One row and its teacher's.
template <class Format, Targets DIRECTION, Transform TRANSFORM> struct DivergenceRow {
    typedef typename Format::Real Real;
    typedef ::Pair<Real, DIRECTION> Pair;

    const SpreadRow<Format, true, TRANSFORM> line;
    const Real mixture, share;

    METHOD DivergenceRow(const Problem &problem, long long row)
        : line(problem, row),
          mixture(static_cast<Real>(problem.mixture)),
          share(static_cast<Real>(1 - problem.mixture)) {}

    METHOD Real own(int j) const { return line.logit(j); }
    METHOD Real others(int j) const { return line.seen(line.soft(j)); }

    METHOD void walk(Group &group, const Row<Format, true> &d, Real *value, bool has_gradient) const {
        const int classes = line.problem.classes;
        Real most = -Limits<Real>::infinity(), most_q = most;
        int where = classes;
        for (int j = group.member; j < classes; j += group.size) {
            const Real y = own(j);
            if (y > most || y != y || where == classes) where = j;
            most = larger(most, y);
            most_q = larger(most_q, others(j));
        }
        const Message top = group.largest(most, where), top_q = group.largest(most_q, 0);
        const Real centre = centre_of(static_cast<Real>(top.number[0]));
        const Real centre_q = centre_of(static_cast<Real>(top_q.number[0]));

        Sum<Real> below, below_q;
        int ties = 0, ties_q = 0;
        for (int j = group.member; j < classes; j += group.size) {
            const Real gap = centre - own(j), gap_q = centre_q - others(j);
            below.add(gap == 0 ? Real(0) : exponential(-gap));
            below_q.add(gap_q == 0 ? Real(0) : exponential(-gap_q));
            ties += gap == 0;
            ties_q += gap_q == 0;
        }
        const Message sums = group.sums(below.total(), ties, below_q.total(), ties_q);
        const int likeliest = static_cast<int>(top.number[1]);
        Both<Real> both({centre, sums.number[0], sums.number[1]}, {centre_q, sums.number[2], sums.number[3]}, others(likeliest));
        if (both.is_near) {
            const Real relative = precise_exp(both.log_relative);
            Sum<Real> change;
            for (int j = group.member; j < classes; j += group.size) change.add(both.change(own(j), others(j), relative));
            both.log_sum = precise_log1p(static_cast<Real>(group.sums(change.total(), 0, 0, 0).number[0]));
        }
        const auto pair = [&](int j) { return Pair(own(j), others(j), both, mixture, share); };

        // What the gradient is made of is taken from that of the likeliest class, so that nothing cancels.
        const Real of_top = DIRECTION == FORWARD ? Real(0) : pair(likeliest).of_p;
        Sum<Real> terms, terms_q, mean;
        for (int j = group.member; j < classes; j += group.size) {
            const Pair c = pair(j);
            if (DIRECTION == FORWARD) {
                terms.add(term_of(c.q, -c.of_q, -c.difference));
            } else if (DIRECTION == REVERSE) {
                terms.add(term_of(c.p, c.of_p, c.difference));
            } else {
                terms.add(term_of(c.p, c.of_p, mixture * c.difference));
                terms_q.add(term_of(c.q, c.of_q, -share * c.difference));
            }
            if (DIRECTION != FORWARD) mean.add(times(c.p, c.of_p - of_top));
        }
        const Message found = group.sums(terms.total(), terms_q.total(), mean.total(), 0);
        Real result = static_cast<Real>(found.number[0]);
        if (DIRECTION == JENSEN_SHANNON) result = mixture * static_cast<Real>(found.number[1]) + share * result;
        if (group.member == 0) store(value, weighed(line.problem, line.row, result));
        if (!has_gradient) return;

        // Where the divergence is infinite, its gradient has no meaning.
        const Real middle = result < Limits<Real>::infinity() ? static_cast<Real>(found.number[2]) : Limits<Real>::nan();
        const Real scale = static_cast<Real>(weighed_scale<Real>(line.problem, line.row));
        for (int j = group.member; j < classes; j += group.size) {
            const Pair c = pair(j);
            Real entry = -c.difference;
            if (DIRECTION != FORWARD) entry = times(c.p, middle - (c.of_p - of_top));
            if (DIRECTION == JENSEN_SHANNON) entry *= share;
            d.put(j, Format::narrow_one(scale * entry * line.seen.slope(line.x.number(j))));
        }
    }
};

template <class Format, Targets DIRECTION, Pass PASS, Transform TRANSFORM> DEVICE void walk_divergence(const Problem &problem) {
    typedef typename Format::Real Real;
    Group group(problem);
    for (long long row = group.first_row(); row < problem.rows; row += group.rows_at_once()) {
        const Row<Format, true> d(problem.gradient, row, problem.gradient_row, problem.gradient_column);
        Real *value = static_cast<Real *>(problem.losses) + row;
        if (is_ignored<Real>(problem, row)) {
            if (group.member == 0) store(value, Real(0));
            if (PASS == WALK) group.clear(d, problem.classes);
        } else {
            DivergenceRow<Format, DIRECTION, TRANSFORM>(problem, row).walk(group, d, value, PASS == WALK);
        }
    }
}
