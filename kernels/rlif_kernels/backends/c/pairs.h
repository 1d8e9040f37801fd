/* Divergences of pairs of rows, the student's and the teacher's: rlif_kernels/pairs.py has the formulas.

   A chunk's sums are relative to its own largest logits, as in forward.h, and chunks are put together in float64. The
   next look adds up a Jensen-Shannon divergence, the last one writes the gradient. d and D, the distances from the
   largest logit over the temperature, are in units of log 2; the difference of a pair is never that of clamped ones. */

#pragma once

#include <float.h>

#include "call.h"
#include "threads.h"

enum { FORWARD_KL, REVERSE_KL, JSD };
enum { SUMS = 1, MIXTURE = 2, GRADIENT = 4 };
/* PairSums, PairState and PAIR_OUTPUTS of pairs.py. */
enum { SUM_M, SUM_S, SUM_A, SUM_W, SUM_N, SUM_ONLY, TEACHER_SUMS };
enum { PAIR_M, PAIR_LOG_S, PAIR_TEACHER_M, PAIR_TEACHER_LOG_S, PAIR_MEAN, PAIR_GUARDED };
enum { VALUE, ENTROPY, TEACHER_ENTROPY, CROSS_ENTROPY, TEACHER_CROSS_ENTROPY };

typedef struct {
    Call student, teacher; /* logits, temperatures and softcaps; the gradient is the student's */
    double *sums;          /* (12, rows) */
    double *mixture;       /* (2, rows) */
    double *state;         /* (6, rows): written after SUMS, read by what comes later */
    float *values;         /* (5, rows), or NULL where these are sums of a slice */
    const float *weight;   /* (rows,) */
    double beta;
    int32_t kind, passes;
} PairCall;

INLINE double *of_row(const PairCall *call, double *table, int which, int64_t i) {
    return table + which * call->student.rows + i;
}

/* ---------------------------------------------------------------- the first look */

typedef struct { double s, a, w; } SideSums; /* a, w in units of log 2 */
typedef struct {
    SideSums student, teacher;
    float m, teacher_m;
    int32_t n, teacher_n, only, teacher_only;
} PairPart;

typedef struct { f32 s, a, w; } SideTerms;

/* Nothing below 2^LOWEST, where `exp2_clamped` has 2^LOWEST: times a difference of 1e38 that would be something. */
INLINE f32 exp2_or_nothing(f32 d) { return pick(d > splat(LOWEST), exp2_clamped(clamp(d)), splat(0.0f)); }

INLINE void add_side(f32 d, f32 difference, SideTerms *to) {
    f32 e = exp2_or_nothing(d);
    to->s += e;
    to->a += e * difference;
    to->w += e * d;
}

INLINE void add_pair(
    const float *x, const float *y, f32 m, f32 teacher_m, f32 scale, f32 teacher_scale, SideTerms *student,
    SideTerms *teacher
) {
    /* None is above 0. But a product at hand would be fused into the difference of both, which is to be 0 where d = t. */
    f32 d = smaller(splat(0.0f), (load(x, FLOAT32) - m) * scale);
    f32 t = smaller(splat(0.0f), (load(y, FLOAT32) - teacher_m) * teacher_scale);
    add_side(d, d - t, student);
    add_side(t, t - d, teacher);
}

INLINE void add_side_sums(const SideTerms *a, const SideTerms *b, f64 sums[3][2]) {
    add_widened(a->s + b->s, &sums[0][0], &sums[0][1]);
    add_widened(a->a + b->a, &sums[1][0], &sums[1][1]);
    add_widened(a->w + b->w, &sums[2][0], &sums[2][1]);
}

INLINE void add_totals(f64 sums[3][2], SideSums *to) {
    to->s += total(sums[0][0], sums[0][1]);
    to->a += total(sums[1][0], sums[1][1]);
    to->w += total(sums[2][0], sums[2][1]);
}

INLINE int32_t lanes_in(i32 mask) {
    int32_t n = 0;
    for (int lane = 0; lane < LANES; lane++) n -= mask[lane];
    return n;
}

