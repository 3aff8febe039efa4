/* The gradients of all operands from x, h1, h2 and the cotangent of y; the third stage's products are recomputed.
 *
 * Every accumulator has one writer: a thread owns paths in stages three (per path) and two, and a slice of its own else. */
#pragma once
#include "forward.h"

typedef void MergeBackward(const real *w, const real *b, const real *dy, const real *h, real *dh, long pitch, long vectors, long width,
                           long channels, real *dw, real *db);
static MergeBackward *merge_backward_of(long width) {
    switch (width) {
        case 1: return merge_backward1;
        case 2: return merge_backward2;
        case 3: return merge_backward3;
        case 4: return merge_backward4;
        case 8: return merge_backward8;
        default: return merge_backward0;
    }
}

static void gate_all(real *d, const real *z, long count) {
    for (; count >= L; count -= L, d += L, z += L) st(d, gate(ld(d), ld(z)));
    for (long i = 0; i < count; i++) d[i] = z[i] <= 0 ? 0 : d[i];
}

static real sum_all(const real *x, long count) {
    vec s = {0};
    real rest = 0;
    for (; count >= L; count -= L, x += L) s += ld(x);
    for (long i = 0; i < count; i++) rest += x[i];
    return rest + total(s);
}

#define CHUNK (32 * L)  /* pixels of a chunk of stage three: its dy stays in the second-level cache for all paths */
#define DEPTH (12 * L)  /* pixels of a chunk of a weight gradient */

/* The pixels from …(id) to …(id + 1) are a thread's, in whole vectors. */
INLINE long share(long total, long id, long team) { return id == team ? total : total * id / team / L * L; }

/* dz2 of the paths [first, last) of every image, with dw3 and db3. A chunk ends in horizontal sums, so it runs through small images. */
static void merge_paths_backward(const Layer *l, const real *w3, const real *b3, const real *h2, const real *dy, real *dz2, real *dw3,
                                 real *db3, real *space, long first, long last) {
    const long pixels = l->ho * l->wo, hidden = l->paths * l->width, run = l->n * pixels, chunks = (run + CHUNK - 1) / CHUNK;
    const long chunk = up((run + chunks - 1) / chunks, L);
    real *cotangent = space, *h = space + l->out * chunk, *dh = h + l->width * chunk;
    MergeBackward *backward = merge_backward_of(l->width);
    for (long at = 0; at < run; at += chunk) {
        const long count = least(chunk, run - at);
        pack(cotangent, chunk, dy, l->out * pixels, l->out, pixels, l->y_last, at, count, chunk);
        for (long g = first; g < last; g++) {
            pack(h, chunk, h2 + g * l->width * pixels, hidden * pixels, l->width, pixels, 0, at, count, chunk);
            memset(dh, 0, l->width * chunk * sizeof(real));
            backward(w3 + g * l->out * l->width, b3 ? b3 + g * l->out : 0, cotangent, h, dh, chunk, up(count, L) / L, l->width, l->out,
                     dw3 + g * l->out * l->width, db3 + g * l->out);
            gate_all(dh, h, l->width * chunk);
            unpack(dh, chunk, dz2, g * l->width, l->width, hidden, pixels, 0, at, count);
        }
    }
}

/* Rows of c += a T for T = [depth][pitch], a_i = a + i row_step. */
static void add_product(const real *a, long row_step, long depth_step, long rows, long depth, const real *t, long pitch, real *c, real *tile) {
    for (long r = 0; r < rows; r += ROWS) {
        const real *pointers[ROWS];
        const long known = least(ROWS, rows - r);
        for (long i = 0; i < ROWS; i++) pointers[i] = a + (r + least(i, known - 1)) * row_step;
        for (long v = 0; v < pitch / L; v += 3) {
            const long vectors = least(3, pitch / L - v);
            real *to = c + r * pitch + v * L;
            if (known < ROWS) memset(tile, 0, ROWS * 3 * L * sizeof(real));
            (vectors == 3 ? gemm3 : vectors == 2 ? gemm2 : gemm1)(pointers, depth_step, t + v * L, pitch, depth, 0, known == ROWS, 0,
                                                                  known == ROWS ? to : tile, known == ROWS ? pitch : vectors * L);
            for (long i = 0; known < ROWS && i < known; i++)
                for (long j = 0; j < vectors * L; j += L) st(to + i * pitch + j, ld(to + i * pitch + j) + ld(tile + i * vectors * L + j));
        }
    }
}

/* dz2, dw3 as [out][hidden] and db3 as [out] for the third stage without an activation on the paths; w3t is [hidden][out]. */
static void merge_sum_backward(const Layer *l, const real *w3t, const real *h2, const real *y, const real *dy, real *dz2, real *dw3,
                               real *db3, real *space, long id, long team) {
    const long pixels = l->ho * l->wo, hidden = l->paths * l->width, lanes = up(hidden, L), run = l->n * pixels, size = l->out * pixels;
    const long end = share(run, id + 1, team);
    real *d = space, *t = d + l->out * DEPTH, *tile = t + most(DEPTH * lanes, l->out * DEPTH);
    for (long at = share(run, id, team); at < end; at += DEPTH) {
        const long count = least(DEPTH, end - at);
        pack(d, DEPTH, dy, size, l->out, pixels, l->y_last, at, count, DEPTH);
        if (l->merge == 2) {
            pack(t, DEPTH, y, size, l->out, pixels, l->y_last, at, count, DEPTH);
            gate_all(d, t, l->out * DEPTH);
        }
        for (long c = 0; c < l->out; c++) db3[c] += sum_all(d + c * DEPTH, DEPTH);
        for (long o = 0; o < count; o += 3 * L) {
            const long wide = least(3 * L, count - o);
            panel_product(w3t, l->out, 1, hidden, l->out, 0, d + o, DEPTH, (wide + L - 1) / L, 0, dz2, hidden, pixels, 0, at + o, wide, 0,
                          tile);
        }
        if (lanes > hidden) memset(t, 0, DEPTH * lanes * sizeof(real));
        EACH_PART(at, count, pixels) {
            const long from = m * hidden * pixels + p;
            for (long i = 0; i < hidden; i++) gate_all(dz2 + from + i * pixels, h2 + from + i * pixels, some);
            transpose(h2 + from, pixels, t + q * lanes, lanes, hidden, some);
        }
        add_product(d, DEPTH, 1, l->out, count, t, lanes, dw3, tile);
    }
}

