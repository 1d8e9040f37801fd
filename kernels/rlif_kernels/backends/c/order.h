/* What the order of a row's logits says: the column of the largest, the rank of the target, the k largest columns.

   By the logits as they were given: a softcap keeps their order, but may round two of them to the same. Of columns that
   are equal the first comes first, so that nothing depends on who measured which chunk.

   The k largest: while a chunk lies in the first cache, the largest of each BLOCK of its columns is kept. The k-th largest
   of these is a bar: k blocks at least reach it, so the k largest columns do, and other blocks have none of them. The
   columns of these blocks are looked at once more, and those that reach the bar put in order. */

#pragma once

#include "call.h"

#define BLOCK 256 /* divides CHUNK */
#define MAX_TOP 64

/* What a chunk knows of its order, each where it is asked for. */
typedef struct {
    int64_t larger;              /* columns above rank_above */
    float largest;               /* for argmax */
    float blocks[CHUNK / BLOCK]; /* the largest of each, for top_ids */
} Order;

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

NOINLINE int64_t count_above(const float *x, int64_t count, float bar) {
    i32 above = {0};
    int64_t j = 0, all = 0;
    for (; j + LANES <= count; j += LANES) above -= load(x + j, FLOAT32) > splat(bar);
    for (int i = 0; i < LANES; i++) all += above[i];
    for (; j < count; j++) all += x[j] > bar;
    return all;
}

/* The first column that holds what one of them does. */
NOINLINE int64_t first_equal(const float *x, int64_t count, float value) {
    int64_t j = 0;
    while (j + LANES <= count && !any(load(x + j, FLOAT32) == splat(value))) j += LANES;
    while (j < count - 1 && x[j] != value) j++;
    return j;
}

/* Of a chunk: `x` are its logits after the softcap, m the largest of these. */
NOINLINE void measure_order(const Call *call, int64_t i, int64_t start, int64_t count, const float *x, float m, Order *to) {
    float room[CHUNK + LANES];
    if (call->softcap > 0) x = given_values(call, i, start, count, room);
    if (call->target_rank) to->larger = count_above(x, count, call->rank_above[i]);
    if (call->argmax) to->largest = call->softcap > 0 ? largest(x, count) : m;
    if (call->top_ids)
        for (int64_t j = 0; j < count; j += BLOCK) to->blocks[j / BLOCK] = largest(x + j, smallest(BLOCK, count - j));
}

/* The largest so far, in order. */
typedef struct {
    int64_t kept, most;
    float x[MAX_TOP];
    int64_t ids[MAX_TOP];
} Top;

INLINE int full(const Top *top) { return top->kept == top->most; }

/* Columns come in their order: one that equals another stands behind it, or is left out. */
INLINE void keep(Top *top, float x, int64_t id) {
    if (full(top) && !(x > top->x[top->kept - 1])) return;
    int64_t at = full(top) ? top->kept - 1 : top->kept++;
    for (; at > 0 && x > top->x[at - 1]; at--) top->x[at] = top->x[at - 1], top->ids[at] = top->ids[at - 1];
    top->x[at] = x, top->ids[at] = id;
}

/* Keep what is among the largest of `count` columns, of which none below the bar is. */
NOINLINE void keep_columns(const Call *call, int64_t i, int64_t start, int64_t count, float bar, Top *top) {
    float room[BLOCK + LANES];
    const float *x = given_values(call, i, start, count, room);
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES) {
        f32 v = load(x + j, FLOAT32);
        if (!any(full(top) ? v > splat(top->x[top->most - 1]) : v >= splat(bar))) continue;
        for (int lane = 0; lane < LANES; lane++)
            if (v[lane] >= bar && v[lane] > -INFINITY) keep(top, v[lane], start + j + lane);
    }
    for (; j < count; j++)
        if (x[j] >= bar && x[j] > -INFINITY) keep(top, x[j], start + j);
}