/* With a guard on everything: columns outside a support, NaN, distances that overflow, and a chunk's last few. */
NOINLINE void sum_pair_guarded(
    const float *x, const float *y, int64_t columns, float scale, float teacher_scale, PairPart *to
) {
    f64 sums[2][3][2] = {{{{0}}}};
    f32 m = splat(to->m == -INFINITY ? 0 : to->m), teacher_m = splat(to->teacher_m == -INFINITY ? 0 : to->teacher_m);
    f32 nothing = splat(0.0f), least = splat(-FLT_MAX), outside = splat(-INFINITY);
    SideTerms none = {nothing, nothing, nothing};
    for (int64_t j = 0; j < columns; j += LANES) {
        int64_t some = smallest(columns - j, LANES);
        f32 v = some < LANES ? load_some(x + j, some, FLOAT32) : load(x + j, FLOAT32);
        f32 u = some < LANES ? load_some(y + j, some, FLOAT32) : load(y + j, FLOAT32);
        i32 inside = v != outside, teacher_inside = u != outside;
        f32 d = larger(least, (v - m) * splat(scale)), t = larger(least, (u - teacher_m) * splat(teacher_scale));
        d = pick(inside, d, nothing), t = pick(teacher_inside, t, nothing);
        f32 difference = pick(inside & teacher_inside, d - t, nothing);
        f32 e = pick(inside, exp2_or_nothing(d), nothing), f = pick(teacher_inside, exp2_or_nothing(t), nothing);
        SideTerms student = {e + (d - d) /* NaN where d is */, e * difference, e * d};
        SideTerms teacher = {f + (t - t), nothing - f * difference, f * t};
        add_side_sums(&student, &none, sums[0]);
        add_side_sums(&teacher, &none, sums[1]);
        to->n += lanes_in(inside), to->teacher_n += lanes_in(teacher_inside);
        to->only += lanes_in(inside & ~teacher_inside), to->teacher_only += lanes_in(teacher_inside & ~inside);
    }
    add_totals(sums[0], &to->student);
    add_totals(sums[1], &to->teacher);
}

NOINLINE void sum_pair(const float *x, const float *y, int64_t columns, float scale, float teacher_scale, PairPart *to) {
    f64 sums[2][3][2] = {{{{0}}}};
    f32 m = splat(to->m), teacher_m = splat(to->teacher_m), factor = splat(scale), teacher_factor = splat(teacher_scale);
    int64_t j = 0, whole = columns / LANES * LANES;
    while (j < whole) {
        int64_t end = smallest(j + GROUP, whole);
        SideTerms student = {.s = splat(0.0f)}, teacher = student, more = student, more_teacher = student;
        for (; j + 2 * LANES <= end; j += 2 * LANES) {
            add_pair(x + j, y + j, m, teacher_m, factor, teacher_factor, &student, &teacher);
            add_pair(x + j + LANES, y + j + LANES, m, teacher_m, factor, teacher_factor, &more, &more_teacher);
        }
        if (j < end) add_pair(x + j, y + j, m, teacher_m, factor, teacher_factor, &student, &teacher), j += LANES;
        add_side_sums(&student, &more, sums[0]);
        add_side_sums(&teacher, &more_teacher, sums[1]);
    }
    add_totals(sums[0], &to->student);
    add_totals(sums[1], &to->teacher);
    to->n += (int32_t)whole, to->teacher_n += (int32_t)whole;
    if (whole < columns) sum_pair_guarded(x + whole, y + whole, columns - whole, scale, teacher_scale, to);
}

NOINLINE void measure_pair(const PairCall *call, int64_t i, int64_t chunk, PairPart *part) {
    float room[CHUNK + LANES], teacher_room[CHUNK + LANES];
    int64_t start = chunk * CHUNK, columns = smallest(call->student.columns - start, CHUNK);
    const float *x = values_of(&call->student, i, start, columns, room);
    const float *y = values_of(&call->teacher, i, start, columns, teacher_room);
    float scale = scale_of(&call->student, i), teacher_scale = scale_of(&call->teacher, i);
    PairPart empty = {.m = largest(x, columns), .teacher_m = largest(y, columns)};
    *part = empty;
    sum_pair(x, y, columns, scale, teacher_scale, part);
    const SideSums *a = &part->student, *b = &part->teacher;
    if (isfinite(a->a + b->a) && isfinite(a->w + b->w)) return;
    *part = empty;
    sum_pair_guarded(x, y, columns, scale, teacher_scale, part);
}

/* What chunk k adds to one side's sums, relative to the largest logits of all. */
INLINE void add_part(const SideSums *part, double shift, double other_shift, SideSums *to) {
    double f = exp(shift);
    to->s += f * part->s;
    to->a += f > 0 ? f * (part->a * LN_2 + (shift - other_shift) * part->s) : 0;
    to->w += f > 0 ? f * (part->w * LN_2 + shift * part->s) : 0;
    if (part->s != part->s) to->s = NAN;
}

