#include "evict.h"

#include <stdlib.h>

#include "system.h"

enum { CACHE_LINE = 32 }; /* the shortest there is */

struct netlathe_evictor {
  size_t bytes;
  uint64_t cpu_mask;
  unsigned char buffer[];
};

netlathe_evictor *netlathe_evictor_create(size_t bytes, uint64_t cpu_mask) {
  netlathe_evictor *made = calloc(1, sizeof *made + bytes);
  if (made != NULL) made->bytes = bytes, made->cpu_mask = cpu_mask;
  return made;
}

void netlathe_evictor_destroy(netlathe_evictor *evictor) { free(evictor); }

static void touch(volatile unsigned char *bytes, size_t count) {
  for (size_t i = 0; i < count; i += CACHE_LINE) bytes[i] += 1;
}

static void touch_share(float *input, size_t count, unsigned turn, unsigned turns) {
  volatile float *values = input;
  for (size_t i = count * turn / turns; i < count * (turn + 1) / turns; i++) values[i] = values[i];
}

void netlathe_evict(const netlathe_evictor *evictor, float *input, size_t count) {
  uint64_t mask = evictor->cpu_mask;
  unsigned cpus = mask ? (unsigned)__builtin_popcountll(mask) : 1;
  for (int input_too = 0; input_too <= 1; input_too++) {
    uint64_t left = mask;
    for (unsigned turn = 0; turn < cpus; turn++, left &= left - 1) {
      if (cpus > 1) netlathe_bind(left & -left);
      if (input_too) touch_share(input, count, turn, cpus);
      else touch((unsigned char *)(uintptr_t)evictor->buffer, evictor->bytes);
    }
  }
  if (cpus > 1) netlathe_bind(mask & -mask);
}
