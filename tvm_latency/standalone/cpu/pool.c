#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "system.h"

/* Kernels of one network follow each other sooner, and a thread that sleeps takes as long to wake. What a turn of waiting
 * takes differs from CPU to CPU by a factor of a hundred, so the clock is asked, once in a while. */
enum { SPIN_NS = 50000, TURNS = 64 };

struct netlathe_pool {
  netlathe_event round;   /* counts launches */
  netlathe_event working; /* threads that have not finished this one */
  atomic_bool failed;
  bool quit;
  unsigned threads, members_count; /* the caller is no member */
  uint64_t cpu_mask;
  netlathe_task *task;
  void *data;
  int tasks;
  void (*enter)(void *, unsigned);
  void *context;
  struct member {
    netlathe_pool *pool;
    unsigned number;
    pthread_t thread;
  } members[];
};

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_until_not(netlathe_event *event, unsigned value) {
  int64_t end = 0;
  for (unsigned turn = 1; end == 0 || turn % TURNS != 0 || now_ns() < end; turn++) {
    if (atomic_load_explicit(&event->value, memory_order_acquire) != value) return;
    relax();
    if (turn == TURNS) end = now_ns() + SPIN_NS;
  }
  netlathe_sleep_while(event, value);
}

static void start(netlathe_pool *pool) {
  atomic_fetch_add(&pool->round.value, 1);
  netlathe_wake(&pool->round);
}

static void finish(netlathe_pool *pool) {
  if (atomic_fetch_sub(&pool->working.value, 1) == 1) netlathe_wake(&pool->working);
}

static void wait_for_members(netlathe_pool *pool) {
  for (unsigned left; (left = atomic_load(&pool->working.value)) != 0;) wait_until_not(&pool->working, left);
}

static void work(netlathe_pool *pool, unsigned number) {
  netlathe_group group = {NULL, pool->tasks};
  for (int task = (int)number; task < pool->tasks; task += (int)pool->threads)
    if (pool->task(task, &group, pool->data)) atomic_store(&pool->failed, true);
}

/* Threads take the CPUs of the mask in turns. */
static bool pin(uint64_t mask, unsigned number) {
  if (mask == 0) return true;
  for (unsigned past = number % (unsigned)__builtin_popcountll(mask); past > 0; past--) mask &= mask - 1;
  return netlathe_bind(mask & -mask);
}

static void *member_main(void *argument) {
  struct member *member = argument;
  netlathe_pool *pool = member->pool;
  if (!pin(pool->cpu_mask, member->number)) atomic_store(&pool->failed, true);
  pool->enter(pool->context, member->number);
  for (unsigned round = 0;; round++) {
    finish(pool); /* its start, then each launch */
    wait_until_not(&pool->round, round);
    if (pool->quit) return NULL;
    work(pool, member->number);
  }
}

netlathe_pool *netlathe_pool_create(unsigned threads, uint64_t cpu_mask, void (*enter)(void *, unsigned),
                                    void *context) {
  netlathe_pool *pool = calloc(1, sizeof *pool + threads * sizeof *pool->members);
  if (pool == NULL) return NULL;
  pool->threads = threads, pool->cpu_mask = cpu_mask, pool->enter = enter, pool->context = context;
  atomic_store(&pool->working.value, threads - 1);
  for (pool->members_count = 0; pool->members_count < threads - 1; pool->members_count++) {
    struct member *member = &pool->members[pool->members_count];
    member->pool = pool, member->number = pool->members_count + 1;
    if (pthread_create(&member->thread, NULL, member_main, member) != 0) {
      netlathe_pool_destroy(pool);
      return NULL;
    }
  }
  wait_for_members(pool);
  if (atomic_load(&pool->failed)) {
    netlathe_pool_destroy(pool);
    return NULL;
  }
  return pool;
}

void netlathe_pool_destroy(netlathe_pool *pool) {
  pool->quit = true;
  start(pool);
  for (unsigned i = 0; i < pool->members_count; i++) pthread_join(pool->members[i].thread, NULL);
  free(pool);
}

int netlathe_pool_launch(netlathe_pool *pool, netlathe_task *task, void *data, int tasks) {
  pool->task = task, pool->data = data, pool->tasks = tasks ? tasks : (int)pool->threads;
  atomic_store(&pool->failed, false);
  atomic_store(&pool->working.value, pool->members_count);
  if (pool->members_count > 0) start(pool);
  work(pool, 0);
  wait_for_members(pool);
  return atomic_load(&pool->failed);
}
