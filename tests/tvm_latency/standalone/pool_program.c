/* Threads that have to sleep: longer than they spin passes before each launch, and while the caller waits for members.
 *
 * Linked with --wrap=syscall and --wrap=pthread_cond_wait; prints how many tasks ran, and whether threads slept in either. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "pool.h"

enum { THREADS = 3, LAUNCHES = 40 };

static atomic_int ran, slept;

#if defined(__linux__)
long __real_syscall(long, long, long, long, long, long, long);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f) {
  return slept += 1, __real_syscall(number, a, b, c, d, e, f);
}
#endif
int __real_pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *);
int __wrap_pthread_cond_wait(pthread_cond_t *changed, pthread_mutex_t *mutex) {
  return slept += 1, __real_pthread_cond_wait(changed, mutex);
}

static void rest(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static void enter(void *context, unsigned number) { (void)context, (void)number; }

static int task(int number, netlathe_group *group, void *data) {
  (void)group, (void)data;
  if (number > 0) rest();
  ran += 1;
  return 0;
}

int main(void) {
  netlathe_pool *pool = netlathe_pool_create(THREADS, 0, enter, NULL);
  if (pool == NULL) return 1;
  for (int i = 0; i < LAUNCHES; i++) {
    rest();
    if (netlathe_pool_launch(pool, task, NULL, 0)) return 2;
  }
  netlathe_pool_destroy(pool);
  printf("%d %s\n", (int)ran, slept > LAUNCHES ? "slept" : "awake");
  return 0;
}
