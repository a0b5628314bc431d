#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net.h"
#include "plan.h"
#include "pool.h"
#include "profile.h"

enum { CPU = 1, POINTER_TO_TENSOR = 7 }; /* kDLCPU, kTVMFFIDLTensorPtr */

/* What a kernel needs beside its operands: a stack, since kernels free in the reverse order. One for each thread. */
typedef struct {
  unsigned char *next, *end;
} scratch;

struct netlathe {
  const netlathe_plan *plan;
  unsigned threads;
  atomic_flag running;
  netlathe_pool *pool;
  unsigned char *memory, *scratch;
  float *input, *output; /* aligned, for callers whose own are not */
  netlathe_tensor *tensors;
  netlathe_any *arguments;
};

/* Of the thread that computes: kernels ask for scratch and threads without saying for which instance. */
static _Thread_local scratch mine;
static _Thread_local netlathe_pool *pool_of_caller;

static size_t aligned(size_t bytes) { return (bytes + NETLATHE_ALIGNMENT - 1) & ~(NETLATHE_ALIGNMENT - 1); }

static void enter(void *context, unsigned number) {
  const netlathe *instance = context;
  size_t bytes = aligned(instance->plan->scratch_bytes);
  mine.next = instance->scratch + number * bytes;
  mine.end = mine.next + bytes;
}

static void *allocate(int device, int id, uint64_t bytes, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  unsigned char *found = mine.next;
  if (bytes > (size_t)(mine.end - found)) return NULL;
  mine.next += aligned((size_t)bytes);
  return found;
}

static int release(int device, int id, void *block) {
  (void)device, (void)id;
  mine.next = block;
  return 0;
}

static int launch(netlathe_task *task, void *data, int tasks) {
  return netlathe_pool_launch(pool_of_caller, task, data, tasks);
}

static void raised(const char *kind, const char **parts, int count) { (void)kind, (void)parts, (void)count; }

/* Kernels call through these, which TVM's runtime would set; see tvm/runtime/c_backend_api.h. Theirs are weak. */
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
int (*__TVMBackendParallelLaunch)(netlathe_task *, void *, int) = launch;
void (*__TVMFFIErrorSetRaisedFromCStrParts)(const char *, const char **, int) = raised;

/* One block after the other out of one allocation. */
static void *take(unsigned char **next, size_t bytes) {
  void *taken = *next;
  *next += aligned(bytes);
  return taken;
}

static bool allocate_all(netlathe *instance) {
  const netlathe_plan *plan = instance->plan;
  size_t scratches = instance->threads * aligned(plan->scratch_bytes);
  size_t tensors = plan->operand_count * sizeof(netlathe_tensor);
  size_t arguments = plan->operand_count * sizeof(netlathe_any);
  size_t input = NETLATHE_INPUT_SIZE * sizeof(float), output = NETLATHE_OUTPUT_SIZE * sizeof(float);
  size_t all = aligned(plan->memory_bytes) + scratches + aligned(tensors) + aligned(arguments) + aligned(input) +
               aligned(output);
  void *block;
  if (posix_memalign(&block, NETLATHE_ALIGNMENT, all) != 0) return false;
  unsigned char *next = memset(block, 0, all); /* first: what is freed */
  instance->memory = take(&next, plan->memory_bytes);
  instance->scratch = take(&next, scratches);
  instance->tensors = take(&next, tensors);
  instance->arguments = take(&next, arguments);
  instance->input = take(&next, input);
  instance->output = take(&next, output);
  return true;
}

static void prepare(netlathe *instance) {
  const netlathe_plan *plan = instance->plan;
  for (unsigned i = 0; i < plan->operand_count; i++) {
    const netlathe_operand *operand = &plan->operands[i];
    const unsigned char *data = operand->place == NETLATHE_WEIGHTS  ? plan->weights + operand->offset
                                : operand->place == NETLATHE_MEMORY ? instance->memory + operand->offset
                                                                    : NULL;
    /* Kernels write their last operand alone, which is never among the weights. */
    instance->tensors[i] = (netlathe_tensor){
        .data = (void *)(uintptr_t)data,
        .device_type = CPU,
        .ndim = operand->ndim,
        .code = operand->code,
        .bits = operand->bits,
        .lanes = 1,
        .shape = (int64_t *)(uintptr_t)operand->shape,
    };
    instance->arguments[i] = (netlathe_any){.type_index = POINTER_TO_TENSOR};
    instance->arguments[i].value.pointer = &instance->tensors[i];
  }
}

