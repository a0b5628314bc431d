// libnvidia-ml.so.1 on a CPU: the clock of the GPU that driver.cc has.
#include <string.h>

extern "C" {
static int begun;

int nvmlInit_v2(void) { return begun++, 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
  return *device = &begun, !begun || strcmp(id, "0000:01:00.0");
}
int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) { return *mhz = 1980, device != &begun || type != 1; }
}
