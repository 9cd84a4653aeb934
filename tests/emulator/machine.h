// A GPU made of fibers, in the place of the CUDA engine's room `machine.cuh`: the kernel's own text runs on a CPU.
//
// Every thread of a cluster is a fiber that runs until it has to wait for others. A warp goes on for as long as it can,
// and which comes next is drawn from a seed, so a barrier that is missing shows as bits that depend on the seed. Shared
// memory begins as NaN. Every access to memory is looked up among the bytes that the launch may read or write.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#define DEVICE static inline
#define METHOD inline
#define KERNEL(threads, blocks) static void
#define PARAMETER const

typedef unsigned long long Address;

namespace emulator {

// --- memory that may be touched -----------------------------------------------------------------------------------------

struct Area {
    Address first;
    std::vector<bool> allowed;

    bool has(Address place, size_t size) const {
        if (place < first || place + size > first + allowed.size()) return false;
        for (size_t i = 0; i < size; ++i)
            if (!allowed[place - first + i]) return false;
        return true;
    }
};

inline std::vector<Area> readable, writable;
inline std::string trouble;

inline void report(const std::string &text) {
    if (trouble.empty()) trouble = text;
}

inline bool may(const std::vector<Area> &areas, const void *p, size_t size, const char *what) {
    for (const Area &area : areas)
        if (area.has(reinterpret_cast<Address>(p), size)) return true;
    char text[120];
    std::snprintf(text, sizeof text, "%s of %zu bytes at %p, which is no part of any row", what, size, p);
    report(text);
    return false;
}

// --- fibers -------------------------------------------------------------------------------------------------------------

constexpr size_t STACK = 64 * 1024, MOST_THREADS = 16 * 512;

struct Barrier {
    int expected = 0;
    std::vector<int> waiting;
};

struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool started;
    int thread;
    long long block;
    int rank;
    int shuffles;
};

struct Warp {
    Barrier barrier;
    std::vector<int> ready;
    // What lanes hand over, and how many bytes it has: two tables in turn, as in the engine's `Exchange`.
    uint64_t slot[2][32];
    int size[2][32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Barrier everybody;
inline std::vector<std::vector<char>> shared;
inline std::vector<int> ready;  // warps with fibers that can go on, without the one that does
inline int favoured;
inline std::mt19937_64 dice;
inline jmp_buf scheduler;
inline ucontext_t origin;
inline int current, threads_of_block, finished;
inline long long blocks_of_grid;
inline void (*body)();

inline void make_ready(int fiber) {
    Warp &warp = warps[fiber / 32];
    if (warp.ready.empty() && fiber / 32 != favoured) ready.push_back(fiber / 32);
    warp.ready.push_back(fiber);
}

// One of a number of things, which is taken out.
inline int draw(std::vector<int> &things) {
    const size_t chosen = dice() % things.size();
    const int thing = things[chosen];
    things[chosen] = things.back();
    things.pop_back();
    return thing;
}

inline void leave() { _longjmp(scheduler, 1); }

inline void wait_at(Barrier &barrier) {
    barrier.waiting.push_back(current);
    if (static_cast<int>(barrier.waiting.size()) == barrier.expected) {
        for (int fiber : barrier.waiting) make_ready(fiber);
        barrier.waiting.clear();
    }
    if (!_setjmp(fibers[current].here)) leave();
}

inline void run_body() {
    body();
    ++finished;
    leave();
}

inline Warp &warp_of_current() { return warps[current / 32]; }

// Run one cluster to its end.
inline void run_cluster(long long first_block, int cluster, int threads, size_t shared_bytes, char *stacks) {
    const int count = cluster * threads;
    threads_of_block = threads;
    fibers.assign(count, Fiber{});
    warps.assign(count / 32, Warp{});
    for (Warp &warp : warps) warp.barrier.expected = 32;
    everybody = Barrier{};
    everybody.expected = count;
    shared.assign(cluster, std::vector<char>(shared_bytes, '\xff'));
    ready.clear();
    favoured = -1;
    finished = 0;
    for (int i = 0; i < count; ++i) {
        fibers[i].thread = i % threads;
        fibers[i].rank = i / threads;
        fibers[i].block = first_block + i / threads;
        make_ready(i);
    }
    while (true) {
        if (favoured < 0 || warps[favoured].ready.empty()) {
            if (ready.empty()) break;
            favoured = draw(ready);
        }
        current = draw(warps[favoured].ready);
        Fiber &fiber = fibers[current];
        if (_setjmp(scheduler)) continue;
        if (fiber.started) _longjmp(fiber.here, 1);
        fiber.started = true;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = stacks + current * STACK;
        fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run_body, 0);
        setcontext(&fiber.start);
    }
    if (finished != count) report("threads wait for a barrier that the others do not reach");
}

template <class T> inline T exchange(T x, int source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
    Fiber &fiber = fibers[current];
    Warp &warp = warp_of_current();
    const int turn = fiber.shuffles++ % 2, lane = fiber.thread % 32;
    std::memcpy(&warp.slot[turn][lane], &x, sizeof x);
    warp.size[turn][lane] = sizeof x;
    wait_at(warp.barrier);
    if (warp.size[turn][source] != sizeof x) report("the lanes of a warp shuffle different things");
    std::memcpy(&x, &warp.slot[turn][source], sizeof x);
    return x;
}

}  // namespace emulator

