/* What TVM's virtual machine calls: network(input, output), of tensors in the memory of the GPU. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "net.h"

enum { DL_CUDA = 2, DL_FLOAT = 2, FFI_NONE = 0, FFI_DL_TENSOR = 7, FFI_TENSOR = 70, FFI_OBJECT_BYTES = 24 };

/* DLTensor of dlpack.h. */
typedef struct {
  char *data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} tensor;

/* TVMFFIAny of tvm/ffi/c_api.h. */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  char *pointer;
} any;

#define EXPORTED __attribute__((visibility("default")))

/* TVM sets it when it loads the library. */
EXPORTED void (*__TVMFFIErrorSetRaisedFromCStr)(const char *kind, const char *message);

static int refuse(const char *kind, const char *message) {
  if (__TVMFFIErrorSetRaisedFromCStr != NULL) __TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

static netlathe *instance;
static int status;
static char why[192]; /* not, where there is no instance: every thread that asks is told */
static pthread_once_t once = PTHREAD_ONCE_INIT;
/* TVM may be called by several threads, and there is one instance. */
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static void *(*stream_of)(int32_t device_type, int32_t device_id);

static void start(void) {
  status = netlathe_create(&instance, 1, 0);
  const char *lacks = status == NETLATHE_WRONG_CPU ? netlathe_missing_feature() : NULL;
  if (lacks != NULL) snprintf(why, sizeof why, "This machine lacks %s.", lacks);
  else snprintf(why, sizeof why, "%s", netlathe_message(status));
  void *ffi = dlopen("libtvm_ffi.so", RTLD_LAZY | RTLD_NOLOAD);
  if (ffi != NULL) *(void **)&stream_of = dlsym(ffi, "TVMFFIEnvGetStream");
}

static const tensor *tensor_of(const any *argument) {
  if (argument->type_index == FFI_DL_TENSOR) return (const tensor *)(const void *)argument->pointer;
  if (argument->type_index == FFI_TENSOR) return (const tensor *)(const void *)(argument->pointer + FFI_OBJECT_BYTES);
  return NULL;
}

static int fits(const tensor *t, int64_t size) {
  int64_t numbers = 1;
  if (t == NULL || t->device_type != DL_CUDA || t->device_id != 0) return 0;
  if (t->code != DL_FLOAT || t->bits != 32 || t->lanes != 1) return 0;
  /* From the last axis on, each stride is the size of what lies inside. */
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    if (t->strides != NULL && t->shape[i] > 1 && t->strides[i] != numbers) return 0;
    numbers *= t->shape[i];
  }
  return numbers == size;
}

static uint64_t address(const tensor *t) { return (uint64_t)(uintptr_t)t->data + t->byte_offset; }

EXPORTED int __tvm_ffi_netlathe_network(void *self, const any *arguments, int32_t count, any *result) {
  (void)self;
  *result = (any){.type_index = FFI_NONE};
  const tensor *input = count == 2 ? tensor_of(&arguments[0]) : NULL, *output = count == 2 ? tensor_of(&arguments[1]) : NULL;
  if (!fits(input, NETLATHE_INPUT_SIZE) || !fits(output, NETLATHE_OUTPUT_SIZE))
    return refuse("ValueError", "The network takes a contiguous float32 tensor in the memory of the first GPU: make the "
                                "virtual machine for tvm.cuda(0), and copy the input there with "
                                "tvm.runtime.tensor(array, tvm.cuda(0)).");
  pthread_once(&once, start);
  if (status != NETLATHE_OK) return refuse("RuntimeError", why);
  pthread_mutex_lock(&one_at_a_time);
  void *stream = stream_of != NULL ? stream_of(DL_CUDA, 0) : NULL;
  int done = netlathe_run_on_gpu(instance, address(input), address(output), stream);
  pthread_mutex_unlock(&one_at_a_time);
  return done == NETLATHE_OK ? 0 : refuse("RuntimeError", netlathe_message(done));
}
