// What the chip does: threads, barriers, shuffles, and the instructions that C++ has no name for. A build for a CPU
// puts another room in the place of this one (`CROSSENT_MACHINE`); nothing outside it is particular to CUDA.
#pragma once

#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define PARAMETER const __grid_constant__

typedef unsigned long long Address;

DEVICE int thread() { return static_cast<int>(threadIdx.x); }
DEVICE int lane() { return static_cast<int>(threadIdx.x & 31u); }
DEVICE int warp_of_block() { return static_cast<int>(threadIdx.x >> 5); }
DEVICE int warps_of_block() { return static_cast<int>(blockDim.x >> 5); }
DEVICE int threads() { return static_cast<int>(blockDim.x); }
DEVICE long long block() { return blockIdx.x; }
DEVICE long long blocks() { return gridDim.x; }

// --- clusters: blocks that see each other's shared memory ---------------------------------------------------------------

// The place in the shared memory of the block of that rank that `mine` is in this block's.
template <class T> DEVICE T *remote(T *mine, int rank) {
#if __CUDA_ARCH__ >= 900
    T *theirs;
    asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
    return theirs;
#else
    return mine;
#endif
}

// --- barriers -----------------------------------------------------------------------------------------------------------

DEVICE void sync_warp() { __syncwarp(); }

// All threads of a cluster of so many blocks; of the block, where it is alone.
DEVICE void sync_cluster(int blocks) {
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) {
        asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
        return;
    }
#endif
    __syncthreads();
}

DEVICE char *shared_memory() {
    extern __shared__ __align__(16) char memory[];
    return memory;
}

// --- shuffles, for whole warps ------------------------------------------------------------------------------------------

template <class T> DEVICE T from_lane(T x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
template <class T> DEVICE T from_partner(T x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// --- memory -------------------------------------------------------------------------------------------------------------

struct __align__(16) Granule {
    unsigned word[4];
};

DEVICE Address address_of(const void *p) { return reinterpret_cast<Address>(p); }

// Logits are read once, and the gradient is not read: neither is to drive out of the cache what is needed again.
DEVICE Granule load_granule(const void *p) {
    Granule g;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(g.word[0]), "=r"(g.word[1]), "=r"(g.word[2]), "=r"(g.word[3])
                 : "l"(p)
                 : "memory");
    return g;
}

DEVICE void store_granule(void *p, const Granule &g) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(p), "r"(g.word[0]), "r"(g.word[1]), "r"(g.word[2]), "r"(g.word[3])
                 : "memory");
}

template <class T> DEVICE T load(const T *p) { return *p; }
template <class T> DEVICE void store(T *p, T x) { *p = x; }

// --- numbers ------------------------------------------------------------------------------------------------------------

DEVICE float float_of_bits(unsigned bits) { return __uint_as_float(bits); }
DEVICE unsigned bits_of_float(float x) { return __float_as_uint(x); }
DEVICE double double_of_bits(unsigned low, unsigned high) {
    return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
}
DEVICE unsigned low_bits(double x) { return static_cast<unsigned>(__double2loint(x)); }
DEVICE unsigned high_bits(double x) { return static_cast<unsigned>(__double2hiint(x)); }

DEVICE float float_of_half(unsigned bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<unsigned short>(bits)));
    return x;
}

// Two numbers rounded to nearest even, side by side: the first in the low half.
DEVICE unsigned bfloat16_pair(float first, float second) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

DEVICE unsigned float16_pair(float first, float second) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

// The larger number, and NaN where one of them is NaN.
DEVICE float larger(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

DEVICE double larger(double a, double b) { return a > b || a != a ? a : b; }

DEVICE unsigned larger_bfloat16_pair(unsigned a, unsigned b) {
    unsigned c;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE unsigned larger_float16_pair(unsigned a, unsigned b) {
    unsigned c;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// A product that is rounded by itself, whatever is done with it: two takings of it are equal.
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
DEVICE double product(double a, double b) { return __dmul_rn(a, b); }

// 2 to the power of x, to 2 ulp; what is below the normal numbers is 0.
DEVICE float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float precise_exp(float x) { return expf(x); }
DEVICE double precise_exp(double x) { return exp(x); }
DEVICE float precise_tanh(float x) { return tanhf(x); }
DEVICE double precise_tanh(double x) { return tanh(x); }
DEVICE float precise_expm1(float x) { return expm1f(x); }
DEVICE double precise_expm1(double x) { return expm1(x); }
DEVICE float precise_log1p(float x) { return log1pf(x); }
DEVICE double precise_log1p(double x) { return log1p(x); }
