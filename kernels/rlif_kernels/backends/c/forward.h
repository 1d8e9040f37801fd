/* Statistics of a chunk, and of a row from its chunks; the formulas are in kernels.c. */

#include "order.h"

/* ---------------------------------------------------------------- a chunk */

/* The moments of d under e, in units of log 2, for the variance: added up in float64 from the first term on, because what
   is left of v/s - (w/s)^2 may be a small part of either. */
typedef struct { double s, w, v; } Spread;

typedef struct {
    double s, w, t, q; /* w in units of log 2 */
    Spread spread;     /* where varentropy is asked for */
    float m, second;   /* the largest logit, and the next one where top_probs asks for it */
    int32_t n, guarded;
    Order order;
} Part;

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

typedef struct { f64 s[2], w[2], v[2]; } WideTerms;

INLINE void add_spread(f32 e, f32 d, WideTerms *to) {
    f64 wide_e[2], wide_d[2];
    widen(e, &wide_e[0], &wide_e[1]);
    widen(d, &wide_d[0], &wide_d[1]);
    for (int k = 0; k < 2; k++) {
        f64 product = wide_e[k] * wide_d[k];
        to->s[k] += wide_e[k];
        to->w[k] += product;
        to->v[k] += product * wide_d[k];
    }
}

INLINE void add_moments(const WideTerms *terms, Spread *to) {
    to->s += total(terms->s[0], terms->s[1]);
    to->w += total(terms->w[0], terms->w[1]);
    to->v += total(terms->v[0], terms->v[1]);
}

/* One vector's terms. Of the square, what is below 2^-124 is that, lest it be subnormal. `wide`: NULL, or the moments. */
INLINE void add_terms(const float *x, f32 m, f32 scale, int square, Terms *to, WideTerms *wide) {
    f32 difference = load(x, FLOAT32) - m, d = clamp(difference * scale), e = exp2_clamped(d);
    to->s += e;
    to->w += e * d;
    to->t += difference;
    if (wide) add_spread(e, d, wide);
    if (square) {
        e = larger(splat(0x1p-62f), e);
        to->q += e * e;
    }
}

/* The columns where something is -inf, NaN, or so low that its distance overflows; and a row's last few. A column of -inf
   is outside the support: it adds nothing. */
NOINLINE void sum_guarded(const float *x, int64_t count, float m, float scale, Part *to) {
    f64 sums[5][2] = {{{0}}};
    WideTerms wide = {{{0}}};
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
        add_spread(e, d, &wide);
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
    add_moments(&wide, &to->spread);
}

INLINE void sum_freely(const float *x, int64_t count, float m, float scale, int square, int spread, Part *to) {
    f64 sums[4][2] = {{{0}}};
    WideTerms moments = {{{0}}}, *wide = spread ? &moments : NULL;
    f32 shift = splat(m), factor = splat(scale);
    int64_t j = 0, whole = count / LANES * LANES;
    while (j < whole) {
        int64_t end = smallest(j + GROUP, whole);
        Terms a = {.s = splat(0.0f)}, b = a;
        for (; j + 2 * LANES <= end; j += 2 * LANES) {
            add_terms(x + j, shift, factor, square, &a, wide);
            add_terms(x + j + LANES, shift, factor, square, &b, wide);
        }
        if (j < end) add_terms(x + j, shift, factor, square, &a, wide), j += LANES;
        add_widened(a.s + b.s, &sums[0][0], &sums[0][1]);
        add_widened(a.w + b.w, &sums[1][0], &sums[1][1]);
        add_widened(a.t + b.t, &sums[2][0], &sums[2][1]);
        if (square) add_widened(a.q + b.q, &sums[3][0], &sums[3][1]);
    }
    to->s += total(sums[0][0], sums[0][1]);
    to->w += total(sums[1][0], sums[1][1]);
    to->t += total(sums[2][0], sums[2][1]);
    if (square) to->q += total(sums[3][0], sums[3][1]);
    if (spread) add_moments(&moments, &to->spread);
    to->n += (int32_t)whole;
    if (whole < count) sum_guarded(x + whole, count - whole, m, scale, to);
}

NOINLINE void sum_three(const float *x, int64_t count, float m, float scale, Part *to) {
    sum_freely(x, count, m, scale, 0, 0, to);
}

NOINLINE void sum_four(const float *x, int64_t count, float m, float scale, Part *to) {
    sum_freely(x, count, m, scale, 1, 0, to);
}

NOINLINE void sum_all(const float *x, int64_t count, float m, float scale, Part *to) {
    sum_freely(x, count, m, scale, 1, 1, to);
}

INLINE void sum_as(const Call *call, const float *x, int64_t count, float scale, Part *to) {
    if (to->guarded) sum_guarded(x, count, to->m, scale, to);
    else if (call->varentropy) sum_all(x, count, to->m, scale, to);
    else if (call->sum_sq_probs) sum_four(x, count, to->m, scale, to);
    else sum_three(x, count, to->m, scale, to);
}

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
    if (call->argmax || call->target_rank || call->top_ids)
        measure_order(call, i, start, count, x, part->m, &part->order);
}