INLINE double at_least_0(double x) { return x < 0 ? 0 : x; }

/* Row i from its chunks: the sums, and the state and the results that follow from them. */
NOINLINE void finish_pair(const PairCall *call, int64_t i, const PairPart *parts, int64_t chunks) {
    double temperature = temperature_of(&call->student, i), teacher_temperature = temperature_of(&call->teacher, i);
    double n = 0, teacher_n = 0, only = 0, teacher_only = 0, m = -INFINITY, teacher_m = -INFINITY;
    SideSums student = {0}, teacher = {0};
    for (int64_t k = 0; k < chunks; k++) {
        if (parts[k].m > m) m = parts[k].m;
        if (parts[k].teacher_m > teacher_m) teacher_m = parts[k].teacher_m;
    }
    for (int64_t k = 0; k < chunks; k++) {
        const PairPart *part = &parts[k];
        /* Without support on one side there is no difference to shift; then the KLs are infinite anyhow. */
        double shift = part->n ? ((double)part->m - m) / temperature : 0;
        double teacher_shift = part->teacher_n ? ((double)part->teacher_m - teacher_m) / teacher_temperature : 0;
        if (part->n) add_part(&part->student, shift, teacher_shift, &student);
        if (part->teacher_n) add_part(&part->teacher, teacher_shift, shift, &teacher);
        n += part->n, teacher_n += part->teacher_n, only += part->only, teacher_only += part->teacher_only;
    }
    const double sums[] = {
        m, student.s, student.a, student.w, n, only, teacher_m, teacher.s, teacher.a, teacher.w, teacher_n, teacher_only,
    };
    for (int which = 0; which < 2 * TEACHER_SUMS; which++) *of_row(call, call->sums, which, i) = sums[which];
    if (!call->values) return;

    double s = student.s > 0 ? student.s : NAN, teacher_s = teacher.s > 0 ? teacher.s : NAN;
    double poison = 0 * (s + teacher_s), log_s = log(s) + poison, teacher_log_s = log(teacher_s) + poison;
    int infinite = only > 0 && !isnan(log_s), teacher_infinite = teacher_only > 0 && !isnan(log_s);
    double reverse = at_least_0(student.a / s - log_s + teacher_log_s);
    double forward = at_least_0(teacher.a / teacher_s - teacher_log_s + log_s);
    const double state[] = {
        m, log_s, teacher_m, teacher_log_s, infinite ? NAN : reverse,
        n < (double)call->student.columns || teacher_n < (double)call->student.columns,
    };
    for (int which = 0; which <= PAIR_GUARDED; which++) *of_row(call, call->state, which, i) = state[which];
    float *value = call->values + i;
    int64_t rows = call->student.rows;
    value[VALUE * rows] = call->kind == FORWARD_KL ? (teacher_infinite ? INFINITY : (float)forward)
                                                   : (infinite ? INFINITY : (float)reverse);
    value[ENTROPY * rows] = (float)(log_s - student.w / s);
    value[TEACHER_ENTROPY * rows] = (float)(teacher_log_s - teacher.w / teacher_s);
    value[CROSS_ENTROPY * rows] = infinite ? INFINITY : (float)(teacher_log_s - (student.w - student.a) / s);
    value[TEACHER_CROSS_ENTROPY * rows] =
        teacher_infinite ? INFINITY : (float)(log_s - (teacher.w - teacher.a) / teacher_s);
}

/* ---------------------------------------------------------------- later looks */

/* The lowest float32 stands for the distance of a logit of -inf: its probability is nothing, and no difference is NaN.
   NaN is made new: `store` counts on it. */
typedef struct { float m, scale, log2_s; } Normaliser;

INLINE Normaliser normaliser(const PairCall *call, const Call *side, int64_t i, int m, int log_s) {
    float log2_s = (float)(*of_row(call, call->state, log_s, i) * LOG2_E);
    return (Normaliser){own_nan((float)*of_row(call, call->state, m, i)), scale_of(side, i), own_nan(log2_s)};
}

INLINE f32 log2_probability(f32 x, const Normaliser *of) {
    return larger(splat(-FLT_MAX), (x - splat(of->m)) * splat(of->scale)) - splat(of->log2_s);
}

