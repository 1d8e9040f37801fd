/* token_stats, sample_tokens and grpo_loss on the CPU.

   A row is cut into chunks of CHUNK columns. Each is measured relative to its own largest logit m, while it lies in the
   first cache: one exponential per column,

       d = (x - m) / temperature,  e = exp d,  s = sum e,  w = sum e d,  t = sum (x - m),  q = sum e^2,  n = columns

   and the chunks are put together in their order, in float64. So a row's bits depend on neither its company, nor the
   number of threads, nor which of them measured which chunk: where rows are few, threads share the chunks of each.

   Sampling: the token lies in the chunk where the sum reaches u s, for a random number u; that chunk is looked through
   once more.

   Backward, per row: dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j) - c_1 + c_y 1[j = y], with p_j = exp(d_j - log s).

   A chunk's own sums go to float64 every GROUP columns: a float32 sum that starts with one large term rounds the many
   small ones after it all in one direction, beyond what the contract allows. */

#ifdef __linux__
#define _GNU_SOURCE
#include <sys/mman.h>
#endif
#include <pthread.h>
#include <stdlib.h>

#include "vectors.h"

#define NOINLINE static __attribute__((noinline))

#define GROUP (16 * LANES)
#define CHUNK 4096 /* columns; in float32 half of a first cache of 32 KB. GROUP divides it. */
#define IGNORE_INDEX (-100)
#define MAX_THREADS 1024

typedef void Parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags); /* OpenMP's GOMP_parallel */

typedef struct {
    const void *logits;
    const int64_t *offsets;      /* (rows,) of each row's first element */
    const int64_t *targets;      /* (rows,) */
    const float *temperatures;   /* (rows,) or NULL for the scalar */
    double temperature;
    double softcap;              /* 0: none */
    int64_t columns;
    int64_t rows;
    int32_t dtype;
    int32_t threads;
    Parallel *parallel;          /* or NULL: threads of our own */
    /* forward: (rows,) each, or NULL where not asked for; top_probs is (rows, 2), state (6, rows) */
    float *logprob, *entropy, *self_certainty, *logsumexp, *sum_sq_probs, *top_probs;
    float *state;
    /* backward */
    void *grad;
    const int64_t *grad_offsets;
    const float *c_p, *c_plogp, *c_pp, *c_1, *c_y, *c_rest; /* (rows,) each, or NULL for 0 */
    /* grpo_loss: (rows,) each; old_logprob and ref_logprob (with kl) may be NULL */
    const float *advantage, *weight, *mean_weight, *old_logprob, *ref_logprob;
    float *loss, *kl;
    uint8_t *clipped;
    double low, high, delta, beta, entropy_coef, self_certainty_coef;
    /* sample_tokens: (rows,) each; uniform is NULL where the targets are given */
    const double *uniform;
    int64_t *drawn;
} Call;

INLINE const char *row_of(const Call *call, int64_t i) {
    return (const char *)call->logits + (int64_t)size_of(call->dtype) * call->offsets[i];
}

INLINE char *grad_row_of(const Call *call, int64_t i) {
    return (char *)call->grad + (int64_t)size_of(call->dtype) * call->grad_offsets[i];
}

INLINE double temperature_of(const Call *call, int64_t i) {
    return call->temperatures ? call->temperatures[i] : (float)call->temperature;
}

INLINE int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---------------------------------------------------------------- logits as float32 */

INLINE void convert(const char *from, int64_t count, float *to, int dtype, float softcap) {
    int64_t size = (int64_t)size_of(dtype), j = 0;
    for (; j + LANES <= count; j += LANES) {
        f32 x = load(from + size * j, dtype);
        store(to + j, softcap > 0 ? cap(x, softcap) : x, FLOAT32);
    }
    if (j < count) {
        f32 x = load_some(from + size * j, count - j, dtype);
        store(to + j, softcap > 0 ? cap(x, softcap) : x, FLOAT32);
    }
}