int netlathe_create(netlathe **made, int threads, uint64_t cpu_mask) {
  if (made == NULL || threads < 1 || threads > NETLATHE_MAX_THREADS) return NETLATHE_BAD_ARGUMENT;
  *made = NULL;
  if (netlathe_missing_feature() != NULL) return NETLATHE_WRONG_CPU;
  netlathe *instance = calloc(1, sizeof *instance);
  if (instance == NULL) return NETLATHE_NO_MEMORY;
  instance->plan = &netlathe_plan_of_net;
  instance->threads = (unsigned)threads;
  if (!allocate_all(instance)) {
    free(instance);
    return NETLATHE_NO_MEMORY;
  }
  prepare(instance);
  instance->pool = netlathe_pool_create(instance->threads, cpu_mask, enter, instance);
  if (instance->pool == NULL) {
    netlathe_destroy(instance);
    return NETLATHE_NO_THREAD;
  }
  *made = instance;
  return NETLATHE_OK;
}

void netlathe_destroy(netlathe *instance) {
  if (instance == NULL) return;
  if (instance->pool != NULL) netlathe_pool_destroy(instance->pool);
  free(instance->memory);
  free(instance);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool call_kernels(netlathe *instance, const float *input, float *output, netlathe_after_step *after,
                         void *context) {
  const netlathe_plan *plan = instance->plan;
  for (unsigned i = 0; i < plan->operand_count; i++) {
    if (plan->operands[i].place == NETLATHE_INPUT) instance->tensors[i].data = (void *)(uintptr_t)input;
    if (plan->operands[i].place == NETLATHE_OUTPUT) instance->tensors[i].data = output;
  }
  const netlathe_any *arguments = instance->arguments;
  for (unsigned i = 0; i < plan->step_count; i++) {
    const netlathe_step *step = &plan->steps[i];
    netlathe_any result = {0};
    double start = after != NULL ? now() : 0.0;
    if (step->kernel(NULL, arguments, (int32_t)step->count, &result) != 0) return false;
    if (after != NULL) after(context, i, now() - start);
    arguments += step->count;
  }
  return true;
}

static int run(netlathe *instance, const float *input, float *output, netlathe_after_step *after, void *context) {
  if (instance == NULL || input == NULL || output == NULL) return NETLATHE_BAD_ARGUMENT;
  if (atomic_flag_test_and_set_explicit(&instance->running, memory_order_acquire)) return NETLATHE_BUSY;
  /* Kernels load and store whole vectors. */
  bool copy_input = (uintptr_t)input % NETLATHE_ALIGNMENT != 0, copy_output = (uintptr_t)output % NETLATHE_ALIGNMENT != 0;
  if (copy_input) input = memcpy(instance->input, input, NETLATHE_INPUT_SIZE * sizeof(float));
  float *written = copy_output ? instance->output : output;
  scratch callers = mine;
  netlathe_pool *callers_pool = pool_of_caller;
  enter(instance, 0);
  pool_of_caller = instance->pool;
  bool right = call_kernels(instance, input, written, after, context);
  mine = callers, pool_of_caller = callers_pool;
  if (copy_output) memcpy(output, written, NETLATHE_OUTPUT_SIZE * sizeof(float));
  atomic_flag_clear_explicit(&instance->running, memory_order_release);
  return right ? NETLATHE_OK : NETLATHE_FAILED;
}

int netlathe_run(netlathe *instance, const float *input, float *output) {
  return run(instance, input, output, NULL, NULL);
}

int netlathe_run_timed(netlathe *instance, const float *input, float *output, double *seconds,
                       netlathe_after_step *after, void *context) {
  double start = now();
  int status = run(instance, input, output, after, context);
  *seconds = now() - start;
  return status;
}

const char *netlathe_message(int status) {
  switch (status) {
    case NETLATHE_OK: return "It worked.";
    case NETLATHE_BAD_ARGUMENT: return "An argument is NULL, or the number of threads is not one that net.h allows.";
    case NETLATHE_WRONG_CPU: return "This CPU lacks an instruction set extension that the network was compiled for.";
    case NETLATHE_NO_MEMORY: return "There is too little memory for an instance.";
    case NETLATHE_NO_THREAD: return "A thread could not be started, or pinned to a CPU of the mask.";
    case NETLATHE_BUSY: return "The instance computes already, for another thread: create one for each.";
    case NETLATHE_FAILED: return "A kernel failed.";
    default: return "No status of Netlathe has this number.";
  }
}
