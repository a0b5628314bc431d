// libcuda.so.1 on a CPU: what it loads as machine code is a shared library made by way of cuda_on_cpu.h. It keeps the rules
// that can be broken without a GPU: a context is entered first, a graph has the arguments of the moment of its launches,
// nothing but launches belongs into a graph, and all that was given comes back. What breaks them is an error, as there.
#include <dlfcn.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

enum { OK = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURING = 900 };

struct Function {
  void (*launch)(const unsigned *, const unsigned *, void **, int);
  unsigned arguments;
};
struct Event {
  double seconds; // 0: it was never recorded
};
// A launch, or the record of an event.
struct Node {
  Function *function;
  Event *event;
  unsigned grid[3], block[3];
  std::vector<uint64_t> values;
};
struct Module {
  void *library;
  std::vector<Function *> functions;
};
typedef std::vector<Node> Graph;

static thread_local unsigned depth;
static bool capturing;
static Graph captured;
static std::set<void *> given; // whatever has to be handed back
static int retained;

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

struct Leaks {
  ~Leaks() {
    if (!given.empty() || retained) fprintf(stderr, "libcuda: %zu things were not handed back.\n", given.size() + retained);
  }
};
static Leaks leaks;

template <class T>
static T *give(T *made) {
  given.insert(made);
  return made;
}
template <class T>
static int take(T *back) {
  if (!given.erase(back)) return INVALID_VALUE;
  delete back;
  return OK;
}

static void run(Node &node) {
  if (node.event) {
    node.event->seconds = now();
    return;
  }
  std::vector<void *> pointers;
  for (uint64_t &value : node.values) pointers.push_back(&value);
  node.function->launch(node.grid, node.block, pointers.data(), 0);
}

#define INSIDE \
  if (depth == 0) return INVALID_CONTEXT;
#define NOT_CAPTURING \
  INSIDE if (capturing) return CAPTURING;

extern "C" {

int cuInit(unsigned) { return getenv("CUDA_ON_CPU_NO_DEVICE") ? NO_DEVICE : OK; }
int cuGetErrorName(int result, const char **name) {
  *name = result == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_OF_CUDA_ON_CPU";
  return OK;
}
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal ? NO_DEVICE : OK; }
int cuDeviceGetPCIBusId(char *id, int bytes, int) { return snprintf(id, bytes, "0000:01:00.0"), OK; }
int cuDeviceGetName(char *name, int bytes, int) { return snprintf(name, bytes, "A CPU"), OK; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  const char *capability = getenv("CUDA_ON_CPU_CAPABILITY");
  int number = capability ? atoi(capability) : 90;
  switch (attribute) {
    case 16: *value = 4; break;
    case 38: *value = 1 << 20; break;
    case 75: *value = number / 10; break;
    case 76: *value = number % 10; break;
    case 81: *value = 1 << 16; break;
    default: return INVALID_VALUE;
  }
  return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &leaks, retained++, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return retained-- > 0 ? OK : INVALID_CONTEXT; }
int cuCtxPushCurrent_v2(void *context) { return depth++, context == &leaks ? OK : INVALID_CONTEXT; }
int cuCtxPopCurrent_v2(void **context) { return *context = &leaks, depth-- > 0 ? OK : INVALID_CONTEXT; }

int cuModuleLoadData(Module **module, const void *image) {
  NOT_CAPTURING
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
  size_t bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
  char path[] = "/tmp/cuda-on-cpu-XXXXXX";
  int file = mkstemp(path);
  if (write(file, image, bytes) != (ssize_t)bytes) return INVALID_VALUE;
  close(file);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  unlink(path);
  if (!library) return fprintf(stderr, "libcuda: %s\n", dlerror()), INVALID_VALUE;
  *module = give(new Module{library, {}});
  return OK;
}
int cuModuleUnload(Module *module) {
  INSIDE
  for (Function *function : module->functions) delete function;
  return take(module);
}
int cuModuleGetFunction(Function **function, Module *module, const char *name) {
  INSIDE
  void *launch = dlsym(module->library, ("launch_" + std::string(name)).c_str());
  void *arguments = dlsym(module->library, ("arguments_" + std::string(name)).c_str());
  if (!launch || !arguments) return NOT_FOUND;
  *function = new Function{(decltype(Function::launch))launch, *(unsigned *)arguments};
  module->functions.push_back(*function);
  return OK;
}
int cuFuncSetAttribute(Function *, int, int) { return OK; }

