// Calls compiled kernels without TVM's runtime, so that their code can run where there is none: under an emulator.
//
//   harness JOBS INPUTS OUTPUTS
//
// A line of JOBS is `kernel tensors`, then `bits rank size...` for each tensor of floats, output last. The inputs stand in
// INPUTS one after the other as they are in memory, the outputs are written so. KERNELS is a list of KERNEL(name) from the command line.
#include <dlpack/dlpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { MAX_TENSORS = 16, MAX_RANK = 8, ALIGNMENT = 64, TASKS = 2 };

#define KERNEL(name) int __tvm_ffi_##name(void *self, const TVMFFIAny *args, int32_t n, TVMFFIAny *result);
KERNELS
#undef KERNEL

static const struct {
  const char *name;
  TVMFFISafeCallType call;
} kernels[] = {
#define KERNEL(name) {#name, __tvm_ffi_##name},
    KERNELS
#undef KERNEL
};

static void fail(const char *what, const char *which) {
  fprintf(stderr, "%s: %s\n", what, which);
  exit(1);
}

// What kernels ask of a runtime. They call the first three through pointers, which a loader of TVM would set.

static void *allocate(int device, int id, uint64_t bytes, int code, int bits) {
  void *memory = NULL;
  return posix_memalign(&memory, ALIGNMENT, bytes) ? NULL : memory;
}

static int release(int device, int id, void *memory) {
  free(memory);
  return 0;
}

typedef struct {
  void *sync_handle;
  int32_t num_task;
} Group;

// The tasks one after the other: who gets which part is what is tested.
static int launch(int (*task)(int, Group *, void *), void *data, int count) {
  Group group = {NULL, count ? count : TASKS};
  for (int i = 0; i < group.num_task; i++)
    if (task(i, &group, data))
      return -1;
  return 0;
}

void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
int (*__TVMBackendParallelLaunch)(int (*)(int, Group *, void *), void *, int) = launch;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; i++)
    if (parts[i])
      fputs(parts[i], stderr);
  fputc('\n', stderr);
}

// Memory that ends where no page is mapped, as nearly as alignment allows: reading far beyond it ends the process.
static void *guarded(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  size_t pages = (used + page - 1) / page * page;
  char *memory = mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + pages, page, PROT_NONE))
    fail("memory", "mmap");
  memset(memory, 0xff, pages); // NaN
  return memory + pages - used;
}

static TVMFFISafeCallType find(const char *name) {
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
    if (!strcmp(kernels[i].name, name))
      return kernels[i].call;
  fail("no such kernel", name);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4)
    fail("usage", "harness JOBS INPUTS OUTPUTS");
  FILE *jobs = fopen(argv[1], "r"), *inputs = fopen(argv[2], "rb"), *outputs = fopen(argv[3], "wb");
  if (!jobs || !inputs || !outputs)
    fail("files", "cannot be opened");
  char name[512];
  int count;
  while (fscanf(jobs, "%511s %d", name, &count) == 2) {
    DLTensor tensors[MAX_TENSORS];
    int64_t shapes[MAX_TENSORS][MAX_RANK], strides[MAX_TENSORS][MAX_RANK];
    TVMFFIAny args[MAX_TENSORS], result;
    size_t sizes[MAX_TENSORS]; // in bytes
    memset(args, 0, sizeof args);
    memset(&result, 0, sizeof result);
    for (int t = 0; t < count; t++) {
      int bits, rank;
      if (count > MAX_TENSORS || fscanf(jobs, "%d %d", &bits, &rank) != 2 || rank > MAX_RANK)
        fail("job", name);
      sizes[t] = (size_t)bits / 8;
      for (int d = 0; d < rank; d++) {
        long long size;
        if (fscanf(jobs, "%lld", &size) != 1)
          fail("job", name);
        sizes[t] *= (size_t)(shapes[t][d] = size);
      }
      int64_t stride = 1;
      for (int d = rank - 1; d >= 0; stride *= shapes[t][d--])
        strides[t][d] = stride;
      void *data = guarded(sizes[t]);
      if (t < count - 1 && fread(data, 1, sizes[t], inputs) != sizes[t])
        fail("inputs end", name);
      tensors[t] = (DLTensor){data, {kDLCPU, 0}, rank, {kDLFloat, (uint8_t)bits, 1}, shapes[t], strides[t], 0};
      args[t].type_index = kTVMFFIDLTensorPtr;
      args[t].v_ptr = &tensors[t];
    }
    if (find(name)(NULL, args, count, &result))
      fail("kernel failed", name);
    if (fwrite(tensors[count - 1].data, 1, sizes[count - 1], outputs) != sizes[count - 1])
      fail("outputs", name);
  }
  return fclose(outputs) ? 1 : 0;
}
