/* Runs plugins, which are programs as libraries, one after the other in one process: what a process takes to get hold of a
 * GPU, it takes once. It says when it is ready. A line of standard input is a plugin and its options; a line with its status
 * follows what it prints. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WORDS = 64, LINE = 4096, BROKEN = 4, PATIENCE_SECS = 60 };

typedef int entry(int count, char **words);
typedef int driver_function();

/* Keeps the GPU's context alive between plugins. What cannot be, the plugins say. */
static driver_function *hold_gpu(int *device) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW), *context;
  if (driver == NULL) return NULL;
  driver_function *init = (driver_function *)dlsym(driver, "cuInit");
  driver_function *get = (driver_function *)dlsym(driver, "cuDeviceGet");
  driver_function *retain = (driver_function *)dlsym(driver, "cuDevicePrimaryCtxRetain");
  driver_function *release = (driver_function *)dlsym(driver, "cuDevicePrimaryCtxRelease_v2");
  if (!init || !get || !retain || !release || init(0) || get(device, 0) || retain(&context, *device)) return NULL;
  return release;
}

static int run(char *line) {
  char *words[WORDS], *word = strtok(line, " \n");
  int count = 0;
  for (; word != NULL && count < WORDS; word = strtok(NULL, " \n")) words[count++] = word;
  alarm(PATIENCE_SECS);
  void *plugin = count ? dlopen(words[0], RTLD_NOW | RTLD_LOCAL) : NULL;
  entry *netbench = plugin ? (entry *)dlsym(plugin, "netlathe_bench") : NULL;
  if (netbench == NULL) {
    fprintf(stderr, "%s\n", count ? dlerror() : "an empty line");
    alarm(0);
    return BROKEN;
  }
  /* It sets itself a deadline, which unloading it is within. */
  int status = netbench(count, words);
  fflush(stdout);
  dlclose(plugin);
  alarm(0);
  return status;
}

int main(void) {
  static char line[LINE];
  int device;
  /* The driver of a GPU that is out of order may never answer. */
  alarm(PATIENCE_SECS);
  driver_function *release = hold_gpu(&device);
  alarm(0);
  puts("ready");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    int status = run(line);
    /* Whatever printed last may not have ended its line. */
    printf("\nstatus %d\n", status);
    fflush(stdout);
  }
  alarm(PATIENCE_SECS);
  if (release != NULL) release(device);
  return 0;
}