/* log2(p/m) and log2(q/m), m = (1 - beta) p + beta q: relative to the larger of the two, exactly 0 where p = q. */
INLINE void log2_ratios(f32 logp, f32 logq, float beta, float rest, f32 *of_student, f32 *of_teacher) {
    f32 difference = logq - logp;
    i32 teacher_larger = difference > splat(0.0f);
    f32 smaller_one = exp2_or_nothing(pick(teacher_larger, -difference, difference));
    f32 a = pick(teacher_larger, splat(rest), splat(beta)), b = pick(teacher_larger, splat(beta), splat(rest));
    f32 larger_one = -log2_(a * smaller_one + b);
    *of_student = pick(teacher_larger, larger_one - difference, larger_one);
    *of_teacher = pick(teacher_larger, larger_one, larger_one + difference);
}

typedef struct { double student, teacher; } MixturePart;

NOINLINE MixturePart measure_mixture(const PairCall *call, int64_t i, int64_t chunk) {
    float room[CHUNK + LANES], teacher_room[CHUNK + LANES], beta = (float)call->beta, rest = (float)(1 - call->beta);
    int64_t start = chunk * CHUNK, columns = smallest(call->student.columns - start, CHUNK);
    const float *x = values_of(&call->student, i, start, columns, room);
    const float *y = values_of(&call->teacher, i, start, columns, teacher_room);
    Normaliser student = normaliser(call, &call->student, i, PAIR_M, PAIR_LOG_S);
    Normaliser teacher = normaliser(call, &call->teacher, i, PAIR_TEACHER_M, PAIR_TEACHER_LOG_S);
    f64 sums[2][2] = {{{0}}};
    for (int64_t j = 0; j < columns;) {
        f32 a = splat(0.0f), b = splat(0.0f);
        for (int64_t end = smallest(j + GROUP, columns); j < end; j += LANES) {
            int64_t some = smallest(columns - j, LANES); /* beyond the last columns there are logits of -inf */
            f32 v = some < LANES ? load_some(x + j, some, FLOAT32) : load(x + j, FLOAT32);
            f32 u = some < LANES ? load_some(y + j, some, FLOAT32) : load(y + j, FLOAT32);
            f32 logp = log2_probability(v, &student), logq = log2_probability(u, &teacher), of_student, of_teacher;
            log2_ratios(logp, logq, beta, rest, &of_student, &of_teacher);
            a += exp2_or_nothing(logp) * of_student;
            b += exp2_or_nothing(logq) * of_teacher;
        }
        add_widened(a, &sums[0][0], &sums[0][1]);
        add_widened(b, &sums[1][0], &sums[1][1]);
    }
    return (MixturePart){LN_2 * total(sums[0][0], sums[0][1]), LN_2 * total(sums[1][0], sums[1][1])};
}

NOINLINE void finish_mixture(const PairCall *call, int64_t i, const MixturePart *parts, int64_t chunks) {
    double student = 0, teacher = 0;
    for (int64_t k = 0; k < chunks; k++) student += parts[k].student, teacher += parts[k].teacher;
    *of_row(call, call->mixture, 0, i) = student, *of_row(call, call->mixture, 1, i) = teacher;
    if (!call->values) return;
    *of_row(call, call->state, PAIR_MEAN, i) = student;
    call->values[VALUE * call->student.rows + i] = (float)at_least_0((1 - call->beta) * student + call->beta * teacher);
}

typedef struct {
    Normaliser student, teacher;
    float factor, offset; /* of log 2 p/q or log2 p/m, and what is subtracted; of p - q the factor alone */
    float beta, rest, softcap;
} GradientTerms;

/* ALL: with a softcap, or columns outside a support. */
INLINE f32 pair_gradient(f32 x, f32 y, const GradientTerms *r, int kind, int all) {
    f32 logp = log2_probability(x, &r->student), logq = log2_probability(y, &r->teacher), p = exp2_or_nothing(logp), g;
    /* p first: a factor times the lowest float32 would overflow, and be NaN times p = 0. */
    if (kind == FORWARD_KL) {
        g = (p - exp2_or_nothing(logq)) * splat(r->factor);
    } else if (kind == REVERSE_KL) {
        g = p * (logp - logq) * splat(r->factor) - p * splat(r->offset);
    } else {
        f32 of_student, of_teacher;
        log2_ratios(logp, logq, r->beta, r->rest, &of_student, &of_teacher);
        g = p * of_student * splat(r->factor) - p * splat(r->offset);
    }
    if (all && r->softcap > 0) {
        f32 ratio = x * splat(1.0f / r->softcap);
        g = g * (splat(1.0f) - ratio * ratio);
    }
    return all ? pick(x == splat(-INFINITY), splat(0.0f), g) : g;
}

