#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "context.h"
#include "net.h"
#include "plan.h"
#include "profile.h"

/* The launches for an input and an output, which one call launches. */
typedef struct {
  CUdeviceptr input, output;
  CUgraphExec exec;
  unsigned long used; /* when it was last */
} cached_graph;

enum { GRAPHS = 4 }; /* callers have few buffers, in turns */

struct netlathe {
  const netlathe_plan *plan;
  netlathe_context gpu;
  atomic_flag running;
  CUstream stream;
  CUevent *events; /* before the first kernel, and behind each */
  CUdeviceptr weights, memory, input, output;
  CUmodule *modules;     /* of each launch; NULL where it is that of an earlier one */
  CUfunction *functions; /* of each launch */
  CUdeviceptr *pointers; /* of each operand */
  void **arguments;      /* pointers to those */
  cached_graph graphs[GRAPHS];
  unsigned long uses;
};

static _Thread_local char refusal[160];

/* Whether it worked; what the driver says if not is kept for `netlathe_message`. */
static bool worked(const netlathe *net, CUresult result, const char *what) {
  if (result == 0) return true;
  const char *name = NULL;
  net->gpu.driver->cuGetErrorName(result, &name);
  snprintf(refusal, sizeof refusal, "The GPU's driver refused to %s: %s.", what, name ? name : "an unknown error");
  return false;
}

const char *netlathe_missing_feature(void) {
  static char lacks[64];
  const netlathe_driver *driver = netlathe_find_driver();
  CUdevice device;
  int major, minor, needed = netlathe_plan_of_net.major, least = netlathe_plan_of_net.minor;
  if (driver == NULL || driver->cuDeviceGet(&device, 0) || driver->cuDeviceGetAttribute(&major, CU_MAJOR, device) ||
      driver->cuDeviceGetAttribute(&minor, CU_MINOR, device))
    return "an NVIDIA GPU with its driver";
  /* Machine code runs on later GPUs of the same major version. */
  if (major == needed && minor >= least) return NULL;
  snprintf(lacks, sizeof lacks, "a GPU of compute capability %d.%d (its own has %d.%d)", needed, least, major, minor);
  return lacks;
}

static bool allocate_host(netlathe *net) {
  const netlathe_plan *plan = net->plan;
  net->modules = calloc(plan->launch_count, sizeof *net->modules);
  net->functions = calloc(plan->launch_count, sizeof *net->functions);
  net->pointers = calloc(plan->operand_count, sizeof *net->pointers);
  net->arguments = calloc(plan->operand_count, sizeof *net->arguments);
  net->events = calloc(plan->step_count + 1, sizeof *net->events);
  return net->modules && net->functions && net->pointers && net->arguments && net->events;
}

static bool allocate_device(netlathe *net) {
  const netlathe_driver *driver = net->gpu.driver;
  const netlathe_plan *plan = net->plan;
  struct {
    CUdeviceptr *made;
    size_t bytes;
  } blocks[] = {
      {&net->weights, plan->weight_bytes},
      {&net->memory, plan->memory_bytes},
      {&net->input, NETLATHE_INPUT_SIZE * sizeof(float)},
      {&net->output, NETLATHE_OUTPUT_SIZE * sizeof(float)},
  };
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
    if (!worked(net, driver->cuMemAlloc(blocks[i].made, blocks[i].bytes), "give memory")) return false;
  for (unsigned i = 0; i <= plan->step_count; i++)
    if (!worked(net, driver->cuEventCreate(&net->events[i], 0), "make an event")) return false;
  return worked(net, driver->cuStreamCreate(&net->stream, CU_NON_BLOCKING), "make a stream") &&
         worked(net, driver->cuMemcpyHtoDAsync(net->weights, plan->weights, plan->weight_bytes, net->stream), "copy");
}

/* The functions of all launches; a kernel that runs several times is loaded once. */
static bool load_code(netlathe *net) {
  const netlathe_driver *driver = net->gpu.driver;
  const netlathe_plan *plan = net->plan;
  for (unsigned i = 0; i < plan->launch_count; i++) {
    const netlathe_launch *launch = &plan->launches[i];
    unsigned first = 0;
    while (plan->launches[first].code != launch->code) first++;
    if (first == i && !worked(net, driver->cuModuleLoadData(&net->modules[i], plan->code + launch->code), "load code"))
      return false;
    CUfunction *function = &net->functions[i];
    if (!worked(net, driver->cuModuleGetFunction(function, net->modules[first], launch->function), "find a function"))
      return false;
    if (launch->shared_bytes && !worked(net, driver->cuFuncSetAttribute(*function, CU_DYNAMIC_SHARED_BYTES,
                                                                        (int)launch->shared_bytes), "share memory"))
      return false;
  }
  return true;
}

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

