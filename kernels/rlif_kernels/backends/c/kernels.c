/* token_stats, sample_tokens and grpo_loss on the CPU: a row is read from memory once, and is in the cache for every
   further look at it.

   Forward, per row: the largest logit m first, then one exponential per column,

       d = (x - m) / temperature,  e = exp d,  s = sum e,  w = sum e d,  t = sum d,  q = sum e^2,  n = columns

   Sampling, per row: the forward notes how far s has come after every stretch of columns; the stretch in which it
   reaches u s, for a random number u, is looked through once more.

   Backward, per row: dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j) - c_1 + c_y 1[j = y], with p_j = exp(d_j - log s).

   Written in the vector extensions that GCC and Clang share; the compiler picks the instructions of the machine it runs
   on. A row belongs to one thread and its columns are added in an order fixed by their numbers, so its bits depend on
   neither its company nor the number of threads. Sums go to float64 every eight vectors: a float32 sum that starts with
   one large term rounds the many small ones after it all in one direction, beyond what the contract allows. */

#ifdef __linux__
#define _GNU_SOURCE
#include <sys/mman.h>
#endif
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define CHUNK (8 * LANES)
#define STRETCH (8 * CHUNK) /* columns that a draw looks through */
#define IGNORE_INDEX (-100)

/* Where the parts of the row state stand, which the forward leaves for the backward: RowState of rows.py. */
enum { STATE_M, STATE_LOG_S, STATE_N, STATE_ENTROPY, STATE_SUM_SQ_PROBS, STATE_COMPLEMENT };

typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef double f64 __attribute__((vector_size(8 * LANES)));
typedef int32_t i32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16 __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    const void *logits;
    const int64_t *offsets;      /* (rows,) of each row's first element */
    const int64_t *targets;      /* (rows,) */
    const float *temperatures;   /* (rows,) or NULL for the scalar */
    double temperature;
    double softcap;              /* 0: none */
    int64_t columns;
    int64_t rows;
    int32_t bfloat16;            /* else float32 */
    /* forward: (rows,) each, or NULL where not asked for; top_probs is (rows, 2), state (STATE_COMPLEMENT + 1, rows) */
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

INLINE float *part(const Call *call, int which, int64_t row) { return call->state + which * call->rows + row; }

INLINE f32 splat(float x) { return (f32){} + x; }
INLINE f32 pick(i32 mask, f32 yes, f32 no) { return (f32)(((i32)yes & mask) | ((i32)no & ~mask)); }
/* NaN in b is kept, NaN in a is not: what the processor's own maximum and minimum do. */
INLINE f32 larger(f32 a, f32 b) { return pick(a > b, a, b); }
INLINE f32 smaller(f32 a, f32 b) { return pick(a < b, a, b); }

/* exp(d) for d <= 0 that has been through `clamp`, to 1 ulp or so. Cody-Waite reduction and the Taylor polynomial of
   degree 6 on |r| <= log(2)/2, whose remainder is 1.2e-7 relative at the very end of that range. */
INLINE f32 exp_clamped(f32 d) {
    f32 shifted = d * splat(1.44269504f) + splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer in the low bits */
    f32 n = shifted - splat(12582912.0f);
    f32 r = d - n * splat(0.693145751953125f);
    r = r - n * splat(1.42860677e-6f);
    f32 p = splat(1.0f / 720.0f);
    p = p * r + splat(1.0f / 120.0f);
    p = p * r + splat(1.0f / 24.0f);
    p = p * r + splat(1.0f / 6.0f);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    return (f32)((i32)p + ((i32)shifted << 23));
}

/* Below -87 an exponential is next to nothing, and 1.6e-38 here: a product with the clamped d is nothing too. NaN stays. */
INLINE f32 clamp(f32 d) { return larger(splat(-87.0f), d); }

/* tanh: the exponential form cancels near 0, where a fitted odd polynomial takes its place. */
INLINE f32 tanh_(f32 x) {
    f32 a = pick(x < splat(0.0f), -x, x), x2 = x * x;
    f32 near = splat(-0.005652355030179024f);
    near = near * x2 + splat(0.020583488047122955f);
    near = near * x2 + splat(-0.053718484938144684f);
    near = near * x2 + splat(0.13331091403961182f);
    near = near * x2 + splat(-0.3333325982093811f);
    near = (near * x2 + splat(1.0f)) * x;
    f32 e = exp_clamped(clamp(a * splat(-2.0f)));
    f32 far = (splat(1.0f) - e) / (splat(1.0f) + e);
    return pick(a < splat(0.625f), near, pick(x < splat(0.0f), -far, far));
}

