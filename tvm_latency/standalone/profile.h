/* Between the runtime and netbench. */
#ifndef NETLATHE_PROFILE_H
#define NETLATHE_PROFILE_H

#include "net.h"

/* A kernel has run, for so long. */
typedef void netlathe_after_step(void *context, unsigned step, double seconds);

/* netlathe_run, and how long it computed; `after` follows each kernel, unless it is NULL. */
int netlathe_run_timed(netlathe *instance, const float *input, float *output, double *seconds,
                       netlathe_after_step *after, void *context);

#endif