/* The capped logits of `count` columns: where they lie, or in the room, which is LANES longer. */
NOINLINE const float *values_of(const Call *call, int64_t i, int64_t start, int64_t count, float *room) {
    const char *from = row_of(call, i) + (int64_t)size_of(call->dtype) * start;
    float softcap = (float)call->softcap;
    if (softcap > 0) {
        if (call->dtype == FLOAT32) convert(from, count, room, FLOAT32, softcap);
        else if (call->dtype == BFLOAT16) convert(from, count, room, BFLOAT16, softcap);
        else convert(from, count, room, FLOAT16, softcap);
    } else if (call->dtype == FLOAT32) {
        return (const float *)from;
    } else if (call->dtype == BFLOAT16) {
        convert(from, count, room, BFLOAT16, 0);
    } else {
        convert(from, count, room, FLOAT16, 0);
    }
    return room;
}

/* ---------------------------------------------------------------- forward, a chunk */

typedef struct {
    double s, w, t, q; /* w in units of log 2 */
    float m, second;   /* the largest logit, and the next one where top_probs asks for it */
    int32_t n, guarded;
} Part;

NOINLINE float largest(const float *x, int64_t count) {
    f32 high[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
    int64_t j = 0;
    for (; j + 4 * LANES <= count; j += 4 * LANES)
        for (int k = 0; k < 4; k++) high[k] = larger(load(x + j + k * LANES, FLOAT32), high[k]);
    for (; j + LANES <= count; j += LANES) high[0] = larger(load(x + j, FLOAT32), high[0]);
    f32 all = larger(larger(high[0], high[1]), larger(high[2], high[3]));
    float m = -INFINITY;
    for (int i = 0; i < LANES; i++) m = all[i] > m ? all[i] : m;
    for (; j < count; j++) m = x[j] > m ? x[j] : m;
    return m;
}

INLINE void place(float x, float *first, float *second) {
    if (x > *first) *second = *first, *first = x;
    else if (x > *second) *second = x;
}

/* Without the largest, or that again where it is there twice. */
NOINLINE float second_largest(const float *x, int64_t count) {
    f32 high = splat(-INFINITY), next = high;
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES) {
        f32 v = load(x + j, FLOAT32);
        next = larger(smaller(v, high), next);
        high = larger(v, high);
    }
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < LANES; i++) place(high[i], &first, &second), place(next[i], &first, &second);
    for (; j < count; j++) place(x[j], &first, &second);
    return second;
}

typedef struct { f32 s, w, t, q; } Terms;

/* One vector's terms. Of the square, what is below 2^-124 is that, lest it be subnormal. */
INLINE void add_terms(const float *x, f32 m, f32 scale, int square, Terms *to) {
    f32 difference = load(x, FLOAT32) - m, d = clamp(difference * scale), e = exp2_clamped(d);
    to->s += e;
    to->w += e * d;
    to->t += difference;
    if (square) {
        e = larger(splat(0x1p-62f), e);
        to->q += e * e;
    }
}

/* The columns where something is -inf, NaN, or so low that its distance overflows; and a row's last few. A column of -inf
   is outside the support: it adds nothing. */
NOINLINE void sum_guarded(const float *x, int64_t count, float m, float scale, Part *to) {
    f64 sums[5][2] = {{{0}}};
    float shift = m == -INFINITY ? 0 : m;
    f64 wide_shift = (f64){0} + (double)shift;
    for (int64_t j = 0; j < count; j += LANES) {
        int64_t some = smallest(count - j, LANES);
        f32 v = some < LANES ? load_some(x + j, some, FLOAT32) : load(x + j, FLOAT32);
        i32 inside = v != splat(-INFINITY);
        v = pick(inside, v, splat(shift));
        f32 d = clamp((v - splat(shift)) * splat(scale)), e = pick(inside, exp2_clamped(d), splat(0.0f));
        f32 larger_e = pick(inside, larger(splat(0x1p-62f), e), splat(0.0f));
        f64 t[2] = {-wide_shift, -wide_shift};
        add_widened(v, &t[0], &t[1]);
        sums[2][0] += t[0], sums[2][1] += t[1];
        f32 one = pick(inside, splat(1.0f), splat(0.0f));
        f32 terms[] = {e + (d - d) /* NaN where d is */, e * d, splat(0.0f), larger_e * larger_e, one};
        for (int k = 0; k < 5; k++)
            if (k != 2) add_widened(terms[k], &sums[k][0], &sums[k][1]);
    }
    to->s += total(sums[0][0], sums[0][1]);
    to->w += total(sums[1][0], sums[1][1]);
    to->t += total(sums[2][0], sums[2][1]);
    to->q += total(sums[3][0], sums[3][1]);
    to->n += (int32_t)total(sums[4][0], sums[4][1]);
}