INLINE f32 load(const void *row, int64_t column, int bfloat16) {
    if (bfloat16) {
        u16 half;
        memcpy(&half, (const uint16_t *)row + column, sizeof half);
        return (f32)(__builtin_convertvector(half, u32) << 16);
    }
    f32 x;
    memcpy(&x, (const float *)row + column, sizeof x);
    return x;
}

/* The last columns of a row, fewer than LANES; the lanes beyond hold -inf. */
INLINE f32 load_tail(const void *row, int64_t column, int64_t columns, int bfloat16) {
    float x[LANES];
    for (int i = 0; i < LANES; i++) {
        x[i] = -INFINITY;
        if (column + i < columns) {
            if (bfloat16) {
                uint32_t bits = (uint32_t)((const uint16_t *)row)[column + i] << 16;
                memcpy(&x[i], &bits, sizeof bits);
            } else {
                x[i] = ((const float *)row)[column + i];
            }
        }
    }
    f32 v;
    memcpy(&v, x, sizeof v);
    return v;
}

INLINE f32 cap(f32 x, float softcap) {
    f32 capped = splat(softcap) * tanh_(x * splat(1.0f / softcap));
    i32 special = (x == splat(INFINITY)) | (x == splat(-INFINITY)) | (x != x); /* the row must know of them */
    return pick(special, x, capped);
}

INLINE float read_one(const Call *call, const void *row, int64_t column) {
    f32 x = load_tail(row, column, column + 1, call->bfloat16);
    if (call->softcap > 0) x = cap(x, (float)call->softcap);
    return x[0];
}

INLINE f64 widen(f32 v) { return __builtin_convertvector(v, f64); }

INLINE double total(f64 v) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* ---------------------------------------------------------------- forward */

typedef struct { double s, w, t, q, n; } Sums;

/* The sums of one row. GUARD leaves columns of -inf out and keeps the lowest float32 from overflowing: t is then the
   mean's numerator over V, before the temperature. REACHED, if given, gets s after every STRETCH of columns. */
INLINE Sums sum_row(const void *row, int64_t columns, float m, float inv_temperature, int bfloat16, int guard, int square,
                    double *reached) {
    f64 all_s = {}, all_w = {}, all_t = {}, all_q = {}, all_n = {};
    f32 shift = splat(m), scale = splat(inv_temperature), inv_columns = splat(1.0f / (float)columns);
    f32 outside = splat(-INFINITY);
    for (int64_t start = 0; start < columns; start += CHUNK) {
        int64_t end = start + CHUNK < columns ? start + CHUNK : columns;
        f32 s = {}, w = {}, t = {}, q = {}, n = {};
        for (int64_t j = start; j < end; j += LANES) {
            int tail = j + LANES > columns;
            f32 x = tail ? load_tail(row, j, columns, bfloat16) : load(row, j, bfloat16);
            f32 difference = x - shift, d = difference * scale;
            if (guard || tail) {
                i32 inside = x != outside;
                difference = pick(inside, difference, splat(0.0f));
                f32 clamped = pick(inside, clamp(d), splat(0.0f));
                f32 e = pick(inside, exp_clamped(clamped), splat(0.0f));
                s += e + (clamped - clamped); /* NaN where d is: the exponential's integers may lose it */
                w += e * clamped;
                t += guard ? difference * inv_columns : difference * scale;
                if (square) q += e * e;
                n += pick(inside, splat(1.0f), splat(0.0f));
            } else {
                f32 clamped = clamp(d), e = exp_clamped(clamped);
                s += e;
                w += e * clamped;
                t += d;
                if (square) q += e * e;
            }
        }
        all_s += widen(s);
        all_w += widen(w);
        all_t += widen(t);
        if (square) all_q += widen(q);
        if (guard || end == columns) all_n += widen(n);
        if (reached && (end % STRETCH == 0 || end == columns)) reached[(end - 1) / STRETCH] = total(all_s);
    }
    return (Sums){total(all_s), total(all_w), total(all_t), total(all_q), total(all_n)};
}

INLINE float largest(const void *row, int64_t columns, int bfloat16, int top, float *second) {
    f32 first = splat(-INFINITY), next = splat(-INFINITY);
    for (int64_t j = 0; j < columns; j += LANES) {
        f32 x = j + LANES > columns ? load_tail(row, j, columns, bfloat16) : load(row, j, bfloat16);
        if (top) next = larger(smaller(x, first), next);
        first = larger(x, first);
    }
    float m = -INFINITY, m2 = -INFINITY;
    for (int i = 0; i < LANES; i++) {
        float high = first[i], low = next[i];
        if (high > m) { m2 = m > low ? m : low; m = high; }
        else if (high > m2) m2 = high;
    }
    *second = m2;
    return m;
}

