/* The layer's sizes, scratch memory, and the packing of panels. */
#pragma once
#include "vector.h"

typedef struct {
    long n, c, h, w;              /* x: [n, c, h, w] */
    long paths, width, out;       /* w1: [paths width, c], w2: [paths width, width, kh, kw], w3: [paths, out, width] */
    long kh, kw, sh, sw, ph, pw, dh, dw;
    long x_last, y_last;          /* channels last? */
    long merge;                   /* 0 no activation after the third stage, 1 relu on each path, 2 relu on the sum */
    long save, threads;
    long ho, wo;                  /* [ho, wo] are y's */
} Layer;

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }
INLINE long up(long a, long b) { return (a + b - 1) / b * b; }

/* Images of a group, which goes through the three stages together: about as many pixels as keep a group in the second-level cache. */
#define GROUP 784
INLINE long together(const Layer *l) { return most(1, least(l->n / l->threads, GROUP / (l->h * l->w))); }

/* One block of memory for each thread, kept between calls up to 8 MB: giving it back costs page faults on every call. */
static __thread char *arena;
static __thread size_t arena_size;
static real *scratch(size_t count) {
    size_t size = up(count * sizeof(real) + 64, 4096);
    if (size > arena_size) {
        free(arena);
        arena = aligned_alloc(4096, size);
        arena_size = arena ? size : 0;
    }
    return (real *)arena;
}
static void release(void) {
    if (arena_size > (8u << 20)) {
        free(arena);
        arena = 0;
        arena_size = 0;
    }
}

INLINE void copy(real *to, const real *from, long count) {
    for (; count >= L; count -= L, to += L, from += L) st(to, ld(from));
#if defined(__AVX512F__) && REAL_BYTES == 4
    if (count) _mm512_mask_storeu_ps(to, (1u << count) - 1, _mm512_maskz_loadu_ps((1u << count) - 1, from));
#elif defined(__AVX512F__)
    if (count) _mm512_mask_storeu_pd(to, (1u << count) - 1, _mm512_maskz_loadu_pd((1u << count) - 1, from));
#else
    for (long i = 0; i < count; i++) to[i] = from[i];
#endif
}

/* Pixels are counted through a run of images: pixel q is pixel q % pixels of image q / pixels, so that small images leave no tails.
 * Every part of the pixels first … first + count that lies in one image: `m` the image, `p` its pixel, `q` the pixel of the part. */
#define EACH_PART(first, count, pixels) \
    for (long q = 0, m = (first) / (pixels), p = (first) % (pixels), some = least(count, (pixels) - p); q < (count); \
         q += some, m++, p = 0, some = least((count) - q, pixels))

/* to[channel][0 … padded) = pixels first … first + count of a run of images, `stride` apart, then zeros. */
static void pack(real *to, long pitch, const real *image, long stride, long channels, long pixels, int last, long first, long count,
                 long padded) {
    if (last)
        transpose(image + first * channels, channels, to, pitch, count, channels);
    else
        EACH_PART(first, count, pixels)
            for (long i = 0; i < channels; i++) copy(to + i * pitch + q, image + m * stride + i * pixels + p, some);
    for (long i = 0; i < channels && count < padded; i++)
        for (long j = count; j < padded; j++) to[i * pitch + j] = 0;
}

/* The reverse, for the rows of one block of channels of images of `channels`. */
static void unpack(const real *from, long pitch, real *image, long row, long rows, long channels, long pixels, int last, long first,
                   long count) {
    if (last)
        transpose(from, pitch, image + first * channels + row, channels, rows, count);
    else
        EACH_PART(first, count, pixels)
            for (long i = 0; i < rows; i++) copy(image + (m * channels + row + i) * pixels + p, from + i * pitch + q, some);
}
