#define _GNU_SOURCE
#include "clock.h"

#ifdef __linux__
#include <sched.h>
#include <stdio.h>

unsigned netlathe_clock_mhz(void) {
  char name[80];
  unsigned khz = 0;
  snprintf(name, sizeof name, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", sched_getcpu());
  FILE *file = fopen(name, "r");
  if (file == NULL) return 0;
  if (fscanf(file, "%u", &khz) != 1) khz = 0;
  fclose(file);
  return khz / 1000;
}
#else
unsigned netlathe_clock_mhz(void) { return 0; }
#endif
