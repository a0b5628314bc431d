/* Cold caches, as an operator finds its weights in a network. */
#ifndef NETLATHE_EVICT_H
#define NETLATHE_EVICT_H

#include <stddef.h>
#include <stdint.h>

typedef struct netlathe_evictor netlathe_evictor;

/* Of so many bytes, on every CPU of the mask or the present one for 0; a GPU has no mask. NULL: no memory. */
netlathe_evictor *netlathe_evictor_create(size_t bytes, uint64_t cpu_mask);
void netlathe_evictor_destroy(netlathe_evictor *evictor);

/* Reads and writes its bytes once on each CPU, and then on each its share of the input; a GPU only writes them. How much of
 * what was in the caches that pushes out is up to the machine. The input comes last, because in a network the operator
 * before has just written it. The thread stays on the first of several CPUs. */
void netlathe_evict(const netlathe_evictor *evictor, float *input, size_t count);

#endif
