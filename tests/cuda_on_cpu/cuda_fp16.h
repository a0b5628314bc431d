// half as CUDA's header has it, as far as generated code uses it: stored in 16 bits, rounded to nearest.
#pragma once

struct __half {
  _Float16 value;
  __half() = default;
  __half(float v) : value((_Float16)v) {}
  __half(int v) : value((_Float16)v) {}
  operator float() const { return (float)value; }
};
typedef __half half;

struct alignas(4) __half2 {
  __half x, y;
};
typedef __half2 half2;

inline bool __hgt(__half a, __half b) { return a.value > b.value; }
inline bool __hlt(__half a, __half b) { return a.value < b.value; }
inline float __half2float(__half a) { return (float)a.value; }
inline __half __float2half(float a) { return __half(a); }
inline __half __float2half_rn(float a) { return __half(a); }