/* The first column at which the sum of exponentials reaches the goal, in (0, s]; one of probability 0 is never that, also
   where `clamp` left it 1.6e-38: the goal may lie in the rounding between this sum and that of the chunks. */
INLINE int64_t find_column(const void *row, int64_t columns, float m, float inv_temperature, int bfloat16,
                           const double *reached, double goal) {
    int64_t stretch = 0, last = (columns - 1) / STRETCH, column = -1;
    while (stretch < last && reached[stretch] < goal) stretch++;
    for (double sum = stretch ? reached[stretch - 1] : 0; column < 0 && stretch <= last; stretch++) {
        int64_t end = stretch < last ? (stretch + 1) * STRETCH : columns;
        for (int64_t j = stretch * STRETCH; j < end; j += LANES) {
            f32 x = j + LANES > columns ? load_tail(row, j, columns, bfloat16) : load(row, j, bfloat16);
            f32 d = (x - splat(m)) * splat(inv_temperature);
            i32 possible = d > splat(-87.0f);
            f32 e = pick(possible, exp_clamped(clamp(d)), splat(0.0f));
            for (int lane = 0; lane < LANES; lane++) {
                if (!possible[lane]) continue;
                sum += e[lane];
                column = j + lane; /* the last one stands where rounding keeps the sum below what the chunks made of it */
                if (sum >= goal) return column;
            }
        }
    }
    return column;
}

INLINE void forward_row(const Call *call, int64_t i, const void *row, int bfloat16, float *scratch, double *reached) {
    int64_t columns = call->columns, target = call->targets[i];
    float temperature = call->temperatures ? call->temperatures[i] : (float)call->temperature;
    const void *values = row;
    if (call->softcap > 0) {
        for (int64_t j = 0; j < columns; j += LANES) {
            f32 x = j + LANES > columns ? load_tail(row, j, columns, bfloat16) : load(row, j, bfloat16);
            x = cap(x, (float)call->softcap);
            memcpy(scratch + j, &x, sizeof x); /* scratch is LANES longer than the row */
        }
        values = scratch;
        bfloat16 = 0;
    }
    float second, m = largest(values, columns, bfloat16, call->top_probs != NULL, &second);
    int square = call->sum_sq_probs != NULL;
    float inverse = 1.0f / temperature;
    Sums sums = reached  ? sum_row(values, columns, m, inverse, bfloat16, 0, 1, reached)
                : square ? sum_row(values, columns, m, inverse, bfloat16, 0, 1, NULL)
                         : sum_row(values, columns, m, inverse, bfloat16, 0, 0, NULL);
    double n = (double)columns, mean = sums.t / n, state_n = n;
    if (!isfinite(sums.t) || !isfinite(sums.w) || sums.n != (double)(columns % LANES)) {
        sums = sum_row(values, columns, m, inverse, bfloat16, 1, 1, reached);
        n = sums.n;
        mean = sums.t * ((double)columns / n) / temperature;
        state_n = n < (double)columns ? -(n < 1 ? 1 : n) : n; /* negative: the backward must look for -inf */
        if (!(sums.s > 0)) sums.s = NAN;                     /* no support */
    }
    if (isnan(sums.s) && m != -INFINITY) m = NAN;
    if (reached) {
        if (!isfinite(sums.s) || isnan(call->uniform[i])) {
            call->drawn[i] = -1; /* there is no distribution to draw from, or nothing to draw with */
            return;
        }
        target = find_column(values, columns, m, inverse, bfloat16, reached, call->uniform[i] * sums.s);
        call->drawn[i] = target;
    }
    double log_s = log(sums.s), entropy = log_s - sums.w / sums.s;
    double m_scaled = (double)m / temperature;
    float x_y = bfloat16 ? read_one(call, row, target) : ((const float *)values)[target];
    double logprob = ((double)x_y - m) / temperature - log_s;
    if (call->logprob) call->logprob[i] = (float)logprob;
    if (call->entropy) call->entropy[i] = (float)entropy;
    if (call->self_certainty) call->self_certainty[i] = (float)(log_s - log(n) - mean);
    if (call->logsumexp) call->logsumexp[i] = (float)(m_scaled + log_s);
    if (call->sum_sq_probs) call->sum_sq_probs[i] = (float)(sums.q / (sums.s * sums.s));
    if (call->top_probs) {
        call->top_probs[2 * i] = (float)(1.0 / sums.s);
        call->top_probs[2 * i + 1] =
            second == -INFINITY ? (float)(0.0 * sums.s) : (float)(exp(((double)second - m) / temperature) / sums.s);
    }
    *part(call, STATE_M, i) = m;
    *part(call, STATE_LOG_S, i) = (float)log_s;
    *part(call, STATE_N, i) = (float)state_n;
    *part(call, STATE_ENTROPY, i) = (float)entropy;
    *part(call, STATE_SUM_SQ_PROBS, i) = (float)(sums.q / (sums.s * sums.s));
    /* 1 - p_y; of the largest, whose exponential is exactly 1, as the sum of the others. */
    *part(call, STATE_COMPLEMENT, i) = (float)(x_y == m ? (sums.s - 1) / sums.s : -expm1(logprob));
}

