/* The functions of NVIDIA's driver that are used, found when the program runs: a network needs no toolkit, and says so
 * where there is no driver. Names and numbers are those of cuda.h, CUDA Driver API 12. */
#ifndef NETLATHE_DRIVER_H
#define NETLATHE_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult; /* 0: it worked */
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
  CU_MAJOR = 75, /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ..._MINOR */
  CU_MINOR = 76,
  CU_NON_BLOCKING = 1,         /* CU_STREAM_NON_BLOCKING */
  CU_CAPTURE_THREAD = 1,       /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
  CU_EXTERNAL = 1,             /* CU_EVENT_RECORD_EXTERNAL: an event is recorded whenever its graph runs */
  CU_DYNAMIC_SHARED_BYTES = 8, /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
  CU_OUT_OF_MEMORY = 2         /* CUDA_ERROR_OUT_OF_MEMORY */
};

/* Each function, its symbol in the library, and its arguments. */
#define NETLATHE_DRIVER(F) \
  F(cuInit, cuInit, (unsigned)) \
  F(cuGetErrorName, cuGetErrorName, (CUresult, const char **)) \
  F(cuDeviceGet, cuDeviceGet, (CUdevice *, int)) \
  F(cuDeviceGetAttribute, cuDeviceGetAttribute, (int *, int, CUdevice)) \
  F(cuDeviceGetPCIBusId, cuDeviceGetPCIBusId, (char *, int, CUdevice)) \
  F(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice)) \
  F(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice)) \
  F(cuCtxPushCurrent, cuCtxPushCurrent_v2, (CUcontext)) \
  F(cuCtxPopCurrent, cuCtxPopCurrent_v2, (CUcontext *)) \
  F(cuModuleLoadData, cuModuleLoadData, (CUmodule *, const void *)) \
  F(cuModuleUnload, cuModuleUnload, (CUmodule)) \
  F(cuModuleGetFunction, cuModuleGetFunction, (CUfunction *, CUmodule, const char *)) \
  F(cuFuncSetAttribute, cuFuncSetAttribute, (CUfunction, int, int)) \
  F(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr *, size_t)) \
  F(cuMemFree, cuMemFree_v2, (CUdeviceptr)) \
  F(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream)) \
  F(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream)) \
  F(cuMemsetD8Async, cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream)) \
  F(cuStreamCreate, cuStreamCreate, (CUstream *, unsigned)) \
  F(cuStreamDestroy, cuStreamDestroy_v2, (CUstream)) \
  F(cuStreamSynchronize, cuStreamSynchronize, (CUstream)) \
  F(cuStreamWaitEvent, cuStreamWaitEvent, (CUstream, CUevent, unsigned)) \
  F(cuStreamBeginCapture, cuStreamBeginCapture_v2, (CUstream, int)) \
  F(cuStreamEndCapture, cuStreamEndCapture, (CUstream, CUgraph *)) \
  F(cuGraphInstantiate, cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long)) \
  F(cuGraphLaunch, cuGraphLaunch, (CUgraphExec, CUstream)) \
  F(cuGraphExecDestroy, cuGraphExecDestroy, (CUgraphExec)) \
  F(cuGraphDestroy, cuGraphDestroy, (CUgraph)) \
  F(cuEventCreate, cuEventCreate, (CUevent *, unsigned)) \
  F(cuEventDestroy, cuEventDestroy_v2, (CUevent)) \
  F(cuEventRecord, cuEventRecord, (CUevent, CUstream)) \
  F(cuEventRecordWithFlags, cuEventRecordWithFlags, (CUevent, CUstream, unsigned)) \
  F(cuEventSynchronize, cuEventSynchronize, (CUevent)) \
  F(cuEventElapsedTime, cuEventElapsedTime, (float *, CUevent, CUevent)) \
  F(cuLaunchKernel, cuLaunchKernel, \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))

typedef struct {
#define MEMBER(name, symbol, arguments) CUresult(*name) arguments;
  NETLATHE_DRIVER(MEMBER)
#undef MEMBER
} netlathe_driver;

/* The driver, initialised; NULL where there is none, or no GPU. Any thread may ask at any time. */
const netlathe_driver *netlathe_find_driver(void);

#endif
