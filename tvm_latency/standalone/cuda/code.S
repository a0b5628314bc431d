/* Machine code of the GPU, as the driver loads it. */
  .section .rodata.netlathe_code,"a"
  .hidden netlathe_code
  .balign 64
  .globl netlathe_code
netlathe_code:
  .incbin "code.bin"
  .section .note.GNU-stack,"",%progbits