INLINE void pair_gradients(const float *x, const float *y, float *g, int64_t columns, GradientTerms r, int kind, int all) {
    int64_t j = 0;
    for (; j + LANES <= columns; j += LANES)
        store(g + j, pair_gradient(load(x + j, FLOAT32), load(y + j, FLOAT32), &r, kind, all), FLOAT32);
    if (j < columns) {
        f32 v = load_some(x + j, columns - j, FLOAT32), u = load_some(y + j, columns - j, FLOAT32);
        store_some(g + j, pair_gradient(v, u, &r, kind, all), columns - j, FLOAT32);
    }
}

#define PAIR_GRADIENTS(name, kind)                                                                            \
    NOINLINE void name(const float *x, const float *y, float *g, int64_t columns, GradientTerms r) {          \
        pair_gradients(x, y, g, columns, r, kind, 0);                                                         \
    }                                                                                                         \
    NOINLINE void name##_all(const float *x, const float *y, float *g, int64_t columns, GradientTerms r) {    \
        pair_gradients(x, y, g, columns, r, kind, 1);                                                         \
    }

PAIR_GRADIENTS(forward_kl_gradients, FORWARD_KL)
PAIR_GRADIENTS(reverse_kl_gradients, REVERSE_KL)
PAIR_GRADIENTS(jsd_gradients, JSD)

INLINE void narrow(const float *from, void *to, int64_t columns, int dtype) {
    int64_t size = (int64_t)size_of(dtype), j = 0;
    for (; j + LANES <= columns; j += LANES) store((char *)to + size * j, load(from + j, FLOAT32), dtype);
    if (j < columns) store_some((char *)to + size * j, load_some(from + j, columns - j, FLOAT32), columns - j, dtype);
}

NOINLINE void write_gradient(const PairCall *call, int64_t i, int64_t chunk) {
    float room[CHUNK + LANES], teacher_room[CHUNK + LANES], wide[CHUNK + LANES];
    const Call *student = &call->student;
    int64_t start = chunk * CHUNK, columns = smallest(student->columns - start, CHUNK);
    char *grad = grad_row_of(student, i) + (int64_t)size_of(student->dtype) * start;
    double mean = *of_row(call, call->state, PAIR_MEAN, i), weight = call->weight[i] / temperature_of(student, i);
    int kind = call->kind, all = student->softcap > 0 || *of_row(call, call->state, PAIR_GUARDED, i) > 0;
    if (kind == JSD) weight *= 1 - call->beta;
    if (isnan(*of_row(call, call->state, PAIR_LOG_S, i))) {
        for (int64_t j = 0; j < columns; j++) wide[j] = NAN;
        narrow(wide, grad, columns, student->dtype);
        return;
    }
    GradientTerms r = {
        normaliser(call, student, i, PAIR_M, PAIR_LOG_S),
        normaliser(call, &call->teacher, i, PAIR_TEACHER_M, PAIR_TEACHER_LOG_S),
        own_nan((float)(kind == FORWARD_KL ? weight : weight * LN_2)),
        own_nan((float)(weight * mean)), (float)call->beta, (float)(1 - call->beta), (float)student->softcap,
    };
    const float *x = values_of(student, i, start, columns, room);
    const float *y = values_of(&call->teacher, i, start, columns, teacher_room);
    float *g = student->dtype == FLOAT32 ? (float *)grad : wide;
    if (kind == FORWARD_KL) (all ? forward_kl_gradients_all : forward_kl_gradients)(x, y, g, columns, r);
    else if (kind == REVERSE_KL) (all ? reverse_kl_gradients_all : reverse_kl_gradients)(x, y, g, columns, r);
    else (all ? jsd_gradients_all : jsd_gradients)(x, y, g, columns, r);
    if (student->dtype == BFLOAT16) narrow(wide, grad, columns, BFLOAT16);
    else if (student->dtype == FLOAT16) narrow(wide, grad, columns, FLOAT16);
}

/* ---------------------------------------------------------------- rows, and who does them */

