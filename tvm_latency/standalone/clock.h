/* How fast what computes runs at the moment. */
#ifndef NETLATHE_CLOCK_H
#define NETLATHE_CLOCK_H

/* Megahertz of the present CPU, or of the GPU's multiprocessors; 0 where nobody says. */
unsigned netlathe_clock_mhz(void);

#endif
