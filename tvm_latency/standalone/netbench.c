/* netbench: tests the network inside against its reference output, then times it. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "clock.h"
#include "evict.h"
#include "expected.h"
#include "plan.h"
#include "profile.h"
#include "system.h"

enum { WRONG = 1, USAGE = 2, WRONG_CPU = 3, OUT_OF_RESOURCES = 4, FAILED = 5 };

static const char HELP[] =
    "%s\n"
    "usage: netbench [--num_runs=50] [--min_secs=1] [--max_secs=150] [--warmup_runs=1] [--num_threads=1]\n"
    "                [--cpu_mask=HEX] [--evict_bytes=0] [--deadline_secs=0] [--profile] [--json] [--samples]\n"
    "Times at least num_runs inferences and at least min_secs seconds, but no longer than max_secs; none if num_runs is\n"
    "0. evict_bytes of memory pass through the caches before each; the program is killed after deadline_secs, unless\n"
    "that is 0; --samples adds every time to --json.\n"
    "Exit codes: 0 right; 1 the output is wrong; 2 an option is wrong; 3 the machine lacks what the code needs;\n"
    "4 no memory, no thread, or no CPU of the mask; 5 a kernel failed.\n";

typedef struct {
  unsigned long num_runs, warmup_runs, num_threads, evict_bytes, deadline_secs;
  uint64_t cpu_mask;
  double min_secs, max_secs;
  bool profile, json, samples;
} settings;

static float input[NETLATHE_INPUT_SIZE] __attribute__((aligned(64)));
static float output[NETLATHE_OUTPUT_SIZE] __attribute__((aligned(64)));

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int complain(int code, const char *text, const char *what) {
  fprintf(stderr, "netbench: %s%s\n", text, what);
  return code;
}

/* Options as benchmark_model of TensorFlow Lite has them. */
static int parse(settings *s, int count, char **words) {
  for (int i = 1; i < count; i++) {
    const char *value = strchr(words[i], '=');
    size_t length = value ? (size_t)(value++ - words[i]) : strlen(words[i]);
    char *end = NULL;
    errno = 0;
#define IS(name) (length == strlen(name) && !strncmp(words[i], name, length))
    if (IS("--profile") && !value) s->profile = true;
    else if (IS("--json") && !value) s->json = true;
    else if (IS("--samples") && !value) s->samples = true;
    else if (!value) return complain(USAGE, "no such option, or it lacks =VALUE: ", words[i]);
    else if (IS("--num_runs")) s->num_runs = strtoul(value, &end, 10);
    else if (IS("--warmup_runs")) s->warmup_runs = strtoul(value, &end, 10);
    else if (IS("--num_threads")) s->num_threads = strtoul(value, &end, 10);
    else if (IS("--evict_bytes")) s->evict_bytes = strtoul(value, &end, 10);
    else if (IS("--deadline_secs")) s->deadline_secs = strtoul(value, &end, 10);
    else if (IS("--cpu_mask")) s->cpu_mask = strtoull(value, &end, 16);
    else if (IS("--min_secs")) s->min_secs = strtod(value, &end);
    else if (IS("--max_secs")) s->max_secs = strtod(value, &end);
    else return complain(USAGE, "no such option: ", words[i]);
#undef IS
    if (value && (*value == '\0' || *value == '-' || *end != '\0' || errno == ERANGE))
      return complain(USAGE, "not a number, or too large: ", words[i]);
  }
  if (s->num_threads == 0 || s->num_threads > NETLATHE_MAX_THREADS)
    return complain(USAGE, "--num_threads must be between 1 and what the network was compiled for", "");
  return 0;
}

/* Multiples of 2^-15 between -1 and 1, which every machine computes alike. */
static void probe_input(void) {
  for (uint32_t i = 0; i < NETLATHE_INPUT_SIZE; i++) input[i] = (float)(i * 2654435761u >> 16) / 32768.0f - 1.0f;
}

static double largest_error(void) {
  double largest = 0.0;
  for (unsigned i = 0; i < NETLATHE_OUTPUT_SIZE; i++) {
    double error = fabs((double)output[i] - (double)netlathe_expected[i]);
    if (isnan(error)) return INFINITY;
    if (error > largest) largest = error;
  }
  return largest;
}

