#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

static netlathe_driver driver;
static bool found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return;
  bool all = true;
  /* POSIX has dlsym answer functions as pointers to objects. */
#define FIND(name, symbol, arguments)         \
  *(void **)&driver.name = dlsym(library, #symbol); \
  all = all && driver.name != NULL;
  NETLATHE_DRIVER(FIND)
#undef FIND
  found = all && driver.cuInit(0) == 0;
}

const netlathe_driver *netlathe_find_driver(void) {
  pthread_once(&once, find);
  return found ? &driver : NULL;
}
