/* The plan of one network, as netlathe writes it: which device functions run one after the other, on what. */
#ifndef NETLATHE_PLAN_H
#define NETLATHE_PLAN_H

#include <stddef.h>
#include <stdint.h>

#define NETLATHE_MACHINE "machine"
#define NETLATHE_COPIES 1 /* whether an inference copies its tensors */
#define NETLATHE_ALIGNMENT 16 /* of what a thread loads at once */

enum netlathe_place { NETLATHE_INPUT, NETLATHE_WEIGHTS, NETLATHE_MEMORY, NETLATHE_OUTPUT };

/* A tensor, so many bytes into its place. */
typedef struct {
  size_t offset;
  uint8_t place;
} netlathe_operand;

/* A device function of the code at an offset, over a grid of blocks of threads, with the next `count` operands. */
typedef struct {
  const char *function;
  size_t code;
  unsigned blocks[3], threads[3], shared_bytes, count;
} netlathe_launch;

/* A kernel: the next `count` launches. */
typedef struct {
  const char *name;
  unsigned count;
} netlathe_step;

typedef struct {
  const netlathe_operand *operands;
  const netlathe_launch *launches;
  const netlathe_step *steps;
  unsigned operand_count, launch_count, step_count;
  int major, minor; /* of the compute capability that the code is for */
  size_t memory_bytes, weight_bytes;
  const unsigned char *weights, *code;
} netlathe_plan;

extern const netlathe_plan netlathe_plan_of_net;

#endif
