/* token_stats, sample_tokens and grpo_loss on the CPU, and in pairs.h divergences.

   A row is cut into chunks of CHUNK columns. Each is measured relative to its own largest logit m, while it lies in the
   first cache: one exponential per column,

       d = (x - m) / temperature,  e = exp d,  s = sum e,  w = sum e d,  t = sum (x - m),  q = sum e^2,  n = columns

   and where varentropy is asked for v = sum e d^2, with s and w of its own in float64. The chunks are put together in
   their order, in float64. So a row's bits depend on neither its company, nor the number of threads, nor which of them
   measured which chunk: where rows are few, threads share the chunks of each.

   Sampling: the token lies in the chunk where the sum reaches u s, for a random number u; that chunk is looked through
   once more.

   Backward, per row: dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j + c_uu u_j (u_j + 2)) - c_1 + c_y 1[j = y], with
   p_j = exp(d_j - log s) and u_j = log p_j + H: functional.py says what the coefficients are.

   What the order of the columns says (order.h) is found beside the sums, where it is asked for.

   A chunk's own sums go to float64 every GROUP columns: a float32 sum that starts with one large term rounds the many
   small ones after it all in one direction, beyond what the contract allows. */

#ifdef __linux__
#define _GNU_SOURCE
#include <sys/mman.h>
#endif
#include <stdlib.h>

#include "threads.h"
#include "forward.h"
#include "backward.h"
#include "pairs.h"

enum { FORWARD = 1, BACKWARD_PASS = 2 };

typedef struct {
    Job job; /* of rows, or of chunks of rows if there are `parts` */
    const Call *call;
    int passes;
    int64_t chunks;
    Part *parts;         /* (rows, chunks), where threads share rows */
    int64_t *left;       /* (rows,): chunks that nobody has measured yet */
    RowTerms *terms;     /* (rows,): of the backward after a loss */
} StatsJob;

INLINE int masked(const Call *call, int64_t i) { return !call->uniform && call->targets[i] == IGNORE_INDEX; }

/* Row i, whole. */
INLINE void work_on_row(StatsJob *job, int64_t i, Part *parts) {
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
INLINE void work_on_chunk(StatsJob *job, int64_t i, int64_t k) {
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

static void work_on_stats(Job *job, int64_t item, void *room) {
    StatsJob *stats = (StatsJob *)job;
    if (stats->left) work_on_chunk(stats, item / stats->chunks, item % stats->chunks);
    else work_on_row(stats, item, room);
}

/* Returns 0, or -1 if there is no memory. */
static int run_passes(const Call *call, int passes) {
    int64_t chunks = (call->columns + CHUNK - 1) / CHUNK, threads = call->threads;
    StatsJob stats = {.call = call, .passes = passes, .chunks = chunks};
    stats.job = (Job){.work_on = work_on_stats, .items = call->rows, .take = 1 + call->rows / (32 * threads)};
    if (threads == 1 || chunks == 1 || call->rows >= 8 * threads) {
        if (passes & FORWARD) stats.job.room_bytes = sizeof(Part) * (size_t)chunks;
        run(&stats.job, call->threads);
        return stats.job.failed ? -1 : 0;
    }
    /* Few rows: threads share them. */
    stats.job.items = call->rows * chunks;
    stats.job.take = 1;
    stats.left = malloc(sizeof(int64_t) * (size_t)call->rows);
    stats.parts = malloc(sizeof(Part) * (size_t)stats.job.items);
    if (passes == (FORWARD | BACKWARD_PASS)) stats.terms = malloc(sizeof(RowTerms) * (size_t)call->rows);
    int failed = !stats.left || !stats.parts || (passes == (FORWARD | BACKWARD_PASS) && !stats.terms);
    if (!failed) {
        for (int64_t i = 0; i < call->rows; i++) stats.left[i] = chunks;
        for (int pass = FORWARD; pass <= BACKWARD_PASS; pass++) {
            stats.passes = passes & pass;
            if (stats.passes) run(&stats.job, call->threads);
        }
    }
    free(stats.left), free(stats.parts), free(stats.terms);
    return failed ? -1 : 0;
}

const char *rlif_instructions(void) { return INSTRUCTIONS; }

int rlif_forward(const Call *call) { return run_passes(call, FORWARD); }

/* The same, but the targets are drawn. */
int rlif_sample(const Call *call) { return run_passes(call, FORWARD); }

int rlif_backward(const Call *call) { return run_passes(call, BACKWARD_PASS); }

/* Forward, loss and backward of each row. */
int rlif_grpo(const Call *call) { return run_passes(call, FORWARD | BACKWARD_PASS); }

/* What the looks at each pair of rows come to that the call names. */
int rlif_pairs(const PairCall *call) {
    return run_pairs(call);
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