/* Room for a row of capped logits; NULL where there is no softcap. Returns 0, or -1 if there is no memory. */
INLINE int capped_row(const Call *call, float **scratch) {
    *scratch = NULL;
    return call->softcap > 0 && !(*scratch = malloc(sizeof(float) * (size_t)(call->columns + LANES))) ? -1 : 0;
}

INLINE void forward_one(const Call *call, int64_t i, float *scratch, double *reached) {
    if (call->bfloat16) forward_row(call, i, (const uint16_t *)call->logits + call->offsets[i], 1, scratch, reached);
    else forward_row(call, i, (const float *)call->logits + call->offsets[i], 0, scratch, reached);
}

/* Rows [begin, end): one thread's share. Returns 0, or -1 if there is no memory for a capped row. */
int rlif_forward(const Call *call, int64_t begin, int64_t end) {
    float *scratch;
    if (capped_row(call, &scratch)) return -1;
    for (int64_t i = begin; i < end; i++)
        if (call->targets[i] != IGNORE_INDEX) forward_one(call, i, scratch, NULL); /* else the outputs hold 0 */
    free(scratch);
    return 0;
}

/* The same, but the targets are drawn. */
int rlif_sample(const Call *call, int64_t begin, int64_t end) {
    double *reached = malloc(sizeof(double) * (size_t)(call->columns / STRETCH + 1));
    if (!reached) return -1;
    for (int64_t i = begin; i < end; i++) forward_one(call, i, NULL, reached);
    free(reached);
    return 0;
}

/* ---------------------------------------------------------------- backward */

typedef struct { float m, log_s, inv_temperature, c_p, c_plogp, c_pp, c_1, softcap; } RowTerms;

INLINE f32 gradient(f32 x, RowTerms r, int capped, int guard) {
    if (capped) x = cap(x, r.softcap);
    f32 d = (x - splat(r.m)) * splat(r.inv_temperature);
    f32 logp = clamp(d - splat(r.log_s)), p = exp_clamped(logp); /* rounding may leave logp a hair above 0 */
    f32 g = p * (splat(r.c_p) + splat(r.c_plogp) * logp + splat(r.c_pp) * p) - splat(r.c_1);
    if (capped) {
        f32 ratio = x * splat(1.0f / r.softcap);
        g = g * (splat(1.0f) - ratio * ratio);
    }
    return guard ? pick(x == splat(-INFINITY), splat(0.0f), g) : g;
}

INLINE void store(void *row, int64_t column, int64_t count, f32 g, int bfloat16) {
    if (bfloat16) {
        u32 bits = (u32)g;
        u32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
        i32 number = g == g;
        rounded = (rounded & (u32)number) | (0x7fc0 & ~(u32)number);
        u16 half = __builtin_convertvector(rounded, u16);
        memcpy((uint16_t *)row + column, &half, sizeof(uint16_t) * (size_t)count);
    } else {
        memcpy((float *)row + column, &g, sizeof(float) * (size_t)count);
    }
}

INLINE void backward_row(const void *row, void *grad, int64_t columns, RowTerms r, int bfloat16, int capped, int guard) {
    int64_t whole = columns / LANES * LANES;
    for (int64_t j = 0; j < whole; j += LANES)
        store(grad, j, LANES, gradient(load(row, j, bfloat16), r, capped, guard), bfloat16);
    if (whole < columns)
        store(grad, whole, columns - whole, gradient(load_tail(row, whole, columns, bfloat16), r, capped, guard), bfloat16);
}

/* The gradient of row i: r holds the coefficients over the temperature. At the target, where c_p is c_rest - c_y, stands
   p_y (c_rest + ...) - c_1 + c_y (1 - p_y), which does not cancel. */
