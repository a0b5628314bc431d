/* The weights, read-only and never copied. */
#if defined(__APPLE__)
#define WEIGHTS _netlathe_weights
  .section __TEXT,__const
  .private_extern WEIGHTS
#else
#define WEIGHTS netlathe_weights
  .section .rodata.netlathe_weights,"a"
  .hidden WEIGHTS
#endif
  .balign 64
  .globl WEIGHTS
WEIGHTS:
  .incbin "weights.bin"
  /* Kernels fetch ahead of what they read. */
  .balign 64
#if !defined(__APPLE__)
  .section .note.GNU-stack,"",%progbits
#endif
