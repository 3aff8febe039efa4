/* One register tile: c[i][·] = start + Σ_k a_i[k·step] b[k][·] for ROWS rows i and VECTORS vectors; included once per VECTORS. */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#if VECTORS == 3
#define ACROSS(f, i) f(i, 0) f(i, 1) f(i, 2)
#elif VECTORS == 2
#define ACROSS(f, i) f(i, 0) f(i, 1)
#else
#define ACROSS(f, i) f(i, 0)
#endif
static void JOIN(gemm, VECTORS)(const real *const *a, long step, const real *b, long pitch, long depth, const real *bias,
                                int accumulate, int activate, real *c, long c_pitch) {
#define POINTER(i) const real *a##i = a[i];
#define DECLARE(i, v) vec c##i##v = accumulate ? ld(c + i * c_pitch + v * L) : all(bias ? bias[i] : 0);
#define START(i) ACROSS(DECLARE, i)
    EACH_ROW(POINTER)
    EACH_ROW(START)
    for (long k = 0, o = 0; k < depth; k++, o += step, b += pitch) {
        const vec b0 = ld(b);
#if VECTORS > 1
        const vec b1 = ld(b + L);
#endif
#if VECTORS > 2
        const vec b2 = ld(b + 2 * L);
#endif
#define MULTIPLY(i, v) c##i##v += w * b##v;
#define ROW(i) { const vec w = all(a##i[o]); ACROSS(MULTIPLY, i) }
        EACH_ROW(ROW)
    }
#define STORE(i, v) st(c + i * c_pitch + v * L, activate ? relu(c##i##v) : c##i##v);
#define FINISH(i) ACROSS(STORE, i)
    if (activate) { EACH_ROW(FINISH) } else { EACH_ROW(FINISH) }
}
#undef ACROSS
#undef POINTER
#undef DECLARE
#undef START
#undef MULTIPLY
#undef ROW
#undef STORE
#undef FINISH
#undef VECTORS