INLINE void sum_freely(const float *x, int64_t count, float m, float scale, int square, Part *to) {
    f64 sums[4][2] = {{{0}}};
    f32 shift = splat(m), factor = splat(scale);
    int64_t j = 0, whole = count / LANES * LANES;
    while (j < whole) {
        int64_t end = smallest(j + GROUP, whole);
        Terms a = {.s = splat(0.0f)}, b = a;
        for (; j + 2 * LANES <= end; j += 2 * LANES) {
            add_terms(x + j, shift, factor, square, &a);
            add_terms(x + j + LANES, shift, factor, square, &b);
        }
        if (j < end) add_terms(x + j, shift, factor, square, &a), j += LANES;
        add_widened(a.s + b.s, &sums[0][0], &sums[0][1]);
        add_widened(a.w + b.w, &sums[1][0], &sums[1][1]);
        add_widened(a.t + b.t, &sums[2][0], &sums[2][1]);
        if (square) add_widened(a.q + b.q, &sums[3][0], &sums[3][1]);
    }
    to->s += total(sums[0][0], sums[0][1]);
    to->w += total(sums[1][0], sums[1][1]);
    to->t += total(sums[2][0], sums[2][1]);
    if (square) to->q += total(sums[3][0], sums[3][1]);
    to->n += (int32_t)whole;
    if (whole < count) sum_guarded(x + whole, count - whole, m, scale, to);
}

NOINLINE void sum_three(const float *x, int64_t count, float m, float scale, Part *to) {
    sum_freely(x, count, m, scale, 0, to);
}

NOINLINE void sum_four(const float *x, int64_t count, float m, float scale, Part *to) {
    sum_freely(x, count, m, scale, 1, to);
}

INLINE void sum_as(const Call *call, const float *x, int64_t count, float scale, Part *to) {
    if (to->guarded) sum_guarded(x, count, to->m, scale, to);
    else if (call->sum_sq_probs) sum_four(x, count, to->m, scale, to);
    else sum_three(x, count, to->m, scale, to);
}

INLINE float scale_of(const Call *call, int64_t i) { return (float)(LOG2_E / temperature_of(call, i)); }

NOINLINE void measure(const Call *call, int64_t i, int64_t chunk, Part *part) {
    float room[CHUNK + LANES];
    int64_t start = chunk * CHUNK, count = smallest(call->columns - start, CHUNK);
    const float *x = values_of(call, i, start, count, room);
    *part = (Part){.m = largest(x, count), .second = call->top_probs ? second_largest(x, count) : -INFINITY};
    sum_as(call, x, count, scale_of(call, i), part);
    if (!isfinite(part->t) || !isfinite(part->w)) {
        *part = (Part){.m = part->m, .second = part->second, .guarded = 1};
        sum_as(call, x, count, scale_of(call, i), part);
    }
}

/* ---------------------------------------------------------------- forward, a row */