/* All kernels, one after the other, and an event behind each if those are asked for. */
static bool launch_all(netlathe *net, bool events) {
  const netlathe_driver *driver = net->gpu.driver;
  const netlathe_launch *launch = net->plan->launches;
  CUfunction *function = net->functions;
  void **arguments = net->arguments;
  for (unsigned step = 0; step < net->plan->step_count; step++) {
    for (unsigned i = 0; i < net->plan->steps[step].count; i++, launch++, function++) {
      const unsigned *b = launch->blocks, *t = launch->threads;
      if (!worked(net, driver->cuLaunchKernel(*function, b[0], b[1], b[2], t[0], t[1], t[2], launch->shared_bytes,
                                              net->stream, arguments, NULL), "launch a kernel"))
        return false;
      arguments += launch->count;
    }
    if (events && !worked(net, driver->cuEventRecord(net->events[step + 1], net->stream), "record an event"))
      return false;
  }
  return true;
}

static bool capture(netlathe *net, cached_graph *made) {
  const netlathe_driver *driver = net->gpu.driver;
  CUgraph graph;
  point(net, made->input, made->output);
  if (!worked(net, driver->cuStreamBeginCapture(net->stream, CU_CAPTURE_THREAD), "begin a graph")) return false;
  bool launched = launch_all(net, false);
  if (!worked(net, driver->cuStreamEndCapture(net->stream, &graph), "end a graph")) return false;
  bool right = launched && worked(net, driver->cuGraphInstantiate(&made->exec, graph, 0), "prepare a graph");
  driver->cuGraphDestroy(graph);
  return right;
}

/* The graph for these tensors, in the place of the one that was not used for longest if there is none; NULL: it failed. */
static CUgraphExec graph_of(netlathe *net, CUdeviceptr input, CUdeviceptr output) {
  cached_graph *oldest = &net->graphs[0];
  for (cached_graph *graph = net->graphs; graph < net->graphs + GRAPHS; graph++) {
    if (graph->exec && graph->input == input && graph->output == output) {
      graph->used = ++net->uses;
      return graph->exec;
    }
    if (graph->used < oldest->used) oldest = graph;
  }
  if (oldest->exec) net->gpu.driver->cuGraphExecDestroy(oldest->exec);
  *oldest = (cached_graph){.input = input, .output = output, .used = ++net->uses};
  return capture(net, oldest) ? oldest->exec : NULL;
}

int netlathe_create(netlathe **made, int threads, uint64_t cpu_mask) {
  (void)cpu_mask;
  if (made == NULL || threads != 1) return NETLATHE_BAD_ARGUMENT;
  *made = NULL;
  if (netlathe_missing_feature() != NULL) return NETLATHE_WRONG_CPU;
  netlathe *net = calloc(1, sizeof *net);
  if (net == NULL) return NETLATHE_NO_MEMORY;
  net->plan = &netlathe_plan_of_net;
  if (!allocate_host(net) || !netlathe_open(&net->gpu)) {
    net->gpu.driver = NULL;
    netlathe_destroy(net);
    return NETLATHE_NO_MEMORY;
  }
  bool right = allocate_device(net) && load_code(net) && graph_of(net, net->input, net->output) != NULL &&
               worked(net, net->gpu.driver->cuStreamSynchronize(net->stream), "copy weights");
  netlathe_leave(&net->gpu);
  if (!right) {
    netlathe_destroy(net);
    return NETLATHE_FAILED;
  }
  *made = net;
  return NETLATHE_OK;
}

static void free_device(netlathe *net) {
  const netlathe_driver *driver = net->gpu.driver;
  netlathe_enter(&net->gpu);
  for (int i = 0; i < GRAPHS; i++)
    if (net->graphs[i].exec) driver->cuGraphExecDestroy(net->graphs[i].exec);
  for (unsigned i = 0; i < net->plan->launch_count; i++)
    if (net->modules[i]) driver->cuModuleUnload(net->modules[i]);
  for (unsigned i = 0; i <= net->plan->step_count; i++)
    if (net->events[i]) driver->cuEventDestroy(net->events[i]);
  if (net->stream) driver->cuStreamDestroy(net->stream);
  CUdeviceptr blocks[] = {net->weights, net->memory, net->input, net->output};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
    if (blocks[i]) driver->cuMemFree(blocks[i]);
  netlathe_leave(&net->gpu);
  netlathe_close(&net->gpu);
}

