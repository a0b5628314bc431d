/* Lets the process that preloads this see a CPU without AVX-512 and AMX.

Every runtime asks the instruction CPUID what the CPU can do. Linux can make it fault (arch_prctl(2), ARCH_SET_CPUID); what
it answers is then given here, less the feature bits of what comes after AVX2. Threads and programs that are started
inherit this, programs because LD_PRELOAD is inherited. Where CPUID cannot fault nothing is hidden. A thread that blocks
SIGSEGV and asks is killed: it gets no wrong answer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012 };
enum { EAX, EBX, ECX, EDX };
#define BIT(n) (1u << (n))

static void answer_cpuid(long yes) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, yes); }

/* Intel's manual, volume 2A, CPUID. */
static void hide(unsigned leaf, unsigned subleaf, unsigned *r) {
    if (leaf == 7 && subleaf == 0) {
        /* AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL */
        r[EBX] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        /* VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
        r[ECX] &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        /* 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
        r[EDX] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    }
    if (leaf == 7 && subleaf == 1) {
        r[EAX] &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        r[EDX] &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19) | BIT(21));
        /* AVX-VNNI-INT8, NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10, APX */
    }
    if (leaf == 0xd && subleaf == 0)
        r[EAX] &= ~(BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18)); /* state of AVX-512 and AMX */
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    greg_t *saved = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)saved[REG_RIP];
    /* CPUID's is a general protection fault, which has no address. */
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) {
        signal(signal_number, SIG_DFL); /* the instruction runs again, and the process ends as it would have */
        return;
    }
    unsigned leaf = (unsigned)saved[REG_RAX], subleaf = (unsigned)saved[REG_RCX], r[4];
    answer_cpuid(1);
    __asm__ volatile("cpuid" : "=a"(r[EAX]), "=b"(r[EBX]), "=c"(r[ECX]), "=d"(r[EDX]) : "a"(leaf), "c"(subleaf));
    answer_cpuid(0);
    hide(leaf, subleaf, r);
    saved[REG_RAX] = r[EAX], saved[REG_RBX] = r[EBX], saved[REG_RCX] = r[ECX], saved[REG_RDX] = r[EDX];
    saved[REG_RIP] += 2;
}

/* What follows takes the place of libc's functions: a library that wants to report crashes (TVM's does) must not take the
signal away. */
typedef int set_action(int, const struct sigaction *, struct sigaction *);
typedef sighandler_t set_handler(int, sighandler_t);

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    set_action *libc = (set_action *)dlsym(RTLD_NEXT, "sigaction");
    return libc(number, number == SIGSEGV ? NULL : action, old);
}

sighandler_t signal(int number, sighandler_t handler) {
    set_handler *libc = (set_handler *)dlsym(RTLD_NEXT, "signal");
    return number == SIGSEGV && handler != SIG_DFL ? SIG_DFL : libc(number, handler);
}

__attribute__((constructor)) static void mask_cpuid(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    ((set_action *)dlsym(RTLD_NEXT, "sigaction"))(SIGSEGV, &action, NULL);
    answer_cpuid(0);
}