/* What the chunks make together, relative to the largest logit of all. */
INLINE Part fold(const Part *parts, int64_t chunks, double temperature, double *n) {
    Part row = {.m = -INFINITY, .second = -INFINITY};
    for (int64_t k = 0; k < chunks; k++) place(parts[k].m, &row.m, &row.second), place(parts[k].second, &row.m, &row.second);
    *n = 0;
    for (int64_t k = 0; k < chunks; k++) {
        const Part *part = &parts[k];
        if (part->n == 0) continue;
        double shift = part->m == row.m ? 0 : (double)part->m - row.m, d = shift / temperature, f = exp(d);
        row.s += f * part->s;
        row.w += f > 0 ? f * (part->w * LN_2 + d * part->s) : 0;
        row.t += part->t + shift * part->n;
        row.q += f * f * part->q;
        *n += part->n;
        if (part->s != part->s) row.s = NAN;
    }
    return row;
}

/* The first column at which the sum of exponentials reaches the goal, in (0, s]; one of probability 0 is never that, also
   where `clamp` left it 2^-100: the goal may lie in the rounding between this sum and that of the chunks. */
NOINLINE int64_t find_column(const Call *call, int64_t i, const Part *parts, int64_t chunks, float m, double goal) {
    float room[CHUNK + LANES], scale = scale_of(call, i);
    double reached = 0, before = 0, f = 1;
    int64_t chunk = -1, column = -1;
    for (int64_t k = 0; k < chunks && (chunk < 0 || reached < goal); k++) {
        double factor = parts[k].m == m ? 1 : exp(((double)parts[k].m - m) / temperature_of(call, i));
        if (parts[k].n == 0 || factor < 0x1p-100) continue;
        chunk = k, f = factor, before = reached; /* the last one stands where rounding keeps the sum below the goal */
        reached += f * parts[k].s;
    }
    int64_t start = chunk * CHUNK, count = smallest(call->columns - start, CHUNK);
    const float *x = values_of(call, i, start, count, room);
    for (int64_t j = 0; j < count; j += LANES) {
        f32 v = j + LANES > count ? load_some(x + j, count - j, FLOAT32) : load(x + j, FLOAT32);
        f32 d = (v - splat(parts[chunk].m)) * splat(scale);
        i32 possible = d > splat(LOWEST);
        f32 e = pick(possible, exp2_clamped(clamp(d)), splat(0.0f));
        f64 low = {0}, high = {0};
        add_widened(e, &low, &high);
        double all = f * total(low, high);
        int here = before + all >= goal;
        for (int lane = 0; all > 0 && lane < LANES; lane++) {
            if (!possible[lane]) continue;
            column = start + j + lane; /* so does the last column */
            if (here && (before += f * e[lane]) >= goal) return column;
        }
        if (!here) before += all;
    }
    return column;
}

/* x_y, and the sum of all exponentials of its chunk but its own: of the largest, whose own is 1, which would drown the
   others if there are but few. Its group is summed again with and without it, to the very bits of `measure`. */
NOINLINE double sum_of_others(const Call *call, int64_t i, int64_t target, const Part *part, float *x_y) {
    float room[GROUP + LANES], without[GROUP + LANES];
    int64_t start = target / GROUP * GROUP, count = smallest(call->columns - start, GROUP);
    const float *x = values_of(call, i, start, count, room);
    *x_y = x[target - start];
    if (*x_y != part->m || !(part->s < 2)) return part->s - 1;
    Part all = {.m = part->m, .guarded = part->guarded}, others = all;
    memcpy(without, x, sizeof(float) * (size_t)count);
    without[target - start] = -INFINITY; /* in `sum_three` that spoils t alone, and adds 2^-100 to s */
    sum_as(call, x, count, scale_of(call, i), &all);
    sum_as(call, without, count, scale_of(call, i), &others);
    return part->s - all.s + others.s;
}

