/* Threads that compute the parts of one kernel together. */
#ifndef NETLATHE_POOL_H
#define NETLATHE_POOL_H

#include <stdint.h>

/* FTVMParallelLambda of tvm/runtime/c_backend_api.h: part `task` of `group->tasks`. */
typedef struct {
  void *sync_handle;
  int32_t tasks;
} netlathe_group;
typedef int netlathe_task(int task, netlathe_group *group, void *data);

typedef struct netlathe_pool netlathe_pool;

/* enter(context, number) runs first on each thread but the caller's, whose numbers begin at 1. NULL: no thread. */
netlathe_pool *netlathe_pool_create(unsigned threads, uint64_t cpu_mask, void (*enter)(void *, unsigned), void *context);
void netlathe_pool_destroy(netlathe_pool *pool);

/* All tasks, on all threads; 0 tasks: one for each thread. 0 if all of them answered 0. */
int netlathe_pool_launch(netlathe_pool *pool, netlathe_task *task, void *data, int tasks);

#endif
