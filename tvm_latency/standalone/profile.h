/* Between the runtime and netbench. */
#ifndef NETLATHE_PROFILE_H
#define NETLATHE_PROFILE_H

#include "net.h"

typedef void netlathe_after_step(void *context, unsigned step);

/* netlathe_run; `after` follows each kernel, unless it is NULL. */
int netlathe_run_profiled(netlathe *instance, const float *input, float *output, netlathe_after_step *after,
                          void *context);

#endif