/* Row i from its chunks. */
NOINLINE void finish(const Call *call, int64_t i, const Part *parts, int64_t chunks) {
    int64_t columns = call->columns, target = call->targets[i];
    double temperature = temperature_of(call, i), n;
    Part row = fold(parts, chunks, temperature, &n);
    if (!(row.s > 0)) row.s = NAN; /* no support, or no distribution */
    float m = isnan(row.s) && row.m != -INFINITY ? NAN : row.m;
    if (call->uniform) {
        if (!isfinite(row.s) || isnan(call->uniform[i])) {
            call->drawn[i] = -1; /* there is no distribution to draw from, or nothing to draw with */
            return;
        }
        double goal = call->uniform[i] * row.s;
        target = find_column(call, i, parts, chunks, m, goal < row.s ? goal : row.s);
        call->drawn[i] = target;
    }
    float x_y;
    const Part *own = &parts[target / CHUNK];
    double others = sum_of_others(call, i, target, own, &x_y);
    double log_s = log(row.s), entropy = log_s - row.w / row.s, squares = row.q / (row.s * row.s);
    double logprob = ((double)x_y - m) / temperature - log_s;
    if (call->logprob) call->logprob[i] = (float)logprob;
    if (call->entropy) call->entropy[i] = (float)entropy;
    if (call->self_certainty) call->self_certainty[i] = (float)(log_s - log(n) - row.t / temperature / n);
    if (call->logsumexp) call->logsumexp[i] = (float)((double)m / temperature + log_s);
    if (call->sum_sq_probs) call->sum_sq_probs[i] = (float)squares;
    if (call->top_probs) {
        call->top_probs[2 * i] = (float)(1 / row.s);
        double second = row.second == -INFINITY ? 0 * row.s : exp(((double)row.second - m) / temperature) / row.s;
        call->top_probs[2 * i + 1] = (float)second;
    }
    float *state = call->state;
    int64_t rows = call->rows;
    state[i] = m;
    state[rows + i] = (float)log_s;
    state[2 * rows + i] = (float)(n == (double)columns ? n : n < 1 ? -1 : -n); /* negative: the backward must look for -inf */
    state[3 * rows + i] = (float)entropy;
    state[4 * rows + i] = (float)squares;
    /* 1 - p_y; of the largest, as the sum of the others. */
    state[5 * rows + i] = (float)(x_y == m ? (row.s - own->s + others) / row.s : -expm1(logprob));
}

/* ---------------------------------------------------------------- backward */

typedef struct { float m, log2_s, scale, c_p, c_plogp, c_pp, c_1, c_rest, c_y; } RowTerms;

/* The coefficients, over the temperature. NaN is made new: `store` counts on it. */
INLINE float own_nan(float c) { return c == c ? c : NAN; }

INLINE RowTerms row_terms(
    const Call *call, int64_t i, float c_p, float c_plogp, float c_pp, float c_1, float c_rest, float c_y
) {
    float m = call->state[i], log_s = call->state[call->rows + i];
    return (RowTerms){
        own_nan(m), own_nan((float)(log_s * LOG2_E)), scale_of(call, i),
        own_nan(c_p), own_nan(c_plogp), own_nan(c_pp), own_nan(c_1), own_nan(c_rest), own_nan(c_y),
    };
}

INLINE RowTerms given_terms(const Call *call, int64_t i) {
    return row_terms(
        call, i, call->c_p[i], call->c_plogp ? call->c_plogp[i] : 0, call->c_pp ? call->c_pp[i] : 0,
        call->c_1 ? call->c_1[i] : 0, call->c_rest ? call->c_rest[i] : 0, call->c_y ? call->c_y[i] : 0
    );
}

/* ALL: with a softcap, columns of -inf and c_pp. */
INLINE f32 gradient(f32 x, const RowTerms *r, f32 plogp, int all, float softcap) {
    if (all && softcap > 0) x = cap(x, softcap);
    f32 logp = clamp((x - splat(r->m)) * splat(r->scale) - splat(r->log2_s)), p = exp2_clamped(logp);
    f32 factor = splat(r->c_p) + plogp * logp;
    if (all) factor += splat(r->c_pp) * p;
    f32 g = p * factor - splat(r->c_1);
    if (all && softcap > 0) {
        f32 ratio = x * splat(1.0f / softcap);
        g = g * (splat(1.0f) - ratio * ratio);
    }
    return all ? pick(x == splat(-INFINITY), splat(0.0f), g) : g;
}

