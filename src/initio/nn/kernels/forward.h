/* The three stages of one group of images, shared by `team` threads that meet between the stages. */
#pragma once
#include "convolve.h"

typedef void Merge(const real *w, const real *h, long paths, long width, real *out, long pitch);
static Merge *merge_of(const Layer *l) {
    switch (l->width) {
        case 1: return merge_relu1;
        case 2: return merge_relu2;
        case 3: return merge_relu3;
        case 4: return merge_relu4;
        case 8: return merge_relu8;
        default: return merge_relu0;
    }
}

/* w3 and b3 as [block of ROWS channels][path][ROWS][1 + width]; the blocks from `first` in steps of `team`. Without an activation on the
 * paths the third stage is one matrix product: w3 as [out][hidden], then the sum of b3 over the paths. */
static void pack_merge(const Layer *l, const real *w3, const real *b3, real *to, long first, long team) {
    const long hidden = l->paths * l->width;
    for (long c = first; c < l->out && l->merge != 1; c += team) {
        real sum = 0;
        for (long g = 0; g < l->paths; g++) {
            memcpy(to + c * hidden + g * l->width, w3 + (g * l->out + c) * l->width, l->width * sizeof(real));
            sum += b3 ? b3[g * l->out + c] : 0;
        }
        to[l->out * hidden + c] = sum;
    }
    if (l->merge != 1) return;
    for (long b = first; b < (l->out + ROWS - 1) / ROWS; b += team) {
        real *p = to + b * l->paths * ROWS * (1 + l->width);
        for (long g = 0; g < l->paths; g++)
            for (long i = 0; i < ROWS; i++) {
                const long c = b * ROWS + i, row = g * l->out + c;
                *p++ = c < l->out && b3 ? b3[row] : 0;
                for (long k = 0; k < l->width; k++) *p++ = c < l->out ? w3[row * l->width + k] : 0;
            }
    }
}

/* c[i][·] for `rows` rows i of a panel of 1 to 3 vectors; rows past the last are computed and dropped. */
static void panel_product(const real *a, long row_step, long depth_step, long rows, long depth, const real *bias, const real *panel,
                          long pitch, long vectors, int activate, real *image, long channels, long pixels, int last, long first, long count,
                          long row0, real *tile) {
    image += first / pixels * channels * pixels;
    first %= pixels;
    for (long r = 0; r < rows; r += ROWS) {
        const real *pointers[ROWS];
        real start[ROWS];
        const long known = least(ROWS, rows - r);
        for (long i = 0; i < ROWS; i++) {
            const long j = row0 + r + least(i, known - 1);
            pointers[i] = a + j * row_step;
            start[i] = bias ? bias[j] : 0;
        }
        const int direct = !last && known == ROWS && count == vectors * L && first + count <= pixels;
        real *to = direct ? image + (row0 + r) * pixels + first : tile;
        const long to_pitch = direct ? pixels : vectors * L;
        (vectors == 3 ? gemm3 : vectors == 2 ? gemm2 : gemm1)(pointers, depth_step, panel, pitch, depth, start, 0, activate, to, to_pitch);
        if (!direct) unpack(tile, vectors * L, image, row0 + r, known, channels, pixels, last, first, count);
    }
}

static void stage_one(const Layer *l, long images, const real *x, const real *w1, const real *b1, real *h1, real *space, long id,
                      long team) {
    const long pixels = l->h * l->w, hidden = l->paths * l->width, run = images * pixels, panels = (run + 3 * L - 1) / (3 * L);
    const long parts = team > 1 && panels < 8 * team ? least(team, (hidden + ROWS - 1) / ROWS) : 1;
    const long part = up((hidden + parts - 1) / parts, ROWS);
    real *tile = space + 3 * L * l->c;
    for (long task = id; task < panels * parts; task += team) {
        const long first = task / parts * 3 * L, count = least(3 * L, run - first), vectors = (count + L - 1) / L;
        const long row = task % parts * part, rows = least(part, hidden - row);
        if (rows <= 0) continue;
        pack(space, vectors * L, x, l->c * pixels, l->c, pixels, l->x_last, first, count, vectors * L);
        panel_product(w1, l->c, 1, rows, l->c, b1, space, vectors * L, vectors, 1, h1, hidden, pixels, 0, first, count, row, tile);
    }
}