INLINE void backward_one(const Call *call, int64_t i, RowTerms r, float c_rest, float c_y, int bfloat16) {
    size_t size = bfloat16 ? 2 : 4;
    const char *row = (const char *)call->logits + size * (size_t)call->offsets[i];
    char *grad = (char *)call->grad + size * (size_t)call->grad_offsets[i];
    int64_t columns = call->columns, target = call->targets[i];
    int capped = call->softcap > 0, guard = *part(call, STATE_N, i) < 0;
    f32 x_y = load_tail(row, target, target + 1, bfloat16); /* in place, the loop overwrites it */
    if (capped) backward_row(row, grad, columns, r, bfloat16, 1, 1);
    else if (guard) backward_row(row, grad, columns, r, bfloat16, 0, 1);
    else backward_row(row, grad, columns, r, bfloat16, 0, 0);
    if (c_y != 0 && x_y[0] != -INFINITY) {
        r.c_p = c_rest + 0 * r.c_p; /* NaN stays */
        f32 g = gradient(x_y, r, capped, 1);
        c_y *= *part(call, STATE_COMPLEMENT, i);
        if (capped) {
            float ratio = cap(x_y, r.softcap)[0] / r.softcap;
            c_y *= 1 - ratio * ratio;
        }
        store(grad, target, 1, g + splat(c_y), bfloat16);
    }
}

INLINE float temperature_of(const Call *call, int64_t i) {
    return call->temperatures ? call->temperatures[i] : (float)call->temperature;
}

INLINE RowTerms row_terms(const Call *call, int64_t i, float c_p, float c_plogp, float c_pp, float c_1) {
    return (RowTerms){
        *part(call, STATE_M, i), *part(call, STATE_LOG_S, i), 1.0f / temperature_of(call, i), c_p, c_plogp, c_pp,
        c_1, (float)call->softcap,
    };
}

/* A masked row's gradient is 0. Returns whether the row is one. */
INLINE int clear_masked(const Call *call, int64_t i) {
    if (call->targets[i] != IGNORE_INDEX) return 0;
    size_t size = call->bfloat16 ? 2 : 4;
    memset((char *)call->grad + size * (size_t)call->grad_offsets[i], 0, size * (size_t)call->columns);
    return 1;
}

/* Rows [begin, end): one thread's share. */
int rlif_backward(const Call *call, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        if (clear_masked(call, i)) continue;
        RowTerms r = row_terms(
            call, i, call->c_p[i], call->c_plogp ? call->c_plogp[i] : 0, call->c_pp ? call->c_pp[i] : 0,
            call->c_1 ? call->c_1[i] : 0
        );
        float c_y = call->c_y ? call->c_y[i] : 0;
        float c_rest = call->c_rest ? call->c_rest[i] : 0;
        if (call->bfloat16) backward_one(call, i, r, c_rest, c_y, 1);
        else backward_one(call, i, r, c_rest, c_y, 0);
    }
    return 0;
}

/* ---------------------------------------------------------------- grpo_loss: forward, loss and backward of each row */

/* The loss of row i from its statistics, and the terms of its gradient: policy_loss.py has the formulas. In float64: a
   row has but one of each. */
INLINE void token_loss(const Call *call, int64_t i, RowTerms *r, float *c_rest, float *c_y) {
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
    double g_self_certainty = -call->self_certainty_coef * mean_weight, entropy = *part(call, STATE_ENTROPY, i);
    loss *= weight;
    if (call->entropy_coef != 0) loss += g_entropy * entropy;
    if (call->self_certainty_coef != 0) loss += g_self_certainty * call->self_certainty[i];
    call->loss[i] = (float)loss;
    double rest = g_self_certainty - (call->entropy_coef != 0 ? g_entropy * entropy : 0);
    double n = fabs((double)*part(call, STATE_N, i));
    *r = row_terms(
        call, i, (float)((rest - g_y) / temperature), (float)(-g_entropy / temperature), 0,
        (float)(g_self_certainty / n / temperature)
    );
    *c_rest = (float)(rest / temperature);
    *c_y = (float)(g_y / temperature);
}

/* Rows [begin, end): one thread's share. Returns 0, or -1 if there is no memory for a capped row. */
int rlif_grpo(const Call *call, int64_t begin, int64_t end) {
    float *scratch;
    if (capped_row(call, &scratch)) return -1;
    for (int64_t i = begin; i < end; i++) {
        if (clear_masked(call, i)) continue;
        forward_one(call, i, scratch, NULL);
        RowTerms r;
        float c_rest, c_y;
        token_loss(call, i, &r, &c_rest, &c_y);
        if (call->bfloat16) backward_one(call, i, r, c_rest, c_y, 1);
        else backward_one(call, i, r, c_rest, c_y, 0);
    }
    free(scratch);
    return 0;
}

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
