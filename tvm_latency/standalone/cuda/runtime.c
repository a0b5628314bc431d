#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>

#include "instance.h"
#include "profile.h"

static _Thread_local char refusal[160];
static _Thread_local bool out_of_memory;

bool netlathe_worked(const netlathe *net, CUresult result, const char *what) {
  if (result == 0) return true;
  const char *name = NULL;
  net->gpu.driver->cuGetErrorName(result, &name);
  snprintf(refusal, sizeof refusal, "The GPU's driver refused to %s: %s.", what, name ? name : "an unknown error");
  out_of_memory = result == CU_OUT_OF_MEMORY;
  return false;
}

static int status_of(bool right) {
  return right ? NETLATHE_OK : out_of_memory ? NETLATHE_NO_MEMORY : NETLATHE_FAILED;
}

const char *netlathe_missing_feature(void) {
  static _Thread_local char lacks[64];
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
    if (!netlathe_worked(net, driver->cuMemAlloc(blocks[i].made, blocks[i].bytes), "give memory")) return false;
  for (unsigned i = 0; i <= plan->step_count; i++)
    if (!netlathe_worked(net, driver->cuEventCreate(&net->events[i], 0), "make an event")) return false;
  return netlathe_worked(net, driver->cuEventCreate(&net->done, 0), "make an event") &&
         netlathe_worked(net, driver->cuStreamCreate(&net->stream, CU_NON_BLOCKING), "make a stream");
}

static bool copy_weights(netlathe *net) {
  const netlathe_driver *driver = net->gpu.driver;
  CUresult copied = driver->cuMemcpyHtoDAsync(net->weights, net->plan->weights, net->plan->weight_bytes, net->stream);
  return netlathe_worked(net, copied, "copy weights") &&
         netlathe_worked(net, driver->cuStreamSynchronize(net->stream), "copy weights");
}

/* The functions of all launches; a kernel that runs several times is loaded once. */
static bool load_code(netlathe *net) {
  const netlathe_driver *driver = net->gpu.driver;
  const netlathe_plan *plan = net->plan;
  for (unsigned i = 0; i < plan->launch_count; i++) {
    const netlathe_launch *launch = &plan->launches[i];
    const unsigned char *code = plan->code + launch->code;
    CUfunction *function = &net->functions[i];
    unsigned first = 0;
    while (plan->launches[first].code != launch->code) first++;
    if (first == i && !netlathe_worked(net, driver->cuModuleLoadData(&net->modules[i], code), "load code")) return false;
    CUresult found = driver->cuModuleGetFunction(function, net->modules[first], launch->function);
    if (!netlathe_worked(net, found, "find a function")) return false;
    if (launch->shared_bytes == 0) continue;
    CUresult set = driver->cuFuncSetAttribute(*function, CU_DYNAMIC_SHARED_BYTES, (int)launch->shared_bytes);
    if (!netlathe_worked(net, set, "share memory")) return false;
  }
  return true;
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
  bool right = allocate_device(net) && load_code(net) && copy_weights(net);
  netlathe_leave(&net->gpu);
  if (!right) {
    int status = status_of(false);
    netlathe_destroy(net);
    return status;
  }
  *made = net;
  return NETLATHE_OK;
}

static void free_device(netlathe *net) {
  const netlathe_driver *driver = net->gpu.driver;
  netlathe_enter(&net->gpu);
  if (net->done) {
    driver->cuEventSynchronize(net->done);
    driver->cuEventDestroy(net->done);
  }
  netlathe_free_graphs(net);
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
  float milliseconds = 0.0f;
  CUresult result = net->gpu.driver->cuEventElapsedTime(&milliseconds, net->events[first], net->events[last]);
  *seconds = 1e-3 * (double)milliseconds;
  return netlathe_worked(net, result, "tell the time");
}

static bool compute(netlathe *net, const float *input, float *output, netlathe_events events) {
  const netlathe_driver *driver = net->gpu.driver;
  size_t in = NETLATHE_INPUT_SIZE * sizeof(float), out = NETLATHE_OUTPUT_SIZE * sizeof(float);
  return netlathe_worked(net, driver->cuMemcpyHtoDAsync(net->input, input, in, net->stream), "copy the input") &&
         netlathe_launch_graph(net, net->input, net->output, events, net->stream) &&
         netlathe_worked(net, driver->cuMemcpyDtoHAsync(output, net->output, out, net->stream), "copy the output") &&
         netlathe_worked(net, driver->cuStreamSynchronize(net->stream), "compute");
}

static bool tell(netlathe *net, double *seconds, netlathe_after_step *after, void *context) {
  unsigned last = net->plan->step_count;
  for (unsigned step = 0; after && step < last; step++) {
    double of_step;
    if (!between(net, step, step + 1, &of_step)) return false;
    after(context, step, of_step);
  }
  return between(net, 0, last, seconds);
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
  return status_of(right);
}

int netlathe_run(netlathe *net, const float *input, float *output) {
  if (net == NULL || input == NULL || output == NULL) return NETLATHE_BAD_ARGUMENT;
  return begin(net) ? end(net, compute(net, input, output, UNTIMED)) : NETLATHE_BUSY;
}

int netlathe_run_timed(netlathe *net, const float *input, float *output, double *seconds, netlathe_after_step *after,
                       void *context) {
  if (net == NULL || input == NULL || output == NULL) return NETLATHE_BAD_ARGUMENT;
  if (!begin(net)) return NETLATHE_BUSY;
  bool right = compute(net, input, output, after ? PROFILED : TIMED) && tell(net, seconds, after, context);
  return end(net, right);
}

int netlathe_run_on_gpu(netlathe *net, uint64_t input, uint64_t output, void *stream) {
  if (net == NULL || input % NETLATHE_ALIGNMENT != 0 || output % NETLATHE_ALIGNMENT != 0 || !input || !output)
    return NETLATHE_BAD_ARGUMENT;
  return begin(net) ? end(net, netlathe_launch_graph(net, input, output, UNTIMED, stream)) : NETLATHE_BUSY;
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
