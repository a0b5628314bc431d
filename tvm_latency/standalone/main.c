#include "bench.h"

int main(int count, char **words) { return netlathe_bench(count, words); }
