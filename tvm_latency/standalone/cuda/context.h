/* The first GPU that the driver shows, shared with whoever else uses it in this process. */
#ifndef NETLATHE_CONTEXT_H
#define NETLATHE_CONTEXT_H

#include <stdbool.h>

#include "driver.h"

typedef struct {
  const netlathe_driver *driver;
  CUdevice device;
  CUcontext context;
} netlathe_context;

/* Finds the GPU and enters it; false where there is none. */
static inline bool netlathe_open(netlathe_context *c) {
  c->driver = netlathe_find_driver();
  if (c->driver == NULL || c->driver->cuDeviceGet(&c->device, 0)) return false;
  if (c->driver->cuDevicePrimaryCtxRetain(&c->context, c->device)) return false;
  if (c->driver->cuCtxPushCurrent(c->context) == 0) return true;
  c->driver->cuDevicePrimaryCtxRelease(c->device);
  return false;
}

/* The calling thread's own context, whatever it is, comes back when it leaves. */
static inline void netlathe_enter(const netlathe_context *c) { c->driver->cuCtxPushCurrent(c->context); }

static inline void netlathe_leave(const netlathe_context *c) {
  CUcontext left;
  c->driver->cuCtxPopCurrent(&left);
}

static inline void netlathe_close(const netlathe_context *c) { c->driver->cuDevicePrimaryCtxRelease(c->device); }

#endif
