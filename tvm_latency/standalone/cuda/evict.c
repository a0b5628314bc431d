#include "evict.h"

#include <stdlib.h>

#include "context.h"

struct netlathe_evictor {
  netlathe_context context;
  size_t bytes;
  CUdeviceptr buffer;
};

netlathe_evictor *netlathe_evictor_create(size_t bytes, uint64_t cpu_mask) {
  (void)cpu_mask;
  netlathe_evictor *made = calloc(1, sizeof *made);
  if (made == NULL) return NULL;
  made->bytes = bytes;
  if (!netlathe_open(&made->context)) {
    free(made);
    return NULL;
  }
  bool right = bytes == 0 || !made->context.driver->cuMemAlloc(&made->buffer, bytes);
  netlathe_leave(&made->context);
  if (right) return made;
  netlathe_evictor_destroy(made);
  return NULL;
}

void netlathe_evictor_destroy(netlathe_evictor *evictor) {
  netlathe_enter(&evictor->context);
  if (evictor->buffer) evictor->context.driver->cuMemFree(evictor->buffer);
  netlathe_leave(&evictor->context);
  netlathe_close(&evictor->context);
  free(evictor);
}

/* The input is copied to the GPU by the inference itself. */
void netlathe_evict(const netlathe_evictor *evictor, float *input, size_t count) {
  (void)input, (void)count;
  netlathe_enter(&evictor->context);
  evictor->context.driver->cuMemsetD8Async(evictor->buffer, 0, evictor->bytes, NULL);
  evictor->context.driver->cuStreamSynchronize(NULL);
  netlathe_leave(&evictor->context);
}
