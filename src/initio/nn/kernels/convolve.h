/* Stage two, one path at a time: a width x width correlation on zero-padded planes with a common pitch.
 *
 * Positions run over the flattened plane, the columns between two rows included, so that every tap is one fixed offset. The zeros at
 * the end of a row are those at the start of the next; small images stand below each other in one plane and share borders alike. */
#pragma once
#include "layer.h"

typedef struct {
    long pitch, rows, full, plane, taps, blocks;  /* full: rows at stride one; plane: reals of one padded plane and its slack */
    long images, stride;                          /* images in a plane at most, and the reals from one to the next */
    long *offset, *reversed;
} Planes;

static Planes planes(const Layer *l, long *offset) {
    Planes p;
    p.taps = l->kh * l->kw;
    p.pitch = l->w + l->pw;
    p.stride = (l->h + l->ph) * p.pitch;
    p.images = together(l);
    p.full = l->h + 2 * l->ph - l->dh * (l->kh - 1);
    p.rows = most(l->h + 2 * l->ph, l->h + l->dh * (l->kh - 1));
    p.plane = up((p.images - 1) * p.stride + (p.rows + 1) * p.pitch + 2 * l->dw * l->kw + 8 * L, L);
    p.blocks = (l->width + 3) / 4;
    p.offset = offset;
    p.reversed = offset + p.taps;
    for (long y = 0; y < l->kh; y++)
        for (long x = 0; x < l->kw; x++) p.offset[y * l->kw + x] = y * l->dh * p.pitch + x * l->dw;
    for (long t = 0; t < p.taps; t++) p.reversed[t] = p.offset[p.taps - 1 - t];
    return p;
}

/* Weights of one path as [block of 4 outputs][input][tap][4]; transposed for the backward of the data. */
static void pack_taps(const Layer *l, const Planes *p, const real *w2, long path, int transposed, real *to) {
    const real *w = w2 + path * l->width * l->width * p->taps;
    for (long b = 0; b < p->blocks; b++)
        for (long i = 0; i < l->width; i++)
            for (long t = 0; t < p->taps; t++)
                for (long j = 4 * b; j < 4 * b + 4; j++)
                    *to++ = j >= l->width ? 0 : transposed ? w[(i * l->width + j) * p->taps + t] : w[(j * l->width + i) * p->taps + t];
}

/* to[j][q] = bias[j] + Σ_i Σ_t w[i,t,j] from[i][q + offset[t]] for four j and q < count, rounded up to whole tiles. */
static void correlate(const real *w, const real *bias, int known, const real *from, const Planes *p, const long *offset, long width,
                      int activate, real *to, long to_pitch, long count) {
    const real s0 = bias && known > 0 ? bias[0] : 0, s1 = bias && known > 1 ? bias[1] : 0;
    const real s2 = bias && known > 2 ? bias[2] : 0, s3 = bias && known > 3 ? bias[3] : 0;
    const int two = known > 2;
    for (long q = 0; q < count; q += 3 * L) {
#define EACH4(f) f(0) f(1) f(2) f(3)
#define START(j) vec a##j = all(s##j), b##j = a##j, c##j = a##j;
        EACH4(START)
        const real *k = w;
        for (long i = 0; i < width; i++)
            for (long t = 0; t < p->taps; t++, k += 4) {
                const real *x = from + i * p->plane + q + offset[t];
                const vec x0 = ld(x), x1 = ld(x + L), x2 = ld(x + 2 * L);
#define MULTIPLY(j) { const vec m = all(k[j]); a##j += m * x0; b##j += m * x1; c##j += m * x2; }
                MULTIPLY(0) MULTIPLY(1)
                if (two) { MULTIPLY(2) MULTIPLY(3) }
            }
        if (activate) {
#define ACTIVATE(j) a##j = relu(a##j); b##j = relu(b##j); c##j = relu(c##j);
            EACH4(ACTIVATE)
        }
#define STORE(j) st(to + j * to_pitch + q, a##j); st(to + j * to_pitch + q + L, b##j); st(to + j * to_pitch + q + 2 * L, c##j);
        STORE(0) STORE(1)
        if (two) { STORE(2) STORE(3) }
    }
#undef START
#undef MULTIPLY
#undef ACTIVATE
#undef STORE
}

/* to[t] = Σ_q a[q] x[q + offset[t]] for four planes a of one input plane x: the weight gradient. */
static void correlate_weights(const real *a, const real *x, const Planes *p, int known, long inputs, long count, real *to) {
    const real *a0 = a, *a1 = a + (known > 1) * p->plane, *a2 = a + 2 * (known > 2) * p->plane, *a3 = a + 3 * (known > 3) * p->plane;
    for (long t = 0; t < p->taps; t += 3) {
        const long n = least(3, p->taps - t);
        const real *x0 = x + p->offset[t], *x1 = x + p->offset[t + (n > 1)], *x2 = x + p->offset[t + (n > 2 ? 2 : 0)];
#define START(j) vec s##j##0 = {0}, s##j##1 = {0}, s##j##2 = {0};
        EACH4(START)
        for (long q = 0; q < count; q += L) {
            const vec v0 = ld(x0 + q), v1 = ld(x1 + q), v2 = ld(x2 + q);
#define MULTIPLY(j) { const vec d = ld(a##j + q); s##j##0 += d * v0; s##j##1 += d * v1; s##j##2 += d * v2; }
            EACH4(MULTIPLY)
        }
#define RESULT(j) if (j < known) { \
            const real sums[3] = {total(s##j##0), total(s##j##1), total(s##j##2)}; \
            for (long u = 0; u < n; u++) to[j * inputs * p->taps + t + u] += sums[u]; }
        EACH4(RESULT)
    }
#undef START
#undef MULTIPLY
#undef RESULT
}

/* Image planes into the interior of padded planes, whose zeros stay. */
static void pad(const real *from, long rows, long columns, real *to, long pitch, long row_step, long column_step) {
    for (long y = 0; y < rows; y++) {
        real *row = to + y * row_step * pitch;
        if (column_step == 1)
            copy(row, from + y * columns, columns);
        else
            for (long x = 0; x < columns; x++) row[x * column_step] = from[y * columns + x];
    }
}

static void crop(const real *from, long pitch, long row_step, long column_step, real *to, long rows, long columns) {
    for (long y = 0; y < rows; y++) {
        const real *row = from + y * row_step * pitch;
        if (column_step == 1)
            copy(to + y * columns, row, columns);
        else
            for (long x = 0; x < columns; x++) to[y * columns + x] = row[x * column_step];
    }
}
