#define _GNU_SOURCE
#include "system.h"

#if defined(__linux__)
/* Futexes, which are no type of a C library, so that one archive links with any. */
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void netlathe_sleep_while(netlathe_event *event, unsigned value) {
  atomic_fetch_add(&event->sleepers, 1);
  while (atomic_load(&event->value) == value) syscall(SYS_futex, &event->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
  atomic_fetch_sub(&event->sleepers, 1);
}

/* Either a sleeper sees the new value, or its count is seen here. */
void netlathe_wake(netlathe_event *event) {
  if (atomic_load(&event->sleepers)) syscall(SYS_futex, &event->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

bool netlathe_bind(uint64_t cpu_mask) {
  /* The system reads words of a long, which on machines that store low bytes first is the same. */
  return syscall(SYS_sched_setaffinity, 0, sizeof cpu_mask, &cpu_mask) == 0;
}
#else
#include <pthread.h>

/* Of all events: whoever is woken looks at its own. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void netlathe_sleep_while(netlathe_event *event, unsigned value) {
  pthread_mutex_lock(&mutex);
  atomic_fetch_add(&event->sleepers, 1);
  while (atomic_load(&event->value) == value) pthread_cond_wait(&changed, &mutex);
  atomic_fetch_sub(&event->sleepers, 1);
  pthread_mutex_unlock(&mutex);
}

void netlathe_wake(netlathe_event *event) {
  if (!atomic_load(&event->sleepers)) return;
  /* Not between a sleeper's look at the number and its sleep. */
  pthread_mutex_lock(&mutex);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
}

/* macOS chooses the CPUs itself. */
bool netlathe_bind(uint64_t cpu_mask) {
  (void)cpu_mask;
  return false;
}
#endif
