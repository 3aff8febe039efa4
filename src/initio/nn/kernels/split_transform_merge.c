/* Split-transform-merge, forward: h1 = relu(w1 x + b1), h2[g] = relu(w2[g] * h1[g] + b2[g]) (a grouped convolution), and
 * out = Σ_g w3[g] h2[g] + b3[g], with relu on every term (per path), on the sum, or nowhere.
 *
 * Lanes are pixels. A panel of pixels is packed once, zero-filled, and used by all output channels, so every memory layout and
 * every tail takes the same tiles. The paths x out_channels intermediate lives in registers only. */
#include "vector.h"
#ifdef _OPENMP
#include <omp.h>
#endif

#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define ROWS 8
#define EACH_ROW(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#else
#define ROWS 4
#define EACH_ROW(f) f(0) f(1) f(2) f(3)
#endif

#define VECTORS 1
#include "gemm.h"
#define VECTORS 2
#include "gemm.h"
#define VECTORS 3
#include "gemm.h"
#define WIDTH 1
#include "paths.h"
#define WIDTH 2
#include "paths.h"
#define WIDTH 3
#include "paths.h"
#define WIDTH 4
#include "paths.h"
#define WIDTH 8
#include "paths.h"
#define WIDTH 0
#include "paths.h"
#include "backward.h"

#ifdef _OPENMP
#define BARRIER if (team > 1) { _Pragma("omp barrier") }
#else
#define BARRIER
#endif

static void group(const Layer *l, const Planes *p, long images, const real *x, const real *w1, const real *b1, const real *taps, const real *b2,
                  const real *merge_weights, real *h1, real *h2, real *y, real *space, long id, long team) {
    stage_one(l, images, x, w1, b1, h1, space, id, team);
    BARRIER
    memset(space, 0, l->width * p->plane * sizeof(real));
    stage_two(l, p, images, taps, b2, h1, h2, space, id, team);
    BARRIER
    stage_three(l, images, merge_weights, h2, y, space, id, team);
    BARRIER
}

/* h1 and h2 hold every image if `save`, else stm_together images for each thread. */
int stm_forward(const Layer *l, const real *x, const real *w1, const real *b1, const real *w2, const real *b2, const real *w3,
                const real *b3, real *h1, real *h2, real *y) {
    long *offset = malloc(2 * l->kh * l->kw * sizeof(long));
    const Planes p = planes(l, offset);
    const long hidden = l->paths * l->width, before = hidden * l->h * l->w, after = hidden * l->ho * l->wo;
    const long size = p.blocks * l->width * p.taps * 4, blocks = (l->out + ROWS - 1) / ROWS;
    real *taps = malloc(l->paths * size * sizeof(real));
    real *merge_weights = malloc(blocks * l->paths * ROWS * (1 + l->width) * sizeof(real));
    /* Equal groups, each a thread's own; fewer images than threads are left, which all threads share. */
    const long threads = l->threads, alone = l->n / threads * threads, groups = threads * ((l->n / threads + p.images - 1) / p.images);
    int failed = !offset || !taps || !merge_weights;
    if (!failed) {
#pragma omp parallel num_threads(threads)
        {
            long id = 0, team = 1;
#ifdef _OPENMP
            id = omp_get_thread_num();
            team = omp_get_num_threads();
#endif
            real *space = scratch(forward_space(l, &p));
            if (!space) {
#pragma omp atomic write
                failed = 1;
            }
            for (long g = id; g < l->paths; g += team) pack_taps(l, &p, w2, g, 0, taps + g * size);
            pack_merge(l, w3, b3, merge_weights, id, team);
            BARRIER
            if (!failed) {
#pragma omp for schedule(dynamic)
                for (long k = 0; k < groups; k++) {
                    const long n = alone * k / groups, images = alone * (k + 1) / groups - n, slot = l->save ? n : id * p.images;
                    group(l, &p, images, x + n * l->c * l->h * l->w, w1, b1, taps, b2, merge_weights, h1 + slot * before,
                          h2 + slot * after, y + n * l->out * l->ho * l->wo, space, 0, 1);
                }
                for (long n = alone; n < l->n; n++) {
                    const long slot = l->save ? n : 0;
                    group(l, &p, 1, x + n * l->c * l->h * l->w, w1, b1, taps, b2, merge_weights, h1 + slot * before, h2 + slot * after,
                          y + n * l->out * l->ho * l->wo, space, id, team);
                }
            }
            release();
        }
    }
    free(offset);
    free(taps);
    free(merge_weights);
    return failed;
}

/* w3 is [hidden][out] unless the activation is on the paths. dw1, db1 (and dw3, db3 without an activation on the paths) hold one slice
 * for each thread. All accumulators come zeroed. dz2 and dz1 may be the same memory if the second stage keeps the size. */
int stm_backward(const Layer *l, const real *x, const real *w1, const real *w2, const real *w3, const real *b3, const real *h1,
                 const real *h2, const real *y, const real *dy, real *dz2, real *dz1, real *dx, real *dw1, real *db1, real *dw2, real *db2,
                 real *dw3, real *db3) {
    long *offset = malloc(2 * l->kh * l->kw * sizeof(long));
    if (!offset) return 1;
    const Planes p = planes(l, offset);
    const long hidden = l->paths * l->width, lanes = up(hidden, L), threads = l->threads;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        long id = 0, team = 1;
#ifdef _OPENMP
        id = omp_get_thread_num();
        team = omp_get_num_threads();
#endif
        const long first = l->paths * id / team, last = l->paths * (id + 1) / team;
        real *space = scratch(backward_space(l, &p));
        if (!space) {
#pragma omp atomic write
            failed = 1;
        }
        BARRIER
        if (!failed) {
            if (l->merge == 1)
                merge_paths_backward(l, w3, b3, h2, dy, dz2, dw3, db3, space, first, last);
            else
                merge_sum_backward(l, w3, h2, y, dy, dz2, dw3 + id * l->out * lanes, db3 + id * l->out, space, id, team);
            BARRIER
            stage_two_backward(l, &p, w2, h1, dz2, dz1, dw2, db2, space, first, last);
            BARRIER
            stage_one_backward(l, x, w1, dz1, dx, dw1 + id * l->c * lanes, db1 + id * hidden, space, id, team);
        }
        release();
    }
    free(offset);
    return failed;
}

long stm_lanes(void) { return L; }

long stm_together(const Layer *l) { return together(l); }

/* Multiply-adds on registers alone, for the roofline: `rounds` x 12 vectors on each thread. Returns the flop count. */
double stm_multiply_adds(long rounds, long threads) {
    volatile real sink = 0;
#pragma omp parallel num_threads(threads)
    {
#define BEGIN(i) vec p##i = all(i), q##i = all(i + (real).5);
        EACH_ROW(BEGIN)
        const vec m = all((real).999), b = all((real).5);
        for (long r = 0; r < rounds; r++) {
#define STEP(i) p##i = p##i * m + b; q##i = q##i * m + b;
            EACH_ROW(STEP)
            __asm__ volatile("" ::: "memory");
        }
#define END(i) p0 += p##i + q##i;
        EACH_ROW(END)
        sink = p0[0];
    }
    (void)sink;
    return (double)rounds * threads * 2 * ROWS * L * 2;
}
