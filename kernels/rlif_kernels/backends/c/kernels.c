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
#include <signal.h>
#include <stdlib.h>

#include "forward.h"
#include "backward.h"

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

static void work(Job *job) {
    Part *parts = NULL;
    if (!job->left && job->passes & FORWARD && !(parts = malloc(sizeof(Part) * (size_t)job->chunks))) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (;;) {
        int64_t first = __atomic_fetch_add(&job->next, job->take, __ATOMIC_RELAXED);
        int64_t end = smallest(first + job->take, job->items);
        if (first >= job->items) break;
        for (int64_t item = first; item < end; item++) {
            if (job->left) work_on_chunk(job, item / job->chunks, item % job->chunks);
            else work_on_row(job, item, parts);
        }
    }
    free(parts);
}

/* Threads that sleep between calls. The caller works too, and waits for what others have in hand, but never for a thread
   that has not come yet: on a busy machine that may take longer than the work. */
static struct {
    pthread_mutex_t calling; /* held by the one call that has the helpers; calls beside it do without */
    pthread_mutex_t lock;    /* of what follows */
    pthread_cond_t wake, idle;
    Job *job;                /* or NULL */
    int seats;               /* how many more helpers may join it */
    int active, started;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER,
          NULL, 0, 0, 0};

static void *help(void *unused) {
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.job || !pool.seats) pthread_cond_wait(&pool.wake, &pool.lock);
        Job *job = pool.job;
        pool.seats--, pool.active++;
        pthread_mutex_unlock(&pool.lock);
        work(job);
        pthread_mutex_lock(&pool.lock);
        if (!--pool.active) pthread_cond_signal(&pool.idle);
    }
    return unused;
}

/* Signals are for the interpreter's threads. */
static int start_helper(void) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, help, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed ? -1 : pthread_detach(thread);
}

/* A forked process has none of its parent's helpers, and locks in whatever state they were. */
static void forget_helpers(void) {
    pthread_mutex_init(&pool.calling, NULL), pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL), pthread_cond_init(&pool.idle, NULL);
    pool.job = NULL;
    pool.seats = pool.active = pool.started = 0;
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_helpers); }

/* Returns when all is done, and nobody works on it any more. */
static void run(Job *job) {
    int helpers = job->call->threads - 1;
    job->next = 0;
    if (helpers < 1 || pthread_mutex_trylock(&pool.calling)) {
        work(job);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    while (pool.started < helpers && !start_helper()) pool.started++;
    pool.job = job, pool.seats = helpers;
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    work(job);
    pthread_mutex_lock(&pool.lock);
    pool.job = NULL;
    while (pool.active) pthread_cond_wait(&pool.idle, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.calling);
}

/* Returns 0, or -1 if there is no memory. */
static int run_passes(const Call *call, int passes) {
    int64_t chunks = (call->columns + CHUNK - 1) / CHUNK, threads = call->threads;
    Job job = {.call = call, .passes = passes, .chunks = chunks, .items = call->rows};
    job.take = 1 + call->rows / (32 * threads);
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