int cuMemAlloc_v2(uint64_t *made, size_t bytes) {
  NOT_CAPTURING
  if (bytes == 0) return INVALID_VALUE;
  void *block = aligned_alloc(256, (bytes + 511) / 256 * 256);
  memset(block, 0xff, bytes); // NaN
  *made = (uint64_t)give((char *)block);
  return OK;
}
int cuMemFree_v2(uint64_t block) {
  INSIDE
  if (!given.erase((void *)block)) return INVALID_VALUE;
  free((void *)block);
  return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
  NOT_CAPTURING
  return memcpy((void *)to, from, bytes), OK;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
  NOT_CAPTURING
  return memcpy(to, (void *)from, bytes), OK;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *) {
  NOT_CAPTURING
  return memset((void *)to, value, bytes), OK;
}

int cuStreamCreate(char **stream, unsigned) {
  INSIDE
  return *stream = give(new char), OK;
}
int cuStreamDestroy_v2(char *stream) {
  INSIDE
  return take(stream);
}
int cuStreamSynchronize(void *) {
  NOT_CAPTURING
  return OK;
}
int cuStreamBeginCapture_v2(void *, int) {
  NOT_CAPTURING
  return capturing = true, captured.clear(), OK;
}
int cuStreamEndCapture(void *, Graph **graph) {
  INSIDE
  capturing = false;
  return *graph = give(new Graph(captured)), OK;
}
int cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long) {
  INSIDE
  return *made = give(new Graph(*graph)), OK;
}
int cuGraphLaunch(Graph *graph, void *) {
  NOT_CAPTURING
  for (Node &node : *graph) run(node);
  return OK;
}
int cuGraphDestroy(Graph *graph) {
  INSIDE
  return take(graph);
}
int cuGraphExecDestroy(Graph *graph) {
  INSIDE
  return take(graph);
}

int cuEventCreate(Event **event, unsigned) {
  INSIDE
  return *event = give(new Event{0}), OK;
}
int cuEventDestroy_v2(Event *event) {
  INSIDE
  return take(event);
}
int cuEventRecord(Event *event, void *) {
  NOT_CAPTURING
  return event->seconds = now(), OK;
}
int cuEventRecordWithFlags(Event *event, void *stream, unsigned flags) {
  INSIDE
  if (!capturing) return cuEventRecord(event, stream);
  // Others only say in which order nodes of a graph run.
  if (flags != 1) return INVALID_VALUE;
  return captured.push_back(Node{nullptr, event, {}, {}, {}}), OK;
}
int cuEventSynchronize(Event *) {
  NOT_CAPTURING
  return OK;
}
int cuStreamWaitEvent(void *, Event *, unsigned) {
  NOT_CAPTURING
  return OK;
}
int cuEventElapsedTime(float *milliseconds, Event *first, Event *last) {
  if (first->seconds == 0 || last->seconds == 0) return INVALID_HANDLE;
  return *milliseconds = 1e3f * (float)(last->seconds - first->seconds), OK;
}

int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, void *, void **given_arguments, void **) {
  INSIDE
  if (gx * gy * gz == 0 || bx * by * bz == 0 || bx * by * bz > 1024) return INVALID_VALUE;
  Node node{function, nullptr, {gx, gy, gz}, {bx, by, bz}, {}};
  for (unsigned i = 0; i < function->arguments; i++) node.values.push_back(*(uint64_t *)given_arguments[i]);
  if (capturing) captured.push_back(node);
  else run(node);
  return OK;
}
}
