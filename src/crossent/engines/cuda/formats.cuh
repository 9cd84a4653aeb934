// The formats of logits: how 16 bytes of memory, a granule, become numbers in the compute dtype and back.
#pragma once

template <class Real> struct Limits;

template <> struct Limits<float> {
    METHOD static float infinity() { return float_of_bits(0x7f800000u); }
    METHOD static float nan() { return float_of_bits(0x7fc00000u); }
    METHOD static float largest() { return float_of_bits(0x7f7fffffu); }
};

template <> struct Limits<double> {
    METHOD static double infinity() { return double_of_bits(0u, 0x7ff00000u); }
    METHOD static double nan() { return double_of_bits(0u, 0x7ff80000u); }
    METHOD static double largest() { return double_of_bits(0xffffffffu, 0x7fefffffu); }
};

struct Float32 {
    typedef float Real;
    typedef unsigned Bits;
    static constexpr int COUNT = 4;
    static constexpr unsigned LEAST_LOW = 0xff800000u, LEAST_HIGH = 0xff800000u;

    METHOD static void widen(const Granule &g, Real (&x)[COUNT]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) x[i] = float_of_bits(g.word[i]);
    }
    METHOD static Granule narrow(const Real (&x)[COUNT]) {
        Granule g;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) g.word[i] = bits_of_float(x[i]);
        return g;
    }
    METHOD static Real widen_one(Bits bits) { return float_of_bits(bits); }
    METHOD static Bits narrow_one(Real x) { return bits_of_float(x); }
    METHOD static void put(Granule &g, int i, Bits bits) { g.word[i] = bits; }
    METHOD static void keep_larger(Granule &a, const Granule &b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a.word[i] = bits_of_float(larger(float_of_bits(a.word[i]), float_of_bits(b.word[i])));
    }
};

struct Float64 {
    typedef double Real;
    typedef unsigned long long Bits;
    static constexpr int COUNT = 2;
    static constexpr unsigned LEAST_LOW = 0u, LEAST_HIGH = 0xfff00000u;

    METHOD static void widen(const Granule &g, Real (&x)[COUNT]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) x[i] = double_of_bits(g.word[2 * i], g.word[2 * i + 1]);
    }
    METHOD static Granule narrow(const Real (&x)[COUNT]) {
        Granule g;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) g.word[2 * i] = low_bits(x[i]), g.word[2 * i + 1] = high_bits(x[i]);
        return g;
    }
    METHOD static Real widen_one(Bits bits) {
        return double_of_bits(static_cast<unsigned>(bits), static_cast<unsigned>(bits >> 32));
    }
    METHOD static Bits narrow_one(Real x) { return static_cast<Bits>(high_bits(x)) << 32 | low_bits(x); }
    METHOD static void put(Granule &g, int i, Bits bits) {
        g.word[2 * i] = static_cast<unsigned>(bits);
        g.word[2 * i + 1] = static_cast<unsigned>(bits >> 32);
    }
    METHOD static void keep_larger(Granule &a, const Granule &b) {
        Real x[COUNT], y[COUNT];
        widen(a, x);
        widen(b, y);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) x[i] = larger(x[i], y[i]);
        a = narrow(x);
    }
};

// What bfloat16 and float16 have in common; `Own` says how a pair in a word is widened, narrowed and compared.
template <class Own> struct Half {
    typedef float Real;
    typedef unsigned short Bits;
    static constexpr int COUNT = 8;

    METHOD static void widen(const Granule &g, Real (&x)[COUNT]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[2 * i] = Own::low(g.word[i]), x[2 * i + 1] = Own::high(g.word[i]);
    }
    METHOD static Granule narrow(const Real (&x)[COUNT]) {
        Granule g;
#pragma unroll
        for (int i = 0; i < 4; ++i) g.word[i] = Own::pair(x[2 * i], x[2 * i + 1]);
        return g;
    }
    METHOD static Real widen_one(Bits bits) { return Own::low(bits); }
    METHOD static Bits narrow_one(Real x) { return static_cast<Bits>(Own::pair(x, 0.0f)); }
    METHOD static void put(Granule &g, int i, Bits bits) {
        unsigned word = g.word[i / 2];
        g.word[i / 2] = i % 2 ? (word & 0xffffu) | static_cast<unsigned>(bits) << 16 : (word & 0xffff0000u) | bits;
    }
    METHOD static void keep_larger(Granule &a, const Granule &b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a.word[i] = Own::larger_pair(a.word[i], b.word[i]);
    }
};

struct Bfloat16 : Half<Bfloat16> {
    static constexpr unsigned LEAST_LOW = 0xff80ff80u, LEAST_HIGH = 0xff80ff80u;
    METHOD static float low(unsigned word) { return float_of_bits(word << 16); }
    METHOD static float high(unsigned word) { return float_of_bits(word & 0xffff0000u); }
    METHOD static unsigned pair(float first, float second) { return bfloat16_pair(first, second); }
    METHOD static unsigned larger_pair(unsigned a, unsigned b) { return larger_bfloat16_pair(a, b); }
};

struct Float16 : Half<Float16> {
    static constexpr unsigned LEAST_LOW = 0xfc00fc00u, LEAST_HIGH = 0xfc00fc00u;
    METHOD static float low(unsigned word) { return float_of_half(word & 0xffffu); }
    METHOD static float high(unsigned word) { return float_of_half(word >> 16); }
    METHOD static unsigned pair(float first, float second) { return float16_pair(first, second); }
    METHOD static unsigned larger_pair(unsigned a, unsigned b) { return larger_float16_pair(a, b); }
};

// Sixteen bytes of −∞.
template <class Format> DEVICE Granule nothing() {
    return Granule{{Format::LEAST_LOW, Format::LEAST_HIGH, Format::LEAST_LOW, Format::LEAST_HIGH}};
}
