#include "instance.h"

static void point(netlathe *net, CUdeviceptr input, CUdeviceptr output) {
  const CUdeviceptr places[] = {
      [NETLATHE_INPUT] = input,
      [NETLATHE_WEIGHTS] = net->weights,
      [NETLATHE_MEMORY] = net->memory,
      [NETLATHE_OUTPUT] = output,
  };
  for (unsigned i = 0; i < net->plan->operand_count; i++) {
    net->pointers[i] = places[net->plan->operands[i].place] + net->plan->operands[i].offset;
    net->arguments[i] = &net->pointers[i];
  }
}

static bool record(netlathe *net, unsigned event) {
  CUresult result = net->gpu.driver->cuEventRecordWithFlags(net->events[event], net->stream, CU_EXTERNAL);
  return netlathe_worked(net, result, "record an event");
}

/* All kernels, one after the other. */
static bool launch_all(netlathe *net, netlathe_events events) {
  const netlathe_driver *driver = net->gpu.driver;
  const netlathe_plan *plan = net->plan;
  const netlathe_launch *launch = plan->launches;
  CUfunction *function = net->functions;
  void **arguments = net->arguments;
  if (events != UNTIMED && !record(net, 0)) return false;
  for (unsigned step = 0; step < plan->step_count; step++) {
    for (unsigned i = 0; i < plan->steps[step].count; i++, launch++, function++) {
      const unsigned *b = launch->blocks, *t = launch->threads;
      CUresult result = driver->cuLaunchKernel(*function, b[0], b[1], b[2], t[0], t[1], t[2], launch->shared_bytes,
                                               net->stream, arguments, NULL);
      if (!netlathe_worked(net, result, "launch a kernel")) return false;
      arguments += launch->count;
    }
    bool last = step + 1 == plan->step_count;
    if ((events == PROFILED || (events == TIMED && last)) && !record(net, step + 1)) return false;
  }
  return true;
}

static bool capture(netlathe *net, netlathe_graph *made) {
  const netlathe_driver *driver = net->gpu.driver;
  CUgraph graph;
  point(net, made->input, made->output);
  CUresult begun = driver->cuStreamBeginCapture(net->stream, CU_CAPTURE_THREAD);
  if (!netlathe_worked(net, begun, "begin a graph")) return false;
  bool launched = launch_all(net, made->events);
  CUresult ended = driver->cuStreamEndCapture(net->stream, &graph);
  /* What went wrong first is what is said. */
  if (!launched) {
    if (ended == 0) driver->cuGraphDestroy(graph);
    return false;
  }
  if (!netlathe_worked(net, ended, "end a graph")) return false;
  bool right = netlathe_worked(net, driver->cuGraphInstantiate(&made->exec, graph, 0), "prepare a graph");
  driver->cuGraphDestroy(graph);
  return right;
}

/* The graph for these tensors, in the place of the one that was not used for longest if there is none; NULL: it failed. */
static CUgraphExec graph_of(netlathe *net, CUdeviceptr input, CUdeviceptr output, netlathe_events events) {
  netlathe_graph *oldest = &net->graphs[0];
  for (netlathe_graph *graph = net->graphs; graph < net->graphs + GRAPHS; graph++) {
    if (graph->exec && graph->input == input && graph->output == output && graph->events == events) {
      graph->used = ++net->uses;
      return graph->exec;
    }
    if (graph->used < oldest->used) oldest = graph;
  }
  if (oldest->exec) net->gpu.driver->cuGraphExecDestroy(oldest->exec);
  *oldest = (netlathe_graph){.input = input, .output = output, .events = events, .used = ++net->uses};
  return capture(net, oldest) ? oldest->exec : NULL;
}

bool netlathe_launch_graph(netlathe *net, CUdeviceptr input, CUdeviceptr output, netlathe_events events, CUstream stream) {
  const netlathe_driver *driver = net->gpu.driver;
  CUgraphExec graph = graph_of(net, input, output, events);
  return graph != NULL && netlathe_worked(net, driver->cuStreamWaitEvent(stream, net->done, 0), "wait") &&
         netlathe_worked(net, driver->cuGraphLaunch(graph, stream), "launch a graph") &&
         netlathe_worked(net, driver->cuEventRecord(net->done, stream), "record an event");
}

void netlathe_free_graphs(netlathe *net) {
  for (int i = 0; i < GRAPHS; i++)
    if (net->graphs[i].exec) net->gpu.driver->cuGraphExecDestroy(net->graphs[i].exec);
}
