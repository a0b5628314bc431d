/* What netbench compares with: what the network answers to the input that `probe_input` makes. */
#ifndef NETLATHE_EXPECTED_H
#define NETLATHE_EXPECTED_H

extern const char netlathe_title[];
extern const float netlathe_expected[];   /* NETLATHE_OUTPUT_SIZE */
extern const double netlathe_tolerance;   /* the largest absolute difference that rounding explains */

#endif
