/* The gradient of a row's logits from its statistics, and what grpo_loss makes of these in between. */

#include "call.h"

typedef struct { float m, log2_s, scale, entropy2, c_p, c_plogp, c_pp, c_uu, c_1, c_rest, c_y; } RowTerms;

/* The coefficients are over the temperature. */
INLINE RowTerms row_terms(
    const Call *call, int64_t i, float c_p, float c_plogp, float c_pp, float c_uu, float c_1, float c_rest, float c_y
) {
    float m = *part(call, STATE_M, i), log_s = *part(call, STATE_LOG_S, i);
    return (RowTerms){
        own_nan(m), own_nan((float)(log_s * LOG2_E)), scale_of(call, i),
        own_nan((float)(*part(call, STATE_ENTROPY, i) * LOG2_E)), own_nan(c_p), own_nan(c_plogp), own_nan(c_pp),
        own_nan(c_uu), own_nan(c_1), own_nan(c_rest), own_nan(c_y),
    };
}

INLINE RowTerms given_terms(const Call *call, int64_t i) {
    return row_terms(
        call, i, call->c_p[i], call->c_plogp ? call->c_plogp[i] : 0, call->c_pp ? call->c_pp[i] : 0,
        call->c_uu ? call->c_uu[i] : 0, call->c_1 ? call->c_1[i] : 0, call->c_rest ? call->c_rest[i] : 0,
        call->c_y ? call->c_y[i] : 0
    );
}

/* MORE: with a softcap, columns of -inf and c_pp; ALL: with c_uu too. */
enum { LOOP, MORE, ALL };

/* u (u + 2) of u = log p + H, which is given in units of log 2. */
INLINE f32 spread_term(f32 u) {
    f32 nats = u * splat((float)LN_2);
    return nats * (nats + splat(2.0f));
}

INLINE f32 gradient(f32 x, const RowTerms *r, f32 plogp, int terms, float softcap) {
    if (terms >= MORE && softcap > 0) x = cap(x, softcap);
    f32 logp = clamp((x - splat(r->m)) * splat(r->scale) - splat(r->log2_s)), p = exp2_clamped(logp);
    f32 factor = splat(r->c_p) + plogp * logp;
    if (terms >= MORE) factor += splat(r->c_pp) * p;
    if (terms == ALL) factor += splat(r->c_uu) * spread_term(logp + splat(r->entropy2));
    f32 g = p * factor - splat(r->c_1);
    if (terms >= MORE && softcap > 0) {
        f32 ratio = x * splat(1.0f / softcap);
        g = g * (splat(1.0f) - ratio * ratio);
    }
    return terms >= MORE ? pick(x == splat(-INFINITY), splat(0.0f), g) : g;
}

INLINE void backward_columns(
    const char *row, char *grad, int64_t count, RowTerms r, int dtype, int terms, float softcap
) {
    int64_t size = (int64_t)size_of(dtype), j = 0;
    f32 plogp = splat((float)(r.c_plogp * LN_2));
    for (; j + LANES <= count; j += LANES)
        store(grad + size * j, gradient(load(row + size * j, dtype), &r, plogp, terms, softcap), dtype);
    if (j < count) {
        f32 g = gradient(load_some(row + size * j, count - j, dtype), &r, plogp, terms, softcap);
        store_some(grad + size * j, g, count - j, dtype);
    }
}

#define BACKWARD(name, dtype)                                                                         \
    NOINLINE void name(const char *row, char *grad, int64_t count, RowTerms r) {                      \
        backward_columns(row, grad, count, r, dtype, LOOP, 0);                                        \
    }                                                                                                 \
    NOINLINE void name##_more(const char *row, char *grad, int64_t count, RowTerms r, float cap_at) { \
        backward_columns(row, grad, count, r, dtype, MORE, cap_at);                                   \
    }                                                                                                 \
    NOINLINE void name##_all(const char *row, char *grad, int64_t count, RowTerms r, float cap_at) {  \
        backward_columns(row, grad, count, r, dtype, ALL, cap_at);                                    \
    }

