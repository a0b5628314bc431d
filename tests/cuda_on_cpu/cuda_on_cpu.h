// The device functions of a text of CUDA C++, run on a CPU. Include it before the text, and say LAUNCHED(function) after.
//
// The threads of a block are coroutines that change places at barriers and matrix products only; in the reverse order,
// too, so that what needs a barrier and lacks one gives another result. Shared memory is NaN when a block begins.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>
#include <vector>

#include "cuda_fp16.h"

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

// Threads wait until so many have arrived.
struct Barrier {
  unsigned arrived, generation;
};

// What a matrix product of a warp reads of each of its threads.
struct Fragments {
  const void *a_top, *a_bottom, *b;
};

static ucontext_t scheduler;
static std::vector<Thread> threads;
static Thread *running;
static void (*body)(void **);
static void **arguments;
static Barrier of_block, of_warps[32];
static Fragments fragments[1024];
static unsigned long progress; // barriers that were passed, and threads that ended

static void enter() {
  body(arguments);
  running->ended = true;
  progress++;
}

static void wait(Barrier &barrier, size_t count) {
  unsigned generation = barrier.generation;
  if (++barrier.arrived == count) barrier.arrived = 0, barrier.generation++, progress++;
  while (barrier.generation == generation) swapcontext(&running->context, &scheduler);
  threadIdx = running->index;
}

static void start(Thread &thread) {
  thread.ended = false;
  getcontext(&thread.context);
  thread.context.uc_stack = {thread.stack.data(), 0, thread.stack.size()};
  thread.context.uc_link = &scheduler;
  makecontext(&thread.context, enter, 0);
}

// Every thread as far as it gets, again and again, until all have ended.
static void run_block(bool reversed) {
  if (__start_shared_memory) memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
  for (Thread &thread : threads) start(thread);
  for (size_t ended = 0; ended < threads.size();) {
    unsigned long before = progress;
    ended = 0;
    for (size_t i = 0; i < threads.size(); i++) {
      running = &threads[reversed ? threads.size() - 1 - i : i];
      threadIdx = running->index;
      if (!running->ended) swapcontext(&scheduler, &running->context);
      ended += running->ended;
    }
    if (before == progress) {
      fprintf(stderr, "%zu threads of a block wait for %zu that have ended.\n", threads.size() - ended, ended);
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

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::of_block, cuda_on_cpu::threads.size()); }

namespace cuda_on_cpu {

inline float multiplied(__half value) { return (float)value; }

// Units for tf32 do not see the last 13 bits.
inline float multiplied(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  bits &= ~0x1fffu;
  memcpy(&value, &bits, sizeof bits);
  return value;
}

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32, by the layout of fragments in PTX ISA, "Matrix Fragments for
// mma.m16n8k16": of rows g and g + 8 a thread has the terms 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, of the columns 2 t and
// 2 t + 1 both rows' sums. And m16n8k8 of tf32, "Matrix Fragments for mma.m16n8k8": the terms t and t + 4.
template <unsigned terms, class Number>
void multiply(float *top, float *bottom, const Number *a_top, const Number *a_bottom, const Number *b) {
  unsigned number = running - threads.data(), lane = number % 32, first = number - lane;
  fragments[number] = {a_top, a_bottom, b};
  wait(of_warps[number / 32], 32);
  for (unsigned term = 0; term < terms; term++) {
    unsigned t = terms == 16 ? term % 8 / 2 : term % 4, at = terms == 16 ? term % 2 + term / 8 * 2 : term / 4;
    auto of = [&](unsigned thread) { return fragments[first + thread * 4 + t]; };
    const Fragments row = of(lane / 4);
    for (unsigned c = 0; c < 2; c++) {
      float weight = multiplied(((const Number *)of(lane % 4 * 2 + c).b)[at]);
      top[c] += multiplied(((const Number *)row.a_top)[at]) * weight;
      bottom[c] += multiplied(((const Number *)row.a_bottom)[at]) * weight;
    }
  }
  wait(of_warps[number / 32], 32);
}

}

inline void netlathe_mma(float *top, float *bottom, const __half *a_top, const __half *a_bottom, const __half *b) {
  cuda_on_cpu::multiply<16>(top, bottom, a_top, a_bottom, b);
}
inline void netlathe_mma(float *top, float *bottom, const float *a_top, const float *a_bottom, const float *b) {
  cuda_on_cpu::multiply<8>(top, bottom, a_top, a_bottom, b);
}

// cvt.rna.tf32.f32: half a unit in the last of the bits that stay is added to the magnitude.
inline void netlathe_tf32(float *value) {
  unsigned bits;
  memcpy(&bits, value, sizeof bits);
  bits += 1u << 12;
  bits &= ~0x1fffu;
  memcpy(value, &bits, sizeof bits);
}

#define LAUNCHED(function)                                                                                  \
  extern "C" {                                                                                              \
  extern const unsigned arguments_##function = cuda_on_cpu::Unpacked<function>::count;                      \
  }                                                                                                         \
  extern "C" void launch_##function(const unsigned *grid, const unsigned *block, void **given, int reversed) { \
    cuda_on_cpu::launch(cuda_on_cpu::Unpacked<function>::run, grid, block, given, reversed);                 \
  }