/* ---------------------------------------------------------------- a row */

/* The moments of a part whose d are relative to its own largest logit, d below that of the row. */
INLINE void fold_spread(const Spread *part, double d, double f, Spread *row) {
    double w = part->w * LN_2;
    row->s += f * part->s;
    row->w += f * (w + d * part->s);
    row->v += f * (part->v * LN_2 * LN_2 + 2 * d * w + d * d * part->s);
}

/* What the chunks make together, relative to the largest logit of all. */
INLINE Part fold(const Part *parts, int64_t chunks, double temperature, double *n) {
    Part row = {.m = -INFINITY, .second = -INFINITY};
    for (int64_t k = 0; k < chunks; k++) {
        place(parts[k].m, &row.m, &row.second);
        place(parts[k].second, &row.m, &row.second);
    }
    *n = 0;
    for (int64_t k = 0; k < chunks; k++) {
        const Part *part = &parts[k];
        if (part->n == 0) continue;
        double shift = part->m == row.m ? 0 : (double)part->m - row.m, d = shift / temperature, f = exp(d);
        row.s += f * part->s;
        row.w += f > 0 ? f * (part->w * LN_2 + d * part->s) : 0;
        row.t += part->t + shift * part->n;
        if (f > 0) fold_spread(&part->spread, d, f, &row.spread);
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

NOINLINE int64_t find_argmax(const Call *call, int64_t i, const Part *parts, int64_t chunks) {
    float room[CHUNK + LANES];
    int64_t best = 0;
    for (int64_t k = 1; k < chunks; k++)
        if (parts[k].order.largest > parts[best].order.largest) best = k;
    int64_t start = best * CHUNK, count = smallest(call->columns - start, CHUNK);
    return start + first_equal(given_values(call, i, start, count, room), count, parts[best].order.largest);
}

INLINE float largest_of_block(const Part *parts, int64_t start) {
    return parts[start / CHUNK].order.blocks[start % CHUNK / BLOCK];
}

NOINLINE void find_top(const Call *call, int64_t i, const Part *parts, int64_t *ids) {
    int64_t columns = call->columns;
    Top blocks = {.most = call->top}, top = {.most = call->top};
    for (int64_t start = 0; start < columns; start += BLOCK) keep(&blocks, largest_of_block(parts, start), start);
    float bar = full(&blocks) ? blocks.x[blocks.most - 1] : -INFINITY;
    for (int64_t start = 0; start < columns; start += BLOCK)
        if (largest_of_block(parts, start) >= bar)
            keep_columns(call, i, start, smallest(BLOCK, columns - start), bar, &top);
    for (int64_t k = 0; k < call->top; k++) ids[k] = k < top.kept ? top.ids[k] : NO_COLUMN;
}

/* argmax, target_rank and top_ids of row i; of one that is no distribution there are none. */
NOINLINE void finish_order(const Call *call, int64_t i, const Part *parts, int64_t chunks, int defined) {
    if (call->argmax) call->argmax[i] = defined ? find_argmax(call, i, parts, chunks) : NO_COLUMN;
    if (call->target_rank) {
        int64_t larger = 0;
        for (int64_t k = 0; k < chunks; k++) larger += parts[k].order.larger;
        call->target_rank[i] = defined ? larger : NO_COLUMN;
    }
    if (call->top_ids && defined) find_top(call, i, parts, call->top_ids + i * call->top);
    for (int64_t k = 0; call->top_ids && !defined && k < call->top; k++) call->top_ids[i * call->top + k] = NO_COLUMN;
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
    double varentropy = 0;
    if (call->varentropy) {
        double mean = row.spread.w / row.spread.s, variance = row.spread.v / row.spread.s - mean * mean;
        varentropy = isnan(row.s) ? NAN : variance < 0 ? 0 : variance;
    }
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
    if (call->varentropy) call->varentropy[i] = (float)varentropy;
    if (call->argmax || call->target_rank || call->top_ids) finish_order(call, i, parts, chunks, !isnan(row.s));
    *part(call, STATE_M, i) = m;
    *part(call, STATE_LOG_S, i) = (float)log_s;
    /* Negative: the backward must look for -inf. */
    *part(call, STATE_N, i) = (float)(n == (double)columns ? n : n < 1 ? -1 : -n);
    *part(call, STATE_ENTROPY, i) = (float)entropy;
    *part(call, STATE_SUM_SQ_PROBS, i) = (float)squares;
    *part(call, STATE_VARENTROPY, i) = (float)varentropy;
    /* 1 - p_y; of the largest, as the sum of the others. */
    *part(call, STATE_COMPLEMENT, i) = (float)(x_y == m ? (row.s - own->s + others) / row.s : -expm1(logprob));
}
