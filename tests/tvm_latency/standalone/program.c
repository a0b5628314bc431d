/* A user's program: two instances at once, each with all threads that it may have, on the input of a file.
 *
 * program INPUT OUTPUT RUNS: what each instance answered, one after the other. Linked with --wrap=malloc and so on, it counts
 * allocations. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

enum { INSTANCES = 2, PAST = 3 };
static int runs;

static atomic_int counting, allocations;
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
int __real_posix_memalign(void **, size_t, size_t);
void *__wrap_malloc(size_t bytes) { return allocations += counting, __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) { return allocations += counting, __real_calloc(count, bytes); }
void *__wrap_realloc(void *block, size_t bytes) { return allocations += counting, __real_realloc(block, bytes); }
int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes) {
  return allocations += counting, __real_posix_memalign(block, alignment, bytes);
}

static float input[NETLATHE_INPUT_SIZE + PAST];
static float outputs[INSTANCES][NETLATHE_OUTPUT_SIZE + PAST];
static netlathe *instances[INSTANCES];

static void check(int status, const char *what) {
  if (status == NETLATHE_OK) return;
  fprintf(stderr, "%s: %s\n", what, netlathe_message(status));
  exit(1);
}

static void *run_often(void *argument) {
  int number = *(int *)argument;
  /* Neither begins where a vector would. */
  float *output = outputs[number] + number * PAST;
  for (int i = 0; i < runs; i++) check(netlathe_run(instances[number], input + PAST, output), "run");
  return NULL;
}

/* Of the runtime, not of its users: calls back after each kernel, while the instance computes. */
int netlathe_run_timed(netlathe *, const float *, float *, double *, void (*)(void *, unsigned, double), void *);

static void run_meanwhile(void *status, unsigned step, double seconds) {
  if (step == 0 && seconds > 0.0) *(int *)status = netlathe_run(instances[0], input + PAST, outputs[1]);
}

/* Tensors that begin where a vector does, and behind which nothing may be read or written. */
static void *run_shared(void *unused) {
  void *exact, *output;
  if (posix_memalign(&exact, 64, NETLATHE_INPUT_SIZE * sizeof(float)) ||
      posix_memalign(&output, 64, NETLATHE_OUTPUT_SIZE * sizeof(float)))
    exit(4);
  memcpy(exact, input + PAST, NETLATHE_INPUT_SIZE * sizeof(float));
  for (int i = 0; i < runs; i++) {
    int status = netlathe_run(instances[0], exact, output);
    if (status == NETLATHE_BUSY) continue;
    check(status, "run");
    if (memcmp(output, outputs[0], NETLATHE_OUTPUT_SIZE * sizeof(float))) exit(5);
  }
  free(exact);
  free(output);
  return unused;
}

int main(int count, char **words) {
  if (count != 4) return 2;
  runs = atoi(words[3]);
  FILE *file = fopen(words[1], "rb");
  if (!file || fread(input + PAST, sizeof(float), NETLATHE_INPUT_SIZE, file) != NETLATHE_INPUT_SIZE) return 2;
  fclose(file);
  netlathe *none;
  if (netlathe_create(&none, 0, 0) != NETLATHE_BAD_ARGUMENT || netlathe_create(NULL, 1, 0) != NETLATHE_BAD_ARGUMENT ||
      netlathe_create(&none, NETLATHE_MAX_THREADS + 1, 0) != NETLATHE_BAD_ARGUMENT ||
      netlathe_run(NULL, input, outputs[0]) != NETLATHE_BAD_ARGUMENT)
    return 3;
  netlathe_destroy(NULL);
  pthread_t threads[INSTANCES];
  int numbers[INSTANCES];
  for (int i = 0; i < INSTANCES; i++) check(netlathe_create(&instances[i], NETLATHE_MAX_THREADS, 0), "create");
  int meanwhile = NETLATHE_OK;
  double seconds;
  check(netlathe_run_timed(instances[0], input + PAST, outputs[0], &seconds, run_meanwhile, &meanwhile), "run");
  if (meanwhile != NETLATHE_BUSY) return 6;
  for (int i = 0; i < INSTANCES; i++) {
    numbers[i] = i;
    if (pthread_create(&threads[i], NULL, run_often, &numbers[i])) return 4;
  }
  for (int i = 0; i < INSTANCES; i++) pthread_join(threads[i], NULL);
  counting = 1;
  for (int i = 0; i < INSTANCES; i++) run_often(&numbers[i]);
  counting = 0;
  file = fopen(words[2], "wb");
  for (int i = 0; i < INSTANCES; i++) fwrite(outputs[i] + i * PAST, sizeof(float), NETLATHE_OUTPUT_SIZE, file);
  fclose(file);
  for (int i = 0; i < INSTANCES; i++)
    if (pthread_create(&threads[i], NULL, run_shared, NULL)) return 4;
  for (int i = 0; i < INSTANCES; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < INSTANCES; i++) netlathe_destroy(instances[i]);
  printf("allocations %d\n", (int)allocations);
  return 0;
}
