/* Which instruction set extensions this CPU has, by LLVM's names.
 *
 * What is not in the table is taken to be there. Cryptography and CRCs are left out on purpose: LLVM says that cores have
 * them which boards are sold without (the Raspberry Pi 4), and no kernel is compiled to them. */
#include <stdbool.h>
#include <string.h>

#include "net.h"
#include "plan.h"

typedef struct {
  const char *name;
  uint8_t word, bit;
} feature;

#if defined(__x86_64__)
#include <cpuid.h>

enum { LEAF1_C, LEAF7_B, LEAF7_C, LEAF7_D, LEAF7_1_A, EXTENDED_C, XCR0, WORDS };

static const feature features[] = {
    {"sse3", LEAF1_C, 0},         {"ssse3", LEAF1_C, 9},        {"fma", LEAF1_C, 12},         {"sse4.1", LEAF1_C, 19},
    {"sse4.2", LEAF1_C, 20},      {"movbe", LEAF1_C, 22},       {"popcnt", LEAF1_C, 23},      {"avx", LEAF1_C, 28},
    {"f16c", LEAF1_C, 29},        {"bmi", LEAF7_B, 3},          {"avx2", LEAF7_B, 5},         {"bmi2", LEAF7_B, 8},
    {"avx512f", LEAF7_B, 16},     {"avx512dq", LEAF7_B, 17},    {"avx512ifma", LEAF7_B, 21},  {"avx512cd", LEAF7_B, 28},
    {"avx512bw", LEAF7_B, 30},    {"avx512vl", LEAF7_B, 31},    {"avx512vbmi", LEAF7_C, 1},   {"avx512vbmi2", LEAF7_C, 6},
    {"avx512vnni", LEAF7_C, 11},  {"avx512bitalg", LEAF7_C, 12}, {"avx512vpopcntdq", LEAF7_C, 14},
    {"avx512vp2intersect", LEAF7_D, 8}, {"avx512fp16", LEAF7_D, 23}, {"avxvnni", LEAF7_1_A, 4},
    {"avx512bf16", LEAF7_1_A, 5}, {"lzcnt", EXTENDED_C, 5},     {"fma4", EXTENDED_C, 16},     {"gfni", LEAF7_C, 8},
};

static void detect(uint32_t words[WORDS]) {
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) words[LEAF1_C] = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) words[LEAF7_B] = b, words[LEAF7_C] = c, words[LEAF7_D] = d;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) words[LEAF7_1_A] = a;
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) words[EXTENDED_C] = c;
  if (words[LEAF1_C] & 1u << 27) __asm__ volatile("xgetbv" : "=a"(words[XCR0]), "=d"(d) : "c"(0));
}

/* A CPU may have registers that the system does not save. */
static bool saved(const char *name, const uint32_t words[WORDS]) {
  uint32_t needed = strncmp(name, "avx512", 6) == 0 ? 0xe6 : strncmp(name, "avx", 3) == 0 || !strcmp(name, "fma") ? 6 : 0;
  return (words[XCR0] & needed) == needed;
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>

/* By LLVM's names and by Arm's, which macOS 12 and later have behind this prefix; NEON is in every CPU. */
#define SYSCTL "hw.optional.arm.FEAT_"
#define EACH(X) \
  X(lse, LSE) X(fullfp16, FP16) X(rdm, RDM) X(rcpc, LRCPC) X(dotprod, DotProd) X(fp16fml, FHM) X(i8mm, I8MM) X(bf16, BF16)
#define WORD(llvm, arm) arm,
#define NAME(llvm, arm) SYSCTL #arm,
#define FEATURE(llvm, arm) {#llvm, arm, 0},

/* A word for each, which is 1 if it is there. */
enum { EACH(WORD) WORDS };
static const char *const names[] = {EACH(NAME)};
static const feature features[] = {EACH(FEATURE)};

static void detect(uint32_t words[WORDS]) {
  for (unsigned i = 0; i < WORDS; i++) {
    size_t size = sizeof *words;
    sysctlbyname(names[i], &words[i], &size, NULL, 0);
  }
}
#else
#include <sys/auxv.h>

enum { HWCAP, HWCAP2, WORDS };

static const feature features[] = {
#if defined(__aarch64__)
    {"neon", HWCAP, 1},     {"lse", HWCAP, 8},      {"fullfp16", HWCAP, 10}, {"rdm", HWCAP, 12}, {"rcpc", HWCAP, 15},
    {"dotprod", HWCAP, 20}, {"sve", HWCAP, 22},     {"fp16fml", HWCAP, 23},  {"sve2", HWCAP2, 1}, {"i8mm", HWCAP2, 13},
    {"bf16", HWCAP2, 14},
#elif defined(__arm__)
    {"neon", HWCAP, 12}, {"vfp3", HWCAP, 13}, {"vfp4", HWCAP, 16}, {"hwdiv-arm", HWCAP, 17},
#elif defined(__riscv)
    {"m", HWCAP, 'm' - 'a'}, {"a", HWCAP, 0}, {"f", HWCAP, 'f' - 'a'}, {"d", HWCAP, 'd' - 'a'}, {"c", HWCAP, 'c' - 'a'},
    {"v", HWCAP, 'v' - 'a'},
#endif
};

static void detect(uint32_t words[WORDS]) {
  words[HWCAP] = (uint32_t)getauxval(AT_HWCAP);
  words[HWCAP2] = (uint32_t)getauxval(AT_HWCAP2);
}
#endif

#if !defined(__x86_64__)
static bool saved(const char *name, const uint32_t words[WORDS]) {
  (void)name, (void)words;
  return true;
}
#endif

const char *netlathe_missing_feature(void) {
  uint32_t words[WORDS] = {0};
  detect(words);
  for (const char *const *name = netlathe_features; *name != NULL; name++)
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
      if (!strcmp(features[i].name, *name) && !(words[features[i].word] >> features[i].bit & 1 && saved(*name, words)))
        return *name;
  return NULL;
}