void netlathe_destroy(netlathe *net) {
  if (net == NULL) return;
  if (net->gpu.driver != NULL) free_device(net);
  free(net->modules);
  free(net->functions);
  free(net->pointers);
  free(net->arguments);
  free(net->events);
  free(net);
}

/* Seconds between two events. */
static bool between(netlathe *net, unsigned first, unsigned last, double *seconds) {
  float milliseconds;
  CUresult result = net->gpu.driver->cuEventElapsedTime(&milliseconds, net->events[first], net->events[last]);
  *seconds = 1e-3 * (double)milliseconds;
  return worked(net, result, "tell the time");
}

static bool launch_graph(netlathe *net, CUdeviceptr input, CUdeviceptr output, CUstream stream) {
  CUgraphExec graph = graph_of(net, input, output);
  return graph != NULL && worked(net, net->gpu.driver->cuGraphLaunch(graph, stream), "launch a graph");
}

/* In a graph there is no place for events between kernels. */
static bool launch_apart(netlathe *net) {
  point(net, net->input, net->output);
  return launch_all(net, true);
}

static bool compute(netlathe *net, const float *input, float *output, double *seconds, netlathe_after_step *after,
                    void *context) {
  const netlathe_driver *driver = net->gpu.driver;
  unsigned last = net->plan->step_count;
  size_t in = NETLATHE_INPUT_SIZE * sizeof(float), out = NETLATHE_OUTPUT_SIZE * sizeof(float);
  if (!worked(net, driver->cuMemcpyHtoDAsync(net->input, input, in, net->stream), "copy the input")) return false;
  if (seconds && !worked(net, driver->cuEventRecord(net->events[0], net->stream), "record an event")) return false;
  if (after ? !launch_apart(net) : !launch_graph(net, net->input, net->output, net->stream)) return false;
  if (seconds && !worked(net, driver->cuEventRecord(net->events[last], net->stream), "record an event")) return false;
  if (!worked(net, driver->cuMemcpyDtoHAsync(output, net->output, out, net->stream), "copy the output") ||
      !worked(net, driver->cuStreamSynchronize(net->stream), "compute"))
    return false;
  for (unsigned step = 0; after && step < last; step++) {
    double of_step;
    if (!between(net, step, step + 1, &of_step)) return false;
    after(context, step, of_step);
  }
  return !seconds || between(net, 0, last, seconds);
}

/* Whether the instance was free, and the GPU is entered. */
static bool begin(netlathe *net) {
  if (atomic_flag_test_and_set_explicit(&net->running, memory_order_acquire)) return false;
  netlathe_enter(&net->gpu);
  return true;
}

static int end(netlathe *net, bool right) {
  netlathe_leave(&net->gpu);
  atomic_flag_clear_explicit(&net->running, memory_order_release);
  return right ? NETLATHE_OK : NETLATHE_FAILED;
}

int netlathe_run_timed(netlathe *net, const float *input, float *output, double *seconds, netlathe_after_step *after,
                       void *context) {
  if (net == NULL || input == NULL || output == NULL) return NETLATHE_BAD_ARGUMENT;
  return begin(net) ? end(net, compute(net, input, output, seconds, after, context)) : NETLATHE_BUSY;
}

int netlathe_run_on_gpu(netlathe *net, uint64_t input, uint64_t output, void *stream) {
  if (net == NULL || input % NETLATHE_ALIGNMENT != 0 || output % NETLATHE_ALIGNMENT != 0 || !input || !output)
    return NETLATHE_BAD_ARGUMENT;
  return begin(net) ? end(net, launch_graph(net, input, output, stream)) : NETLATHE_BUSY;
}

int netlathe_run(netlathe *net, const float *input, float *output) {
  return netlathe_run_timed(net, input, output, NULL, NULL, NULL);
}

const char *netlathe_message(int status) {
  switch (status) {
    case NETLATHE_OK: return "It worked.";
    case NETLATHE_BAD_ARGUMENT: return "An argument is NULL or not aligned, or the number of threads is not 1.";
    case NETLATHE_WRONG_CPU: return "There is no GPU that the network was compiled for, or no driver.";
    case NETLATHE_NO_MEMORY: return "There is too little memory for an instance.";
    case NETLATHE_BUSY: return "The instance computes already, for another thread: create one for each.";
    case NETLATHE_FAILED: return refusal[0] ? refusal : "The GPU failed.";
    default: return "No status of Netlathe has this number.";
  }
}
