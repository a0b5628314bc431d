/* What operating systems do each in a way of their own: waiting for a number to change, and choosing CPUs. */
#ifndef NETLATHE_SYSTEM_H
#define NETLATHE_SYSTEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A number that threads wait for. All zero: nobody waits for it. */
typedef struct {
  atomic_uint value, sleepers;
} netlathe_event;

/* Returns once the number is another. */
void netlathe_sleep_while(netlathe_event *event, unsigned value);

/* After a change of the number, in sequential order. */
void netlathe_wake(netlathe_event *event);

/* Binds the calling thread to the CPUs of the mask, bit by bit; false where none of them is there, or none can be chosen. */
bool netlathe_bind(uint64_t cpu_mask);

#endif
