/* An instance, between the files of the runtime. */
#ifndef NETLATHE_INSTANCE_H
#define NETLATHE_INSTANCE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "context.h"
#include "net.h"
#include "plan.h"

/* What a graph records beside its kernels: nothing, its beginning and end, or the end of each kernel, too. */
typedef enum { UNTIMED, TIMED, PROFILED } netlathe_events;

/* All launches for an input and an output, which one call launches. */
typedef struct {
  CUdeviceptr input, output;
  netlathe_events events;
  CUgraphExec exec;
  unsigned long used; /* when it was last */
} netlathe_graph;

enum { GRAPHS = 6 }; /* two that are timed, and callers have few buffers, in turns */

struct netlathe {
  const netlathe_plan *plan;
  netlathe_context gpu;
  atomic_flag running;
  CUstream stream;
  CUevent *events; /* before the first kernel, and behind each */
  CUevent done;    /* the last inference, in whatever stream: the next one waits for it, as they share memory */
  CUdeviceptr weights, memory, input, output;
  CUmodule *modules;     /* of each launch; NULL where it is that of an earlier one */
  CUfunction *functions; /* of each launch */
  CUdeviceptr *pointers; /* of each operand */
  void **arguments;      /* pointers to those */
  netlathe_graph graphs[GRAPHS];
  unsigned long uses;
};

/* Whether the driver did it; what it says if not is kept for `netlathe_message`. */
bool netlathe_worked(const netlathe *net, CUresult result, const char *what);

/* Launches a graph behind whatever the instance still computes; false if it failed. */
bool netlathe_launch_graph(netlathe *net, CUdeviceptr input, CUdeviceptr output, netlathe_events events, CUstream stream);
void netlathe_free_graphs(netlathe *net);

#endif
