/* The plan of one network, as netlathe writes it, and what TVM's kernels are called with. */
#ifndef NETLATHE_PLAN_H
#define NETLATHE_PLAN_H

#include <stddef.h>
#include <stdint.h>

#define NETLATHE_MACHINE "CPU"
#define NETLATHE_COPIES 0 /* whether an inference copies its tensors */

/* DLTensor of dlpack.h. */
typedef struct {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} netlathe_tensor;

/* TVMFFIAny of tvm/ffi/c_api.h. */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t integer;
    void *pointer;
  } value;
} netlathe_any;

typedef int netlathe_kernel(void *self, const netlathe_any *arguments, int32_t count, netlathe_any *result);

enum netlathe_place { NETLATHE_INPUT, NETLATHE_WEIGHTS, NETLATHE_MEMORY, NETLATHE_OUTPUT };

/* A tensor of a call, so many bytes into its place. */
typedef struct {
  size_t offset;
  const int64_t *shape;
  uint8_t place, ndim, code, bits;
} netlathe_operand;

/* A call of a kernel with the next `count` operands. */
typedef struct {
  const char *name;
  netlathe_kernel *kernel;
  unsigned count;
} netlathe_step;

#define NETLATHE_ALIGNMENT ((size_t)64)

typedef struct {
  const netlathe_operand *operands;
  const netlathe_step *steps;
  unsigned operand_count, step_count;
  size_t memory_bytes;  /* of all tensors between kernels */
  size_t scratch_bytes; /* of what kernels need beside them, for each thread */
  const unsigned char *weights;
} netlathe_plan;

extern const netlathe_plan netlathe_plan_of_net;
extern const char *const netlathe_features[]; /* that the code uses; NULL ends them */

#endif