INLINE void backward_columns(const char *row, char *grad, int64_t count, RowTerms r, int dtype, int all, float softcap) {
    int64_t size = (int64_t)size_of(dtype), j = 0;
    f32 plogp = splat((float)(r.c_plogp * LN_2));
    for (; j + LANES <= count; j += LANES)
        store(grad + size * j, gradient(load(row + size * j, dtype), &r, plogp, all, softcap), dtype);
    if (j < count) {
        f32 g = gradient(load_some(row + size * j, count - j, dtype), &r, plogp, all, softcap);
        store_some(grad + size * j, g, count - j, dtype);
    }
}

#define BACKWARD(name, dtype)                                                                                                \
    NOINLINE void name(const char *row, char *grad, int64_t count, RowTerms r) {                                             \
        backward_columns(row, grad, count, r, dtype, 0, 0);                                                                  \
    }                                                                                                                        \
    NOINLINE void name##_all(const char *row, char *grad, int64_t count, RowTerms r, float softcap) {                        \
        backward_columns(row, grad, count, r, dtype, 1, softcap);                                                            \
    }

BACKWARD(backward_float32, FLOAT32)
BACKWARD(backward_bfloat16, BFLOAT16)
BACKWARD(backward_float16, FLOAT16)

/* The gradient at the target, where c_p is c_rest - c_y: p_y (c_rest + ...) - c_1 + c_y (1 - p_y), lest it cancel. */
INLINE float gradient_at_target(const Call *call, int64_t i, float x_y, RowTerms r) {
    double softcap = call->softcap, x = softcap > 0 ? softcap * tanh(x_y / softcap) : x_y;
    double logp = (x - r.m) / temperature_of(call, i) - call->state[call->rows + i], p = exp(logp);
    double product = p > 0 ? p * logp : 0, ratio = softcap > 0 ? x / softcap : 0;
    double g = p * (r.c_rest + 0 * (double)r.c_p + r.c_pp * p) + r.c_plogp * product - r.c_1; /* NaN in c_p stays */
    return own_nan((float)((g + r.c_y * (double)call->state[5 * call->rows + i]) * (1 - ratio * ratio)));
}

/* Columns [start, end) of row i; a masked row's gradient is 0. */
NOINLINE void backward(const Call *call, int64_t i, int64_t start, int64_t end, RowTerms r) {
    int dtype = call->dtype;
    int64_t size = (int64_t)size_of(dtype), target = call->targets[i];
    const char *row = row_of(call, i) + size * start;
    char *grad = grad_row_of(call, i) + size * start;
    int at_target = r.c_y != 0 && target >= start && target < end;
    float x_y = at_target ? load_some(row + size * (target - start), 1, dtype)[0] : 0; /* in place, it is written over */
    if (call->softcap > 0 || call->c_pp || call->state[2 * call->rows + i] < 0) {
        if (dtype == FLOAT32) backward_float32_all(row, grad, end - start, r, (float)call->softcap);
        else if (dtype == BFLOAT16) backward_bfloat16_all(row, grad, end - start, r, (float)call->softcap);
        else backward_float16_all(row, grad, end - start, r, (float)call->softcap);
    } else {
        if (dtype == FLOAT32) backward_float32(row, grad, end - start, r);
        else if (dtype == BFLOAT16) backward_bfloat16(row, grad, end - start, r);
        else backward_float16(row, grad, end - start, r);
    }
    if (at_target && x_y != -INFINITY)
        store_some(grad + size * (target - start), splat(gradient_at_target(call, i, x_y, r)), 1, dtype);
}

/* ---------------------------------------------------------------- grpo_loss */

/* The loss of row i from its statistics, and the terms of its gradient: policy_loss.py has the formulas. In float64: a
   row has but one of each. */