static void stage_two(const Layer *l, const Planes *p, long images, const real *taps, const real *b2, const real *h1, real *h2,
                      real *space, long id, long team) {
    const long before = l->h * l->w, after = l->ho * l->wo, hidden = l->paths * l->width;
    const long size = p->blocks * l->width * p->taps * 4;
    real *result = space + l->width * p->plane;
    for (long g = id; g < l->paths; g += team) {
        for (long m = 0; m < images; m++)
            for (long i = 0; i < l->width; i++)
                pad(h1 + (m * hidden + g * l->width + i) * before, l->h, l->w,
                    space + i * p->plane + m * p->stride + l->ph * p->pitch + l->pw, p->pitch, 1, 1);
        for (long b = 0; b < p->blocks; b++) {
            const long known = least(4, l->width - 4 * b);
            const real *w = taps + g * size + b * l->width * p->taps * 4, *bias = b2 ? b2 + g * l->width + 4 * b : 0;
            if (l->sh == 1)
                correlate(w, bias, known, space, p, p->offset, l->width, 1, result, p->plane,
                          (images - 1) * p->stride + (p->full - 1) * p->pitch + l->wo * l->sw);
            else
                for (long row = 0; row < images * l->ho; row++) {
                    const long at = row / l->ho * p->stride + row % l->ho * l->sh * p->pitch;
                    correlate(w, bias, known, space + at, p, p->offset, l->width, 1, result + at, p->plane, (l->wo - 1) * l->sw + 1);
                }
            for (long m = 0; m < images; m++)
                for (long j = 0; j < known; j++)
                    crop(result + j * p->plane + m * p->stride, p->pitch, l->sh, l->sw,
                         h2 + (m * hidden + g * l->width + 4 * b + j) * after, l->ho, l->wo);
        }
    }
}

static void stage_three(const Layer *l, long images, const real *weights, const real *h2, real *y, real *space, long id, long team) {
    const long pixels = l->ho * l->wo, hidden = l->paths * l->width, run = images * pixels, per_path = l->merge == 1;
    const long wide = (per_path ? 2 : 3) * L, panels = (run + wide - 1) / wide;
    const long blocks = (l->out + ROWS - 1) / ROWS, size = l->paths * ROWS * (1 + l->width);
    const long parts = team > 1 && panels < 8 * team ? least(team, blocks) : 1;
    Merge *merge = merge_of(l);
    real *tile = space + wide * hidden;
    for (long task = id; task < panels * parts; task += team) {
        const long first = task / parts * wide, count = least(wide, run - first), part = task % parts;
        const long from = blocks * part / parts, to = blocks * (part + 1) / parts, vectors = (count + L - 1) / L;
        const long pitch = per_path ? wide : vectors * L, m = first / pixels, p = first % pixels;
        pack(space, pitch, h2, hidden * pixels, hidden, pixels, 0, first, count, pitch);
        if (!per_path)
            panel_product(weights, hidden, 1, least(to * ROWS, l->out) - from * ROWS, hidden, weights + l->out * hidden, space, pitch,
                          vectors, l->merge == 2, y, l->out, pixels, l->y_last, first, count, from * ROWS, tile);
        for (long b = from; b < to && per_path; b++) {
            const long known = least(ROWS, l->out - b * ROWS);
            const int direct = !l->y_last && known == ROWS && count == wide && p + count <= pixels;
            merge(weights + b * size, space, l->paths, l->width, direct ? y + (m * l->out + b * ROWS) * pixels + p : tile,
                  direct ? pixels : wide);
            if (!direct) unpack(tile, wide, y, b * ROWS, known, l->out, pixels, l->y_last, first, count);
        }
    }
}

static size_t forward_space(const Layer *l, const Planes *p) {
    return most(most(3 * L * (l->c + ROWS), 3 * L * (l->paths * l->width + ROWS)), (l->width + 4) * p->plane);
}