static unsigned top1(const float *values) {
  unsigned best = 0;
  for (unsigned i = 1; i < NETLATHE_OUTPUT_SIZE; i++)
    if (values[i] > values[best]) best = i;
  return best;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double percentile(const double *sorted, size_t count, double share) {
  size_t index = (size_t)ceil(share * (double)count);
  return sorted[index > 0 ? index - 1 : 0];
}

static void add_step(void *context, unsigned step, double seconds) {
  double *of_steps = context;
  of_steps[step] += seconds;
}

/* Of each inference: how long it computed, and how long the call took, which copies where a GPU computes. */
typedef struct {
  double *samples, *calls;
  size_t count;
} times;

static bool make_room(times *t, size_t room) {
  double *samples = realloc(t->samples, room * sizeof *samples);
  if (samples != NULL) t->samples = samples;
  double *calls = realloc(t->calls, room * sizeof *calls);
  if (calls != NULL) t->calls = calls;
  return samples != NULL && calls != NULL;
}

/* The status of the last inference. */
static int measure(netlathe *net, const settings *s, const netlathe_evictor *evictor, times *t, double *of_steps) {
  size_t room = 0;
  double begin = now();
  while (s->num_runs > 0 && (t->count < s->num_runs || now() - begin < s->min_secs) &&
         (t->count == 0 || now() - begin < s->max_secs)) {
    if (t->count == room && !make_room(t, room = 2 * room + 64)) return NETLATHE_NO_MEMORY;
    if (s->evict_bytes) netlathe_evict(evictor, input, NETLATHE_INPUT_SIZE);
    double start = now();
    int status = netlathe_run_timed(net, input, output, &t->samples[t->count], s->profile ? add_step : NULL, of_steps);
    if (status != NETLATHE_OK) return status;
    t->calls[t->count++] = now() - start;
  }
  return NETLATHE_OK;
}

static void print_times(const settings *s, const double *sorted, size_t count, double mean) {
  const char *names[] = {"min_ms", "mean_ms", "median_ms", "p90_ms", "p99_ms", "max_ms"};
  double times[] = {sorted[0], mean, percentile(sorted, count, 0.5), percentile(sorted, count, 0.9),
                    percentile(sorted, count, 0.99), sorted[count - 1]};
  for (size_t i = 0; i < sizeof times / sizeof *times; i++)
    printf(s->json ? ", \"%s\": %.6f" : "%-10s %10.4f\n", names[i], 1e3 * times[i]);
}

static void print_profile(const settings *s, const double *seconds, double sum, size_t count) {
  printf(s->json ? ", \"operators\": [" : "\nmean ms   share  operator\n");
  for (unsigned i = 0; i < netlathe_plan_of_net.step_count; i++) {
    const char *name = netlathe_plan_of_net.steps[i].name;
    double mean_ms = 1e3 * seconds[i] / (double)count;
    if (s->json) printf("%s{\"name\": \"%s\", \"mean_ms\": %.6f}", i ? ", " : "", name, mean_ms);
    else printf("%8.4f %5.1f%%  %s\n", mean_ms, 100.0 * seconds[i] / sum, name);
  }
  printf(s->json ? "]" : "");
}

static void print_calls(const settings *s, double *calls, size_t count) {
  qsort(calls, count, sizeof *calls, ascending);
  double median = percentile(calls, count, 0.5);
  printf(s->json ? ", \"call_median_ms\": %.6f" : "median_ms of calls, copies included: %.4f\n", 1e3 * median);
}

/* Sorts the samples. */
static void print_samples(const settings *s, double *samples, size_t count, const double *step_seconds) {
  if (s->json && s->samples) {
    printf(", \"samples_s\": [");
    for (size_t i = 0; i < count; i++) printf("%s%.9g", i ? ", " : "", samples[i]);
    printf("]");
  }
  double sum = 0.0;
  for (size_t i = 0; i < count; i++) sum += samples[i];
  qsort(samples, count, sizeof *samples, ascending);
  print_times(s, samples, count, sum / (double)count);
  if (s->profile) print_profile(s, step_seconds, sum, count);
}

static void print(const settings *s, double error, times *t, const double *step_seconds, unsigned clock_mhz) {
  printf(s->json ? "{\"net\": \"%s\", \"threads\": %lu, \"runs\": %zu, \"max_abs_error\": %.3g"
                 : "%s\n%lu thread(s), %zu runs, largest error %.3g\n",
         netlathe_title, s->num_threads, t->count, error);
  if (s->json) printf(", \"same_top1\": %s", top1(output) == top1(netlathe_expected) ? "true" : "false");
  if (clock_mhz) printf(s->json ? ", \"clock_mhz\": %u" : "clock: %u MHz\n", clock_mhz);
  if (t->count > 0) {
    print_samples(s, t->samples, t->count, step_seconds);
    if (NETLATHE_COPIES) print_calls(s, t->calls, t->count);
  }
  printf(s->json ? "}\n" : "");
}

static int failed(int status) {
  return complain(status == NETLATHE_NO_MEMORY || status == NETLATHE_NO_THREAD ? OUT_OF_RESOURCES : FAILED,
                  netlathe_message(status), "");
}

static int bench(netlathe *net, const settings *s) {
  probe_input();
  int status = netlathe_run(net, input, output);
  if (status != NETLATHE_OK) return failed(status);
  double error = largest_error();
  if (!(error <= netlathe_tolerance)) {
    fprintf(stderr, "netbench: the output is off by %.3g, more than rounding explains (%.3g).\n", error,
            netlathe_tolerance);
    return WRONG;
  }
  for (unsigned long i = 0; i < s->warmup_runs; i++) netlathe_run(net, input, output);
  times t = {0};
  double *of_steps = calloc(netlathe_plan_of_net.step_count, sizeof *of_steps);
  netlathe_evictor *evictor = netlathe_evictor_create(s->evict_bytes, s->cpu_mask);
  /* What asks for the clock is ready before the last inference; and nothing asks where none is timed. */
  if (s->num_runs) netlathe_clock_mhz();
  status = of_steps && evictor ? measure(net, s, evictor, &t, of_steps) : NETLATHE_NO_MEMORY;
  if (status == NETLATHE_OK) print(s, error, &t, of_steps, t.count ? netlathe_clock_mhz() : 0);
  free(t.samples);
  free(t.calls);
  if (evictor != NULL) netlathe_evictor_destroy(evictor);
  free(of_steps);
  return status == NETLATHE_OK ? 0 : failed(status);
}

int netlathe_bench(int count, char **words) {
  settings s = {.num_runs = 50, .warmup_runs = 1, .num_threads = 1, .min_secs = 1.0, .max_secs = 150.0};
  if (count > 1 && !strcmp(words[1], "--help")) return printf(HELP, netlathe_title) < 0;
  int wrong = parse(&s, count, words);
  if (wrong) return wrong;
  const char *missing = netlathe_missing_feature();
  if (missing) {
    fprintf(stderr, "netbench: this %s lacks %s, which the network was compiled for. Compile it for this %s.\n",
            NETLATHE_MACHINE, missing, NETLATHE_MACHINE);
    return WRONG_CPU;
  }
  if (s.deadline_secs) alarm((unsigned)s.deadline_secs);
  if (s.cpu_mask && !netlathe_bind(s.cpu_mask)) {
    fprintf(stderr, "netbench: no CPU of the mask %llx is there or may be chosen.\n", (unsigned long long)s.cpu_mask);
    return OUT_OF_RESOURCES;
  }
  netlathe *net;
  int status = netlathe_create(&net, (int)s.num_threads, s.cpu_mask);
  if (status != NETLATHE_OK) return failed(status);
  /* The threads have a CPU each, and this one the first. */
  if (s.cpu_mask && s.num_threads > 1) netlathe_bind(s.cpu_mask & -s.cpu_mask);
  int answer = bench(net, &s);
  netlathe_destroy(net);
  return answer;
}