NOINLINE RowTerms token_loss(const Call *call, int64_t i) {
    double logprob = call->logprob[i], advantage = call->advantage[i], weight = call->weight[i];
    double ratio = exp(logprob - (call->old_logprob ? (double)call->old_logprob[i] : logprob));
    double least = ratio < call->low ? call->low : ratio, capped = (ratio < call->delta ? ratio : call->delta) * advantage;
    double in_range = (least < call->high ? least : call->high) * advantage;
    int flows = capped <= in_range ? ratio <= call->delta : ratio >= call->low && ratio <= call->high;
    double loss = -(capped <= in_range ? capped : in_range), slope = flows ? -advantage * ratio : 0;
    if (ratio != ratio) loss = slope = ratio;
    call->clipped[i] = (ratio < call->low && advantage < 0) || (ratio > call->high && advantage > 0);
    if (call->ref_logprob) {
        double difference = (double)call->ref_logprob[i] - logprob, growth = expm1(difference);
        call->kl[i] = (float)(growth - difference);
        loss += call->beta * (growth - difference);
        slope -= call->beta * growth;
    }
    double mean_weight = call->mean_weight[i], temperature = temperature_of(call, i);
    double g_y = weight * slope, g_entropy = -call->entropy_coef * mean_weight;
    double g_self_certainty = -call->self_certainty_coef * mean_weight, entropy = call->state[3 * call->rows + i];
    loss *= weight;
    if (call->entropy_coef != 0) loss += g_entropy * entropy;
    if (call->self_certainty_coef != 0) loss += g_self_certainty * call->self_certainty[i];
    call->loss[i] = (float)loss;
    double rest = g_self_certainty - (call->entropy_coef != 0 ? g_entropy * entropy : 0);
    double n = fabs((double)call->state[2 * call->rows + i]);
    return row_terms(
        call, i, (float)((rest - g_y) / temperature), (float)(-g_entropy / temperature), 0,
        (float)(g_self_certainty / n / temperature), (float)(rest / temperature), (float)(g_y / temperature)
    );
}

/* ---------------------------------------------------------------- threads */

enum { FORWARD = 1, BACKWARD_PASS = 2 };

typedef struct {
    const Call *call;
    int passes;
    int64_t chunks;
    int64_t items, take; /* threads take so many items at a time: rows, or chunks of rows if there are `parts` */
    int64_t next;
    Part *parts;         /* (rows, chunks), where threads share rows */
    int64_t *left;       /* (rows,): chunks that nobody has measured yet */
    RowTerms *terms;     /* (rows,): of the backward after a loss */
    int failed;
} Job;

INLINE int masked(const Call *call, int64_t i) { return !call->uniform && call->targets[i] == IGNORE_INDEX; }

/* Row i, whole. */
INLINE void work_on_row(Job *job, int64_t i, Part *parts) {
    const Call *call = job->call;
    if (masked(call, i)) {
        if (job->passes & BACKWARD_PASS) memset(grad_row_of(call, i), 0, size_of(call->dtype) * (size_t)call->columns);
        return; /* the other outputs hold 0 */
    }
    if (job->passes & FORWARD) {
        for (int64_t k = 0; k < job->chunks; k++) measure(call, i, k, &parts[k]);
        finish(call, i, parts, job->chunks);
    }
    if (job->passes & BACKWARD_PASS)
        backward(call, i, 0, call->columns, job->passes & FORWARD ? token_loss(call, i) : given_terms(call, i));
}

/* One chunk of a row; whoever measured the last one of a row finishes it. */
INLINE void work_on_chunk(Job *job, int64_t i, int64_t k) {
    const Call *call = job->call;
    int64_t start = k * CHUNK, end = smallest(start + CHUNK, call->columns);
    if (masked(call, i)) {
        int64_t size = (int64_t)size_of(call->dtype);
        if (job->passes == BACKWARD_PASS) memset(grad_row_of(call, i) + size * start, 0, (size_t)(size * (end - start)));
    } else if (job->passes == BACKWARD_PASS) {
        backward(call, i, start, end, job->terms ? job->terms[i] : given_terms(call, i));
    } else {
        Part *parts = job->parts + i * job->chunks;
        measure(call, i, k, &parts[k]);
        if (__atomic_sub_fetch(&job->left[i], 1, __ATOMIC_ACQ_REL)) return;
        finish(call, i, parts, job->chunks);
        if (job->terms) job->terms[i] = token_loss(call, i);
    }
}

