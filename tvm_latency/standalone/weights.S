/* The weights, read-only and never copied. */
  .section .rodata.netlathe_weights,"a"
  .balign 64
  .globl netlathe_weights
  .hidden netlathe_weights
netlathe_weights:
  .incbin "weights.bin"
  /* Kernels fetch ahead of what they read. */
  .balign 64
  .section .note.GNU-stack,"",%progbits