BACKWARD(backward_float32, FLOAT32)
BACKWARD(backward_bfloat16, BFLOAT16)
BACKWARD(backward_float16, FLOAT16)

/* The gradient at the target, where c_p is c_rest - c_y: p_y (c_rest + ...) - c_1 + c_y (1 - p_y), lest it cancel. */
INLINE float gradient_at_target(const Call *call, int64_t i, float x_y, RowTerms r) {
    double softcap = call->softcap, x = softcap > 0 ? softcap * tanh(x_y / softcap) : x_y;
    double logp = (x - r.m) / temperature_of(call, i) - *part(call, STATE_LOG_S, i), p = exp(logp);
    double product = p > 0 ? p * logp : 0, ratio = softcap > 0 ? x / softcap : 0;
    double u = p > 0 ? logp + *part(call, STATE_ENTROPY, i) : 0;
    double factor = r.c_rest + 0 * (double)r.c_p + r.c_pp * p + r.c_uu * u * (u + 2); /* NaN in c_p stays */
    double g = p * factor + r.c_plogp * product - r.c_1;
    return own_nan((float)((g + r.c_y * (double)*part(call, STATE_COMPLEMENT, i)) * (1 - ratio * ratio)));
}

/* Columns [start, end) of row i; a masked row's gradient is 0. */
NOINLINE void backward(const Call *call, int64_t i, int64_t start, int64_t end, RowTerms r) {
    int dtype = call->dtype;
    int64_t size = (int64_t)size_of(dtype), target = call->targets[i];
    const char *row = row_of(call, i) + size * start;
    char *grad = grad_row_of(call, i) + size * start;
    int at_target = r.c_y != 0 && target >= start && target < end;
    float x_y = at_target ? load_some(row + size * (target - start), 1, dtype)[0] : 0; /* in place, it is written over */
    if (call->c_uu) {
        if (dtype == FLOAT32) backward_float32_all(row, grad, end - start, r, (float)call->softcap);
        else if (dtype == BFLOAT16) backward_bfloat16_all(row, grad, end - start, r, (float)call->softcap);
        else backward_float16_all(row, grad, end - start, r, (float)call->softcap);
    } else if (call->softcap > 0 || call->c_pp || *part(call, STATE_N, i) < 0) {
        if (dtype == FLOAT32) backward_float32_more(row, grad, end - start, r, (float)call->softcap);
        else if (dtype == BFLOAT16) backward_bfloat16_more(row, grad, end - start, r, (float)call->softcap);
        else backward_float16_more(row, grad, end - start, r, (float)call->softcap);
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
    double least = ratio < call->low ? call->low : ratio;
    double capped = (ratio < call->delta ? ratio : call->delta) * advantage;
    double in_range = (least < call->high ? least : call->high) * advantage;
    int flows = capped <= in_range ? ratio <= call->delta : ratio >= call->low && ratio <= call->high;
    double loss = -(capped <= in_range ? capped : in_range), slope = flows ? -advantage * ratio : 0;
    if (ratio != ratio) loss = slope = ratio;
    call->clipped[i] = (ratio < call->low && advantage < 0) || (ratio > call->high && advantage > 0);
    if (call->ref_logprob) {
        double difference = (double)call->ref_logprob[i] - logprob, growth = expm1(difference);
        double kl = (call->kl_ratio != 0 ? ratio : 1) * (growth - difference);
        call->kl[i] = (float)kl;
        loss += call->beta * kl;
        slope -= call->beta * (call->kl_ratio != 0 ? ratio * difference : growth);
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
    return row_terms(
        call, i, (float)((rest - g_y) / temperature), (float)(-g_entropy / temperature), 0, 0,
        (float)(g_self_certainty / n / temperature), (float)(rest / temperature), (float)(g_y / temperature)
    );
}