typedef struct {
    Job job; /* of rows, or of chunks of rows if there are `parts` */
    const PairCall *call;
    int pass;
    int64_t chunks;
    PairPart *parts;      /* (rows, chunks), where threads share rows */
    MixturePart *mixture; /* the same */
    int64_t *left;        /* (rows,): chunks that nobody has measured yet */
} PairJob;

typedef union { PairPart part; MixturePart mixture; } AnyPart;

static void work_on_pair(Job *job, int64_t i, void *room) {
    PairJob *pairs = (PairJob *)job;
    const PairCall *call = pairs->call;
    int64_t chunks = pairs->chunks, size = (int64_t)size_of(call->student.dtype);
    if (call->student.targets[i] == IGNORE_INDEX) {
        if (call->passes & GRADIENT) memset(grad_row_of(&call->student, i), 0, (size_t)(size * call->student.columns));
        return; /* the other outputs hold 0 */
    }
    if (call->passes & SUMS) {
        PairPart *parts = room;
        for (int64_t k = 0; k < chunks; k++) measure_pair(call, i, k, &parts[k]);
        finish_pair(call, i, parts, chunks);
    }
    if (call->passes & MIXTURE) {
        MixturePart *parts = room;
        for (int64_t k = 0; k < chunks; k++) parts[k] = measure_mixture(call, i, k);
        finish_mixture(call, i, parts, chunks);
    }
    if (call->passes & GRADIENT)
        for (int64_t k = 0; k < chunks; k++) write_gradient(call, i, k);
}

/* One look at a chunk of a row; whoever takes the last one of a row finishes it. */
static void work_on_pair_chunk(Job *job, int64_t item, void *room) {
    PairJob *pairs = (PairJob *)job;
    const PairCall *call = pairs->call;
    int64_t chunks = pairs->chunks, i = item / chunks, k = item % chunks, size = (int64_t)size_of(call->student.dtype);
    (void)room;
    if (call->student.targets[i] == IGNORE_INDEX) {
        int64_t columns = smallest(call->student.columns - k * CHUNK, CHUNK);
        char *grad = grad_row_of(&call->student, i) + size * k * CHUNK;
        if (pairs->pass == GRADIENT) memset(grad, 0, (size_t)(size * columns));
        return;
    }
    if (pairs->pass == GRADIENT) {
        write_gradient(call, i, k);
        return;
    }
    if (pairs->pass == SUMS) measure_pair(call, i, k, &pairs->parts[item]);
    else pairs->mixture[item] = measure_mixture(call, i, k);
    if (__atomic_sub_fetch(&pairs->left[i], 1, __ATOMIC_ACQ_REL)) return;
    if (pairs->pass == SUMS) finish_pair(call, i, pairs->parts + i * chunks, chunks);
    else finish_mixture(call, i, pairs->mixture + i * chunks, chunks);
}

/* Returns 0, or -1 if there is no memory. */
static int run_pairs(const PairCall *call) {
    int64_t rows = call->student.rows, chunks = (call->student.columns + CHUNK - 1) / CHUNK;
    int threads = call->student.threads;
    PairJob pairs = {.call = call, .chunks = chunks};
    if (threads == 1 || chunks == 1 || rows >= 8 * threads) {
        pairs.job = (Job){.work_on = work_on_pair, .items = rows, .take = 1 + rows / (32 * threads)};
        pairs.job.room_bytes = sizeof(AnyPart) * (size_t)chunks;
        run(&pairs.job, threads);
        return pairs.job.failed ? -1 : 0;
    }
    /* Few rows: threads share them. */
    pairs.job = (Job){.work_on = work_on_pair_chunk, .items = rows * chunks, .take = 1};
    pairs.parts = malloc(sizeof(PairPart) * (size_t)(rows * chunks));
    pairs.mixture = malloc(sizeof(MixturePart) * (size_t)(rows * chunks));
    pairs.left = malloc(sizeof(int64_t) * (size_t)rows);
    int failed = !pairs.parts || !pairs.mixture || !pairs.left;
    for (int pass = SUMS; !failed && pass <= GRADIENT; pass <<= 1) {
        if (!(call->passes & pass)) continue;
        for (int64_t i = 0; i < rows; i++) pairs.left[i] = chunks;
        pairs.pass = pass;
        run(&pairs.job, threads);
    }
    free(pairs.parts), free(pairs.mixture), free(pairs.left);
    return failed ? -1 : 0;
}
