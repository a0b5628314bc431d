/* A plugin of qemu's user mode that counts what a program of one thread executes: instructions and, with l1= and l2=,
 * instructions that load and that store, and misses of a level-1 data cache and a level 2 of so many bytes.
 *
 * cc -shared -fPIC -DVERSION=1 qemu_count.c -o qemu_count.so
 * qemu-aarch64 -plugin ./qemu_count.so,out=FILE[,l1=BYTES,l2=BYTES] program
 *
 * VERSION is that of qemu's plugin API: 1 before qemu 9, then 2. What is used here is the same in both. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of qemu-plugin.h, which distributions do not package. */
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int registers, void *);
void qemu_plugin_register_vcpu_mem_cb(
    struct qemu_plugin_insn *, void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *), int registers, int which,
    void *);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);

#define VISIBLE __attribute__((visibility("default")))
VISIBLE int qemu_plugin_version = VERSION;

enum { LINE_BITS = 6, WAYS = 8 };

/* The least recently used line of a set makes room. Each set is in the order of use; an entry is a line's number, and
 * one more, so that nothing is in it at first. */
struct cache {
  uint64_t sets, misses;
  uint64_t (*lines)[WAYS];
};

static struct cache l1, l2;
static uint64_t instructions, blocks, loads, stores;
static char out[4096];

static void prepare(struct cache *cache, const char *bytes) {
  cache->sets = strtoull(bytes, NULL, 10) >> LINE_BITS;
  cache->sets /= WAYS;
  if (cache->sets == 0) cache->sets = 1;
  cache->lines = calloc(cache->sets, sizeof *cache->lines);
  if (cache->lines == NULL) abort();
}

static bool has(struct cache *cache, uint64_t line) {
  uint64_t *set = cache->lines[line % cache->sets];
  int way = 0;
  while (way < WAYS - 1 && set[way] != line + 1) way++;
  bool found = set[way] == line + 1;
  memmove(set + 1, set, way * sizeof *set);
  set[0] = line + 1;
  cache->misses += !found;
  return found;
}

static void executed(unsigned cpu, void *count) {
  (void)cpu;
  instructions += (uintptr_t)count;
  blocks++;
}

static void accessed(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *instruction) {
  /* One instruction may access memory by several parts, and is in a block once. */
  static void *last;
  static uint64_t last_block;
  (void)cpu;
  if (instruction != last || blocks != last_block) *(qemu_plugin_mem_is_store(info) ? &stores : &loads) += 1;
  last = instruction, last_block = blocks;
  if (!has(&l1, address >> LINE_BITS)) has(&l2, address >> LINE_BITS);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  static uintptr_t known;
  size_t count = qemu_plugin_tb_n_insns(block);
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, (void *)(uintptr_t)count);
  for (size_t i = 0; l1.lines != NULL && i < count; i++)
    qemu_plugin_register_vcpu_mem_cb(
        qemu_plugin_tb_get_insn(block, i), accessed, NO_REGISTERS, READS_AND_WRITES, (void *)++known);
}

static void finished(qemu_plugin_id_t id, void *unused) {
  (void)id, (void)unused;
  FILE *file = fopen(out, "w");
  if (file == NULL) return;
  fprintf(file, "{\"instructions\": %llu", (unsigned long long)instructions);
  if (l1.lines != NULL)
    fprintf(
        file, ", \"loads\": %llu, \"stores\": %llu, \"l1_misses\": %llu, \"l2_misses\": %llu", (unsigned long long)loads,
        (unsigned long long)stores, (unsigned long long)l1.misses, (unsigned long long)l2.misses);
  fprintf(file, "}\n");
  fclose(file);
}

VISIBLE int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **options) {
  (void)info;
  for (int i = 0; i < count; i++) {
    if (!strncmp(options[i], "out=", 4)) snprintf(out, sizeof out, "%s", options[i] + 4);
    if (!strncmp(options[i], "l1=", 3)) prepare(&l1, options[i] + 3);
    if (!strncmp(options[i], "l2=", 3)) prepare(&l2, options[i] + 3);
  }
  if ((l1.lines == NULL) != (l2.lines == NULL)) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
