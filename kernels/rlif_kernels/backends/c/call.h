/* What a call of the library is given, and a row's logits as float32. */

#pragma once

#include "vectors.h"

#define NOINLINE static __attribute__((noinline))

#define GROUP (16 * LANES)
#define CHUNK 4096 /* columns; in float32 half of a first cache of 32 KB. GROUP divides it. */
#define IGNORE_INDEX (-100)
#define NO_COLUMN (-1)

/* Where the parts of the row state stand, which the forward leaves for the backward: RowState of rows.py. STATE_PARTS and
   FIELD_POINTERS come with the compiler's command, from the tables in Python. */
enum { STATE_PARTS };

typedef struct {
    const void *logits;
    const int64_t *offsets;      /* (rows,) of each row's first element */
    const int64_t *targets;      /* (rows,) */
    const float *temperatures;   /* (rows,) or NULL for the scalar */
    double temperature;
    double softcap;              /* 0: none */
    int64_t columns;
    int64_t rows;
    int64_t top; /* k of top_ids */
    int32_t dtype;
    int32_t threads;
    /* forward: logprob, entropy and the other fields of TokenStats, (rows,) each, or NULL where not asked for; top_probs is
       (rows, 2), top_ids (rows, top), state has all parts of each row; target_rank counts what is larger than rank_above,
       (rows,) */
    FIELD_POINTERS
    const float *rank_above;
    float *state;
    /* backward */
    void *grad;
    const int64_t *grad_offsets;
    const float *c_p, *c_plogp, *c_pp, *c_uu, *c_1, *c_y, *c_rest; /* (rows,) each, or NULL for 0 */
    /* grpo_loss: (rows,) each; old_logprob and ref_logprob (with kl) may be NULL */
    const float *advantage, *weight, *mean_weight, *old_logprob, *ref_logprob;
    float *loss, *kl;
    uint8_t *clipped;
    double low, high, delta, beta, entropy_coef, self_certainty_coef, kl_ratio;
    /* sample_tokens: (rows,) each; uniform is NULL where the targets are given */
    const double *uniform;
    int64_t *drawn;
} Call;

INLINE float *part(const Call *call, int which, int64_t i) { return call->state + which * call->rows + i; }

INLINE const char *row_of(const Call *call, int64_t i) {
    return (const char *)call->logits + (int64_t)size_of(call->dtype) * call->offsets[i];
}

INLINE char *grad_row_of(const Call *call, int64_t i) {
    return (char *)call->grad + (int64_t)size_of(call->dtype) * call->grad_offsets[i];
}

INLINE double temperature_of(const Call *call, int64_t i) {
    return call->temperatures ? call->temperatures[i] : (float)call->temperature;
}

/* What an exponent of 2 is per logit. */
INLINE float scale_of(const Call *call, int64_t i) { return (float)(LOG2_E / temperature_of(call, i)); }

/* A number that goes into each column: if NaN, then made new, because `store` counts on it. */
INLINE float own_nan(float c) { return c == c ? c : NAN; }

INLINE int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }

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

/* The logits of `count` columns, after a softcap (0: none): where they lie, or in the room, which is LANES longer. */
NOINLINE const float *capped_values(const Call *call, int64_t i, int64_t start, int64_t count, float softcap, float *room) {
    const char *from = row_of(call, i) + (int64_t)size_of(call->dtype) * start;
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

INLINE const float *values_of(const Call *call, int64_t i, int64_t start, int64_t count, float *room) {
    return capped_values(call, i, start, count, (float)call->softcap, room);
}

INLINE const float *given_values(const Call *call, int64_t i, int64_t start, int64_t count, float *room) {
    return capped_values(call, i, start, count, 0, room);
}
