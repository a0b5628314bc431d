/* Cold caches, as an operator finds its weights in a network. */
#ifndef NETLATHE_EVICT_H
#define NETLATHE_EVICT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  size_t bytes;
  unsigned char *buffer; /* of `bytes` */
  uint64_t cpu_mask;
} netlathe_evictor;

/* Reads and writes the buffer once on every CPU of the mask, or on the present one for 0, and then on each its share of
 * the input. How much of what was in the caches that pushes out is up to the machine. The input comes last, because in a
 * network the operator before has just written it. The thread stays on the first of several CPUs. */
void netlathe_evict(const netlathe_evictor *evictor, float *input, size_t count);

#endif