DEVICE int thread() { return emulator::fibers[emulator::current].thread; }
DEVICE int lane() { return thread() % 32; }
DEVICE int warp_of_block() { return thread() / 32; }
DEVICE int warps_of_block() { return emulator::threads_of_block / 32; }
DEVICE int threads() { return emulator::threads_of_block; }
DEVICE long long block() { return emulator::fibers[emulator::current].block; }
DEVICE long long blocks() { return emulator::blocks_of_grid; }

DEVICE char *shared_memory() { return emulator::shared[emulator::fibers[emulator::current].rank].data(); }

template <class T> DEVICE T *remote(T *mine, int rank) {
    return reinterpret_cast<T *>(emulator::shared[rank].data() + (reinterpret_cast<char *>(mine) - shared_memory()));
}

DEVICE void sync_warp() { emulator::wait_at(emulator::warp_of_current().barrier); }
DEVICE void sync_cluster(int) { emulator::wait_at(emulator::everybody); }

template <class T> DEVICE T from_lane(T x, int lane) { return emulator::exchange(x, lane); }
template <class T> DEVICE T from_partner(T x, int mask) { return emulator::exchange(x, (thread() % 32) ^ mask); }

struct alignas(16) Granule {
    unsigned word[4];
};

DEVICE Address address_of(const void *p) { return reinterpret_cast<Address>(p); }

DEVICE Granule load_granule(const void *p) {
    if (address_of(p) % 16) emulator::report("16 bytes are read at once from no multiple of 16");
    Granule g = {{~0u, ~0u, ~0u, ~0u}};
    if (emulator::may(emulator::readable, p, 16, "read")) std::memcpy(&g, p, 16);
    return g;
}

DEVICE void store_granule(void *p, const Granule &g) {
    if (address_of(p) % 16) emulator::report("16 bytes are written at once to no multiple of 16");
    if (emulator::may(emulator::writable, p, 16, "write")) std::memcpy(p, &g, 16);
}

template <class T> DEVICE T load(const T *p) {
    T x;
    std::memset(&x, 0xff, sizeof x);
    if (emulator::may(emulator::readable, p, sizeof x, "read")) std::memcpy(&x, p, sizeof x);
    return x;
}

template <class T> DEVICE void store(T *p, T x) {
    if (emulator::may(emulator::writable, p, sizeof x, "write")) std::memcpy(p, &x, sizeof x);
}

template <class To, class From> DEVICE To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