/* dz1 from dz2 (the same memory, if their sizes agree) with dw2 and db2, for the paths [first, last). */
static void stage_two_backward(const Layer *l, const Planes *p, const real *w2, const real *h1, const real *dz2, real *dz1, real *dw2,
                               real *db2, real *space, long first, long last) {
    const long before = l->h * l->w, after = l->ho * l->wo, hidden = l->paths * l->width;
    const long corner = (l->dh * (l->kh - 1) - l->ph) * p->pitch + l->dw * (l->kw - 1) - l->pw;
    real *d = space, *x = d + l->width * p->plane, *result = x + l->width * p->plane, *taps = result + 4 * p->plane;
    memset(space, 0, 2 * l->width * p->plane * sizeof(real));
    for (long g = first; g < last; g++) {
        pack_taps(l, p, w2, g, 1, taps);
        for (long n = 0; n < l->n; n += p->images) {
            const long images = least(p->images, l->n - n), below = (images - 1) * p->stride;
            /* Nothing of an earlier group may stand below the last image: the weights' gradient reads on to a whole vector. */
            if (images < p->images) memset(space, 0, 2 * l->width * p->plane * sizeof(real));
            for (long m = 0; m < images; m++)
                for (long j = 0; j < l->width; j++) {
                    const long row = (n + m) * hidden + g * l->width + j, at = j * p->plane + m * p->stride;
                    db2[g * l->width + j] += sum_all(dz2 + row * after, after);
                    pad(dz2 + row * after, l->ho, l->wo, d + at + corner, p->pitch, l->sh, l->sw);
                    pad(h1 + row * before, l->h, l->w, x + at + l->ph * p->pitch + l->pw, p->pitch, 1, 1);
                }
            for (long b = 0; b < p->blocks; b++) {
                const long known = least(4, l->width - 4 * b);
                for (long i = 0; i < l->width; i++)
                    correlate_weights(d + 4 * b * p->plane + corner, x + i * p->plane, p, known, l->width, below + p->full * p->pitch,
                                      dw2 + ((g * l->width + 4 * b) * l->width + i) * p->taps);
                correlate(taps + b * l->width * p->taps * 4, 0, known, d, p, p->reversed, l->width, 0, result, p->plane,
                          below + (l->h - 1) * p->pitch + l->w);
                for (long m = 0; m < images; m++)
                    for (long j = 0; j < known; j++) {
                        const long row = (n + m) * hidden + g * l->width + 4 * b + j;
                        crop(result + j * p->plane + m * p->stride, p->pitch, 1, 1, dz1 + row * before, l->h, l->w);
                        gate_all(dz1 + row * before, h1 + row * before, before);
                    }
            }
        }
    }
}

/* dx (if wanted), dw1 as [c][hidden] and db1. */
static void stage_one_backward(const Layer *l, const real *x, const real *w1, const real *dz1, real *dx, real *dw1, real *db1, real *space,
                               long id, long team) {
    const long pixels = l->h * l->w, hidden = l->paths * l->width, lanes = up(hidden, L), run = l->n * pixels;
    const long end = share(run, id + 1, team);
    real *t = space, *panel = t + DEPTH * lanes, *tile = panel + 3 * L * hidden;
    if (lanes > hidden) memset(t, 0, DEPTH * lanes * sizeof(real));
    for (long at = share(run, id, team); at < end; at += DEPTH) {
        const long count = least(DEPTH, end - at);
        for (long o = 0; o < count && dx; o += 3 * L) {
            const long wide = least(3 * L, count - o), vectors = (wide + L - 1) / L;
            pack(panel, vectors * L, dz1, hidden * pixels, hidden, pixels, 0, at + o, wide, vectors * L);
            panel_product(w1, 1, l->c, l->c, hidden, 0, panel, vectors * L, vectors, 0, dx, l->c, pixels, l->x_last, at + o, wide, 0, tile);
        }
        EACH_PART(at, count, pixels) {
            const real *d = dz1 + m * hidden * pixels + p, *image = x + m * l->c * pixels + (l->x_last ? p * l->c : p);
            for (long i = 0; i < hidden; i++) db1[i] += sum_all(d + i * pixels, some);
            transpose(d, pixels, t + q * lanes, lanes, hidden, some);
            if (!l->x_last) add_product(image, pixels, 1, l->c, some, t + q * lanes, lanes, dw1, tile);
        }
        if (l->x_last) add_product(x + at * l->c, 1, l->c, l->c, count, t, lanes, dw1, tile);
    }
}

static size_t backward_space(const Layer *l, const Planes *p) {
    const long lanes = up(l->paths * l->width, L), chunk = most(CHUNK, L);
    size_t three = l->merge == 1 ? (l->out + 2 * l->width) * chunk + L : (2 * l->out + lanes) * DEPTH + 3 * L * ROWS;
    size_t two = (2 * l->width + 4) * p->plane + p->blocks * l->width * p->taps * 4;
    size_t one = DEPTH * lanes + 3 * L * (l->paths * l->width + ROWS);
    return most(most(one, two), three);
}