static void work(void *data) {
    Job *job = data;
    Part *parts = NULL;
    if (!job->left && job->passes & FORWARD && !(parts = malloc(sizeof(Part) * (size_t)job->chunks))) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (;;) {
        int64_t first = __atomic_fetch_add(&job->next, job->take, __ATOMIC_RELAXED), end = smallest(first + job->take, job->items);
        if (first >= job->items) break;
        for (int64_t item = first; item < end; item++) {
            if (job->left) work_on_chunk(job, item / job->chunks, item % job->chunks);
            else work_on_row(job, item, parts);
        }
    }
    free(parts);
}

static void *work_on_thread(void *job) {
    work(job);
    return NULL;
}

/* Returns when all is done. Threads of torch's own OpenMP, where there is one: awake since torch's last op, and busy with
   waiting for the next, they would be in the way of others. */
static void run(Job *job) {
    job->next = 0;
    int threads = job->call->threads < MAX_THREADS ? job->call->threads : MAX_THREADS;
    if (threads > 1 && job->call->parallel) {
        job->call->parallel(work, job, (unsigned)threads, 0);
        return;
    }
    pthread_t others[MAX_THREADS];
    int started = 0;
    while (started < threads - 1 && !pthread_create(&others[started], NULL, work_on_thread, job)) started++;
    work(job);
    while (started) pthread_join(others[--started], NULL);
}

/* Returns 0, or -1 if there is no memory. */
static int run_passes(const Call *call, int passes) {
    int64_t chunks = (call->columns + CHUNK - 1) / CHUNK, threads = call->threads;
    Job job = {.call = call, .passes = passes, .chunks = chunks, .items = call->rows, .take = 1 + call->rows / (32 * threads)};
    if (threads == 1 || chunks == 1 || call->rows >= 8 * threads) {
        run(&job);
        return job.failed ? -1 : 0;
    }
    /* Few rows: threads share them. */
    job.items = call->rows * chunks;
    job.take = 1;
    job.left = malloc(sizeof(int64_t) * (size_t)call->rows);
    job.parts = malloc(sizeof(Part) * (size_t)job.items);
    if (passes == (FORWARD | BACKWARD_PASS)) job.terms = malloc(sizeof(RowTerms) * (size_t)call->rows);
    job.failed = !job.left || !job.parts || (passes == (FORWARD | BACKWARD_PASS) && !job.terms);
    if (!job.failed) {
        for (int64_t i = 0; i < call->rows; i++) job.left[i] = chunks;
        for (int pass = FORWARD; pass <= BACKWARD_PASS; pass++) {
            job.passes = passes & pass;
            if (job.passes) run(&job);
        }
    }
    free(job.left), free(job.parts), free(job.terms);
    return job.failed ? -1 : 0;
}

const char *rlif_instructions(void) { return INSTRUCTIONS; }

int rlif_forward(const Call *call) { return run_passes(call, FORWARD); }

/* The same, but the targets are drawn. */
int rlif_sample(const Call *call) { return run_passes(call, FORWARD); }

int rlif_backward(const Call *call) { return run_passes(call, BACKWARD_PASS); }

/* Forward, loss and backward of each row. */
int rlif_grpo(const Call *call) { return run_passes(call, FORWARD | BACKWARD_PASS); }

/* Memory that nobody has touched yet is handed out and cleared page by page as the gradient is written, which takes as
   long as the gradient itself. Larger pages take a third of that off; where there are none, nothing happens. */
void rlif_expect_writes(void *memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t page = 1 << 21, first = ((uintptr_t)memory + page - 1) & ~(page - 1);
    uintptr_t last = ((uintptr_t)memory + (uintptr_t)bytes) & ~(page - 1);
    if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}
