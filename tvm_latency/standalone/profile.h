/* Between the runtime and netbench. */
#ifndef NETLATHE_PROFILE_H
#define NETLATHE_PROFILE_H

#include "net.h"

/* A kernel has run, for so long. */
typedef void netlathe_after_step(void *context, unsigned step, double seconds);

/* netlathe_run, and how long it computed; `after` hears of each kernel, unless it is NULL. On a GPU `seconds` are those of the
 * device between the copies, and with `after` each kernel ends with an event, which takes time, too. */
int netlathe_run_timed(netlathe *instance, const float *input, float *output, double *seconds,
                       netlathe_after_step *after, void *context);

#endif
