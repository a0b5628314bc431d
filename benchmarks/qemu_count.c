/* A plugin of qemu's user mode (API of 7.2, Debian 12) that counts what a program executes: instructions, loads, stores.
 *
 * cc -shared -fPIC qemu_count.c -o qemu_count.so; qemu-aarch64 -plugin ./qemu_count.so,out=FILE program */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Of qemu-plugin.h, which Debian does not package. */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { INLINE_ADD_U64 = 0, MEM_R = 1, MEM_W = 2 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *counter, uint64_t by);
void qemu_plugin_register_vcpu_mem_inline(struct qemu_plugin_insn *, int which, int operation, void *counter, uint64_t by);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);

#define VISIBLE __attribute__((visibility("default")))
VISIBLE int qemu_plugin_version = 1;

static uint64_t instructions, loads, stores;
static char out[4096];

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  size_t count = qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &instructions, count);
  for (size_t i = 0; i < count; i++) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    qemu_plugin_register_vcpu_mem_inline(instruction, MEM_R, INLINE_ADD_U64, &loads, 1);
    qemu_plugin_register_vcpu_mem_inline(instruction, MEM_W, INLINE_ADD_U64, &stores, 1);
  }
}

static void finished(qemu_plugin_id_t id, void *unused) {
  (void)id, (void)unused;
  FILE *file = fopen(out, "w");
  if (file == NULL) return;
  fprintf(file, "{\"instructions\": %llu, \"loads\": %llu, \"stores\": %llu}\n", (unsigned long long)instructions,
          (unsigned long long)loads, (unsigned long long)stores);
  fclose(file);
}

VISIBLE int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **options) {
  (void)info;
  for (int i = 0; i < count; i++)
    if (!strncmp(options[i], "out=", 4)) snprintf(out, sizeof out, "%s", options[i] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
