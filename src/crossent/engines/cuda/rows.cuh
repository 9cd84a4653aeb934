// Rows of a matrix in memory. Nothing outside a row is ever touched, not even to be thrown away.
#pragma once

// A row of elements of a format, side by side or `column` elements apart; or the part of one that begins with `first`.
template <class Format, bool STRIDED> struct Row {
    typedef typename Format::Real Real;
    typedef typename Format::Bits Bits;
    static constexpr int COUNT = Format::COUNT;

    const Bits *first;
    const long long &column;

    METHOD Row(const void *matrix, long long row, const long long &step, const long long &column)
        : first(static_cast<const Bits *>(matrix) + row * step), column(column) {}
    METHOD Row(const Bits *first, const long long &column) : first(first), column(column) {}

    METHOD const Bits *at(int j) const { return first + (STRIDED ? j * column : j); }
    METHOD Row from(int j) const { return Row(at(j), column); }

    METHOD Bits bits(int j) const { return load(at(j)); }
    METHOD Real number(int j) const { return Format::widen_one(bits(j)); }
    METHOD void put(int j, Bits x) const { store(const_cast<Bits *>(at(j)), x); }

    // How many elements lie between the last 16-byte boundary and the first element.
    METHOD int misaligned() const { return static_cast<int>(address_of(first) / sizeof(Bits) % COUNT); }

    // The elements from number j on; −∞ for those that are not from number 0 up to `stop`.
    METHOD Granule some(int j, int stop) const {
        Granule g = nothing<Format>();
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (j + i >= 0 && j + i < stop) Format::put(g, i, bits(j + i));
        return g;
    }

    METHOD void put_some(int j, const Real (&x)[COUNT], int stop) const {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (j + i >= 0 && j + i < stop) put(j + i, Format::narrow_one(x[i]));
    }

    METHOD Granule whole(int j) const { return load_granule(first + j); }
    METHOD void put_whole(int j, const Granule &g) const { store_granule(const_cast<Bits *>(first) + j, g); }
};

// An element of any format in the compute dtype: for what is read beside the logits.
template <class Real> DEVICE Real single(const void *p, int format, long long i) {
    if (format == 0) return static_cast<Real>(load(static_cast<const float *>(p) + i));
    if (format == 1) return static_cast<Real>(load(static_cast<const double *>(p) + i));
    unsigned bits = load(static_cast<const unsigned short *>(p) + i);
    return static_cast<Real>(format == 2 ? Bfloat16::low(bits) : Float16::low(bits));
}

// A number for each row or class, in the compute dtype; 1 where there is none.
template <class Real> DEVICE Real of_line(const void *line, long long i) {
    return line ? load(static_cast<const Real *>(line) + i) : Real(1);
}

DEVICE double scale_of(const Problem &problem, long long row) {
    return problem.inverse_temperature *
           (problem.scales ? single<double>(problem.scales, problem.scales_format, row * problem.scales_row) : problem.scale);
}

// Whether a row is not to be looked at, whatever it holds.
template <class Real> DEVICE bool is_ignored(const Problem &problem, long long row) {
    return !problem.ieee && problem.weight && of_line<Real>(problem.weight, row) == Real(0);
}

// Where the target of a row is among its logits; −1 where it is not.
template <Pass PASS> DEVICE int place_of_target(const Problem &problem, long long row) {
    // Whole rows have all classes.
    const long long target = load(problem.targets + row) - (PASS < STATISTICS ? 0 : problem.first_class);
    return target >= 0 && target < problem.classes ? static_cast<int>(target) : -1;
}

// What stands for the logit of a target that is not among a row's: one elsewhere in the vocabulary is not held, the row
// of one outside of it is NaN.
template <Pass PASS, class Real> DEVICE Real logit_elsewhere(const Problem &problem, long long row) {
    if (PASS != STATISTICS) return Limits<Real>::nan();
    const long long target = load(problem.targets + row);
    return target >= 0 && target < problem.vocabulary ? -Limits<Real>::infinity() : Limits<Real>::nan();
}
