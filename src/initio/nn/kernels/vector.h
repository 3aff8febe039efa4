/* Vectors of `real` in the widest registers of the target, and what the tiles need of them. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

#ifdef STM_DOUBLE
typedef double real;
typedef int64_t bits;
#define REAL_BYTES 8
#else
typedef float real;
typedef int32_t bits;
#define REAL_BYTES 4
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define L (VECTOR_BYTES / REAL_BYTES)

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef bits ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef real loose __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BYTES), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec ld(const real *p) { return *(const loose *)p; }
INLINE void st(real *p, vec x) { *(loose *)p = x; }
/* x - 0 folds into one broadcast; 0 + x would not, for the sake of -0. */
INLINE vec all(real x) { return x - (vec){0}; }

/* max(0, x) that returns NaN for NaN, as torch.relu does: maxps gives its second operand if either is NaN. */
INLINE vec relu(vec x) {
#if defined(__AVX512F__) && REAL_BYTES == 4
    return _mm512_max_ps(_mm512_setzero_ps(), x);
#elif defined(__AVX512F__)
    return _mm512_max_pd(_mm512_setzero_pd(), x);
#elif defined(__AVX__) && REAL_BYTES == 4
    return _mm256_max_ps(_mm256_setzero_ps(), x);
#elif defined(__AVX__)
    return _mm256_max_pd(_mm256_setzero_pd(), x);
#else
    return (vec)((ivec)x & ~(ivec)(x < (vec){0}));
#endif
}

/* d where not z <= 0, else 0: the mask of torch's threshold_backward, which lets NaN through. */
INLINE vec gate(vec d, vec z) {
#if defined(__AVX512F__) && REAL_BYTES == 4
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_NLE_UQ), d);
#elif defined(__AVX512F__)
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(z, _mm512_setzero_pd(), _CMP_NLE_UQ), d);
#else
    return (vec)((ivec)d & ~(ivec)(z <= (vec){0}));
#endif
}

INLINE real total(vec x) {
#if defined(__AVX512F__) && REAL_BYTES == 4
    return _mm512_reduce_add_ps(x);
#elif defined(__AVX512F__)
    return _mm512_reduce_add_pd(x);
#else
    real s = 0;
    for (int i = 0; i < L; i++) s += x[i];
    return s;
#endif
}

/* Square transposition of L rows by log2 L rounds of two-source shuffles. */
#if L == 16
#define LANES(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define LANE_LIST(f, s) f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s), f(8, s), f(9, s), \
    f(10, s), f(11, s), f(12, s), f(13, s), f(14, s), f(15, s)
#elif L == 8
#define LANES(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define LANE_LIST(f, s) f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s)
#elif L == 4
#define LANES(f) f(0) f(1) f(2) f(3)
#define LANE_LIST(f, s) f(0, s), f(1, s), f(2, s), f(3, s)
#else
#define LANES(f) f(0) f(1)
#define LANE_LIST(f, s) f(0, s), f(1, s)
#endif
#define LOW(l, s) (((l) & (s)) ? L + (l) - (s) : (l))
#define HIGH(l, s) (((l) & (s)) ? L + (l) : (l) + (s))
#define SWAP(i, j, s) { vec a = r##i, b = r##j; \
    r##i = __builtin_shufflevector(a, b, LANE_LIST(LOW, s)); r##j = __builtin_shufflevector(a, b, LANE_LIST(HIGH, s)); }

INLINE void transpose_square(const real *from, long from_pitch, real *to, long to_pitch) {
#define TAKE(i) vec r##i = ld(from + i * from_pitch);
#define GIVE(i) st(to + i * to_pitch, r##i);
    LANES(TAKE)
#if L == 16
    SWAP(0, 8, 8) SWAP(1, 9, 8) SWAP(2, 10, 8) SWAP(3, 11, 8) SWAP(4, 12, 8) SWAP(5, 13, 8) SWAP(6, 14, 8) SWAP(7, 15, 8)
    SWAP(8, 12, 4) SWAP(9, 13, 4) SWAP(10, 14, 4) SWAP(11, 15, 4)
    SWAP(8, 10, 2) SWAP(9, 11, 2) SWAP(12, 14, 2) SWAP(13, 15, 2)
    SWAP(8, 9, 1) SWAP(10, 11, 1) SWAP(12, 13, 1) SWAP(14, 15, 1)
#endif
#if L >= 8
    SWAP(0, 4, 4) SWAP(1, 5, 4) SWAP(2, 6, 4) SWAP(3, 7, 4)
    SWAP(4, 6, 2) SWAP(5, 7, 2)
    SWAP(4, 5, 1) SWAP(6, 7, 1)
#endif
#if L >= 4
    SWAP(0, 2, 2) SWAP(1, 3, 2)
    SWAP(2, 3, 1)
#endif
    SWAP(0, 1, 1)
    LANES(GIVE)
#undef TAKE
#undef GIVE
}

/* to[j][i] = from[i][j] for i < rows, j < columns. */
static void transpose(const real *from, long from_pitch, real *to, long to_pitch, long rows, long columns) {
    long i = 0;
    for (; i + L <= rows; i += L) {
        long j = 0;
        for (; j + L <= columns; j += L) transpose_square(from + i * from_pitch + j, from_pitch, to + j * to_pitch + i, to_pitch);
        for (; j < columns; j++)
            for (long k = i; k < i + L; k++) to[j * to_pitch + k] = from[k * from_pitch + j];
    }
    for (; i < rows; i++)
        for (long j = 0; j < columns; j++) to[j * to_pitch + i] = from[i * from_pitch + j];
}
