/* The merge of the paths for one WIDTH; included once per width. WIDTH 0 takes any width, from memory.
 *
 * Weights are packed per block of ROWS output channels and per path as ROWS x (1 + width): the bias, then the weights. */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAMED(name) JOIN(name, WIDTH)
#if WIDTH == 1
#define EACH(f, i) f(i, 0)
#elif WIDTH == 2
#define EACH(f, i) f(i, 0) f(i, 1)
#elif WIDTH == 3
#define EACH(f, i) f(i, 0) f(i, 1) f(i, 2)
#elif WIDTH == 4
#define EACH(f, i) f(i, 0) f(i, 1) f(i, 2) f(i, 3)
#elif WIDTH == 8
#define EACH(f, i) f(i, 0) f(i, 1) f(i, 2) f(i, 3) f(i, 4) f(i, 5) f(i, 6) f(i, 7)
#endif
#if WIDTH
#define SIZE WIDTH
#else
#define SIZE width
#endif

/* out[i][·] = Σ_g relu(b[g,i] + Σ_k w[g,i,k] h[g,k][·]) for ROWS channels and a panel of two vectors. */
static void NAMED(merge_relu)(const real *w, const real *h, long paths, long width, real *out, long pitch) {
#define DECLARE(i) vec s##i##0 = {0}, s##i##1 = {0};
    EACH_ROW(DECLARE)
    (void)width;
    for (long g = 0; g < paths; g++, w += ROWS * (1 + SIZE), h += 2 * L * SIZE) {
#if WIDTH
#define TERM(i, k) { const vec c = all(w[(i) * (1 + SIZE) + 1 + k]); z0 += c * ld(h + 2 * L * k); z1 += c * ld(h + 2 * L * k + L); }
#define TERMS(i) EACH(TERM, i)
#else
#define TERMS(i) for (long k = 0; k < width; k++) { \
        const vec c = all(w[(i) * (1 + SIZE) + 1 + k]); z0 += c * ld(h + 2 * L * k); z1 += c * ld(h + 2 * L * k + L); }
#endif
#define ROW(i) { vec z0 = all(w[(i) * (1 + SIZE)]), z1 = z0; TERMS(i) s##i##0 += relu(z0); s##i##1 += relu(z1); }
        EACH_ROW(ROW)
    }
#define STORE(i) st(out + i * pitch, s##i##0); st(out + i * pitch + L, s##i##1);
    EACH_ROW(STORE)
#undef DECLARE
#undef TERM
#undef TERMS
#undef ROW
#undef STORE
}

/* Backward of relu(b + Σ_k w[k] h[k]) for one path, two channels and `vectors` vectors of pixels: z is recomputed;
 * dh[k] += Σ_c w[c,k] d[c], dw[c,k] += Σ_p d[c] h[k], db[c] += Σ_p d[c] with d[c] = dy[c] where z > 0. */
static void NAMED(merge_backward)(const real *w, const real *b, const real *dy, const real *h, real *dh, long pitch, long vectors,
                                  long width, long channels, real *dw, real *db) {
    (void)width;
#if WIDTH && WIDTH <= 4
    long c = 0;
    for (; c + 2 <= channels; c += 2, w += 2 * WIDTH, dw += 2 * WIDTH, dy += 2 * pitch) {
#define CONSTANT(i, k) const vec w##i##k = all(w[i * WIDTH + k]); vec g##i##k = {0};
        EACH(CONSTANT, 0)
        EACH(CONSTANT, 1)
        const vec b0 = all(b ? b[c] : 0), b1 = all(b ? b[c + 1] : 0);
        vec t0 = {0}, t1 = {0};
#define FORWARD(i, k) z##i += w##i##k * ld(h + k * pitch + p);
#define COTANGENT(at) { const long p = at; vec z0 = b0, z1 = b1; EACH(FORWARD, 0) EACH(FORWARD, 1) \
            n0 = gate(ld(dy + p), z0); n1 = gate(ld(dy + pitch + p), z1); }
#define WEIGHT(i, k) g##i##k += d##i * h##k;
#define BACK(i, k) const vec h##k = ld(h + k * pitch + q); \
            st(dh + k * pitch + q, ld(dh + k * pitch + q) + w0##k * d0 + w1##k * d1);
        vec n0, n1;
        COTANGENT(0)
        for (long q = 0; q < vectors * L; q += L) {
            const vec d0 = n0, d1 = n1;
            /* One vector ahead (the last time past the end, unused): its chain of multiply-adds runs beside the updates below. */
            COTANGENT(q + L)
            t0 += d0;
            t1 += d1;
            EACH(BACK, 0)
            EACH(WEIGHT, 0)
            EACH(WEIGHT, 1)
        }
#define RESULT(i, k) dw[i * WIDTH + k] += total(g##i##k);
        EACH(RESULT, 0)
        EACH(RESULT, 1)
        db[c] += total(t0);
        db[c + 1] += total(t1);
    }
#undef CONSTANT
#undef FORWARD
#undef COTANGENT
#undef WEIGHT
#undef BACK
#undef RESULT
#else
    long c = 0;
#endif
    vec *grads = aligned_alloc(64, sizeof(vec) * (SIZE + 1));
    for (; c < channels; c++, w += SIZE, dw += SIZE, dy += pitch) {
        vec t = {0};
        for (long k = 0; k < SIZE; k++) grads[k] = (vec){0};
        for (long q = 0; q < vectors * L; q += L) {
            vec z = all(b ? b[c] : 0);
            for (long k = 0; k < SIZE; k++) z += all(w[k]) * ld(h + k * pitch + q);
            const vec d = gate(ld(dy + q), z);
            t += d;
            for (long k = 0; k < SIZE; k++) {
                st(dh + k * pitch + q, ld(dh + k * pitch + q) + all(w[k]) * d);
                grads[k] += d * ld(h + k * pitch + q);
            }
        }
        for (long k = 0; k < SIZE; k++) dw[k] += total(grads[k]);
        db[c] += total(t);
    }
    free(grads);
}
#undef EACH
#undef SIZE
#undef WIDTH
