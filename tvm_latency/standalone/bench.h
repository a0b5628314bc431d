/* netbench, as a program and as a plugin, which has a name to be found by. */
#ifndef NETLATHE_BENCH_H
#define NETLATHE_BENCH_H

__attribute__((visibility("default"))) int netlathe_bench(int count, char **words);

#endif
