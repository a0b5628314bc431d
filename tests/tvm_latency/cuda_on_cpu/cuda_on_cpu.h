// The device functions of a text of CUDA C++, run on a CPU. Include it before the text, and say LAUNCHED(function) after.
//
// The threads of a block are coroutines that change places at barriers only; in the reverse order, too, so that what
// needs a barrier and lacks one gives another result. Shared memory is NaN when a block begins.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __align__(bytes) alignas(bytes)
// All of it is in one section, whose ends the linker knows.
#define __shared__ static __attribute__((section("shared_memory"), used))

struct uint3 {
  unsigned x, y, z;
};
static uint3 threadIdx, blockIdx;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// NaN loses, as on the device: an operand that is a number is the answer.
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }

extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

namespace cuda_on_cpu {

constexpr size_t STACK_BYTES = 1 << 16;

struct Thread {
  ucontext_t context;
  uint3 index;
  bool ended;
  std::vector<char> stack;
};

static ucontext_t scheduler;
static std::vector<Thread> threads;
static Thread *running;
static void (*body)(void **);
static void **arguments;
static unsigned waiting;

static void enter() {
  body(arguments);
  running->ended = true;
}

static void start(Thread &thread) {
  thread.ended = false;
  getcontext(&thread.context);
  thread.context.uc_stack = {thread.stack.data(), 0, thread.stack.size()};
  thread.context.uc_link = &scheduler;
  makecontext(&thread.context, enter, 0);
}

// Every thread up to its next barrier or its end, until all have ended.
static void run_block(bool reversed) {
  if (__start_shared_memory) memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
  for (Thread &thread : threads) start(thread);
  for (size_t ended = 0; ended < threads.size();) {
    waiting = 0;
    ended = 0;
    for (size_t i = 0; i < threads.size(); i++) {
      running = &threads[reversed ? threads.size() - 1 - i : i];
      threadIdx = running->index;
      if (!running->ended) swapcontext(&scheduler, &running->context);
      ended += running->ended;
    }
    if (waiting > 0 && ended > 0) {
      fprintf(stderr, "%zu threads of a block ended where %u wait for them.\n", ended, waiting);
      abort();
    }
  }
}

static void launch(void (*function)(void **), const unsigned *grid, const unsigned *block, void **given, bool reversed) {
  body = function, arguments = given;
  threads.resize(block[0] * block[1] * block[2]);
  for (unsigned i = 0; i < threads.size(); i++) {
    threads[i].index = {i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
    threads[i].stack.resize(STACK_BYTES);
  }
  unsigned blocks = grid[0] * grid[1] * grid[2];
  for (unsigned number = 0; number < blocks; number++) {
    unsigned i = reversed ? blocks - 1 - number : number;
    blockIdx = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
    run_block(reversed);
  }
}

// A function's arguments out of pointers to them, as the driver takes them.
template <auto function>
struct Unpacked;
template <class... Types, void (*function)(Types...)>
struct Unpacked<function> {
  static constexpr unsigned count = sizeof...(Types);
  template <size_t... I>
  static void call(void **given, std::index_sequence<I...>) {
    function(*(Types *)given[I]...);
  }
  static void run(void **given) { call(given, std::index_sequence_for<Types...>()); }
};

}  // namespace cuda_on_cpu

inline void __syncthreads() {
  cuda_on_cpu::waiting++;
  swapcontext(&cuda_on_cpu::running->context, &cuda_on_cpu::scheduler);
  threadIdx = cuda_on_cpu::running->index;
}

#define LAUNCHED(function)                                                                                  \
  extern "C" {                                                                                              \
  extern const unsigned arguments_##function = cuda_on_cpu::Unpacked<function>::count;                      \
  }                                                                                                         \
  extern "C" void launch_##function(const unsigned *grid, const unsigned *block, void **given, int reversed) { \
    cuda_on_cpu::launch(cuda_on_cpu::Unpacked<function>::run, grid, block, given, reversed);                 \
  }
