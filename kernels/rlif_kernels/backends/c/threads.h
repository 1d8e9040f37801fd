/* Threads that share the items of a job, and sleep between jobs. */

#pragma once

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct Job Job;

struct Job {
    void (*work_on)(Job *job, int64_t item, void *room);
    size_t room_bytes;   /* of the memory that each thread has for itself; 0: none */
    int64_t items, take; /* threads take so many items at a time */
    int64_t next;
    int failed;
};

static void work(Job *job) {
    void *room = NULL;
    if (job->room_bytes && !(room = malloc(job->room_bytes))) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (;;) {
        int64_t first = __atomic_fetch_add(&job->next, job->take, __ATOMIC_RELAXED);
        int64_t end = first + job->take < job->items ? first + job->take : job->items;
        if (first >= job->items) break;
        for (int64_t item = first; item < end; item++) job->work_on(job, item, room);
    }
    free(room);
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
static void run(Job *job, int threads) {
    int helpers = threads - 1;
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