DEVICE float float_of_bits(unsigned bits) { return same_bits<float>(bits); }
DEVICE unsigned bits_of_float(float x) { return same_bits<unsigned>(x); }
DEVICE double double_of_bits(unsigned low, unsigned high) { return same_bits<double>(static_cast<uint64_t>(high) << 32 | low); }
DEVICE unsigned low_bits(double x) { return static_cast<unsigned>(same_bits<uint64_t>(x)); }
DEVICE unsigned high_bits(double x) { return static_cast<unsigned>(same_bits<uint64_t>(x) >> 32); }

DEVICE float float_of_half(unsigned bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY)
                             : (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(float(fraction), -24));
    return bits & 0x8000 ? -x : x;
}

DEVICE unsigned half_of_float(float x) {
    const unsigned sign = bits_of_float(x) >> 16 & 0x8000;
    const float size = std::fabs(x);
    if (x != x) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    // The unit of the last place, to a multiple of which the rounding of nearbyint goes, ties to even.
    int exponent;
    std::frexp(size, &exponent);
    const int last = exponent - 11 < -24 ? -24 : exponent - 11;
    const float rounded = std::ldexp(std::nearbyint(std::ldexp(size, -last)), last);
    if (rounded < std::ldexp(1.0f, -14)) return sign | static_cast<unsigned>(std::ldexp(rounded, 24));
    std::frexp(rounded, &exponent);
    return sign | static_cast<unsigned>(exponent + 14) << 10 |
           (static_cast<unsigned>(std::ldexp(rounded, 11 - exponent)) & 1023);
}

DEVICE unsigned bfloat16_of_float(float x) {
    const unsigned bits = bits_of_float(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

DEVICE unsigned bfloat16_pair(float first, float second) {
    return bfloat16_of_float(first) | bfloat16_of_float(second) << 16;
}
DEVICE unsigned float16_pair(float first, float second) { return half_of_float(first) | half_of_float(second) << 16; }

template <class Real> DEVICE Real larger_of(Real a, Real b) { return a > b || a != a ? a : b; }
DEVICE float larger(float a, float b) { return larger_of(a, b); }
DEVICE double larger(double a, double b) { return larger_of(a, b); }

DEVICE unsigned larger_bfloat16_pair(unsigned a, unsigned b) {
    return bfloat16_pair(larger(float_of_bits(a << 16), float_of_bits(b << 16)),
                         larger(float_of_bits(a & 0xffff0000u), float_of_bits(b & 0xffff0000u)));
}
DEVICE unsigned larger_float16_pair(unsigned a, unsigned b) {
    return float16_pair(larger(float_of_half(a & 0xffffu), float_of_half(b & 0xffffu)),
                        larger(float_of_half(a >> 16), float_of_half(b >> 16)));
}

DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE double fused(double a, double b, double c) { return std::fma(a, b, c); }

// As inaccurate as the instruction may be: 2 ulp, up for one half of the arguments and down for the other.
DEVICE float power_of_two(float x) {
    const float y = std::exp2(x);
    if (y < std::ldexp(1.0f, -126)) return 0.0f;
    return x == 0.0f || y != y || y > 3e38f ? y : y * (bits_of_float(x) & 1 ? 1.0f + 0x1p-22f : 1.0f - 0x1p-22f);
}

DEVICE float product(float a, float b) { return a * b; }
DEVICE double product(double a, double b) { return a * b; }

DEVICE float precise_exp(float x) { return std::exp(x); }
DEVICE double precise_exp(double x) { return std::exp(x); }
DEVICE float precise_tanh(float x) { return std::tanh(x); }
DEVICE double precise_tanh(double x) { return std::tanh(x); }
DEVICE float precise_expm1(float x) { return std::expm1(x); }
DEVICE double precise_expm1(double x) { return std::expm1(x); }
DEVICE float precise_log1p(float x) { return std::log1p(x); }
DEVICE double precise_log1p(double x) { return std::log1p(x); }
