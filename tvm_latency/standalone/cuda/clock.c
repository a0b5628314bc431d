/* NVIDIA's management library comes with the driver. Names and numbers are those of nvml.h. */
#include "clock.h"

#include <dlfcn.h>
#include <stddef.h>

#include "driver.h"

enum { CLOCK_SM = 1, BUS_ID_BYTES = 32 }; /* NVML_CLOCK_SM */

typedef struct nvmlDevice_st *nvml_device;

unsigned netlathe_clock_mhz(void) {
  const netlathe_driver *driver = netlathe_find_driver();
  /* It stays loaded: a plugin that comes later finds it begun. */
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == NULL || library == NULL) return 0;
  int (*begin)(void), (*find)(const char *, nvml_device *), (*clock)(nvml_device, int, unsigned *);
  *(void **)&begin = dlsym(library, "nvmlInit_v2");
  *(void **)&find = dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
  *(void **)&clock = dlsym(library, "nvmlDeviceGetClockInfo");
  char bus[BUS_ID_BYTES];
  CUdevice gpu;
  nvml_device device;
  unsigned mhz;
  if (!begin || !find || !clock || begin() || driver->cuDeviceGet(&gpu, 0)) return 0;
  if (driver->cuDeviceGetPCIBusId(bus, sizeof bus, gpu) || find(bus, &device)) return 0;
  return clock(device, CLOCK_SM, &mhz) ? 0 : mhz;
}
