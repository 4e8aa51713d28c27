// Vectors of 64 bytes, lowered by the compiler to what the machine has, and numbers as they are stored.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace drafthouse {

template <class T> struct Vectors;
template <> struct Vectors<float> {
  typedef float V __attribute__((vector_size(64)));
  typedef float U __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t I __attribute__((vector_size(64)));
  static constexpr int LANES = 16;
};
template <> struct Vectors<double> {
  typedef double V __attribute__((vector_size(64)));
  typedef double U __attribute__((vector_size(64), aligned(8), may_alias));
  typedef int64_t I __attribute__((vector_size(64)));
  static constexpr int LANES = 8;
};

template <class T> using Vec = typename Vectors<T>::V;
template <class T> constexpr int LANES = Vectors<T>::LANES;

template <class T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const typename Vectors<T>::U*>(p); }
template <class T> inline void store(T* p, Vec<T> v) { *reinterpret_cast<typename Vectors<T>::U*>(p) = v; }
template <class T> inline Vec<T> splat(T x) { return Vec<T>{} + x; }

// Vectors as wide as the machine's registers, for what is independent from lane to lane.
#if defined(__AVX512F__)
constexpr int REGISTER = 64;
#elif defined(__AVX__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif
template <class T> constexpr int WIDTH = REGISTER / int(sizeof(T));
template <class T> struct Register {
  typedef T V __attribute__((vector_size(REGISTER)));
  typedef T U __attribute__((vector_size(REGISTER), aligned(sizeof(T)), may_alias));
};
template <class T> using Wide = typename Register<T>::V;
template <class T> inline Wide<T> load_wide(const T* p) { return *reinterpret_cast<const typename Register<T>::U*>(p); }
template <class T> inline void store_wide(T* p, Wide<T> v) { *reinterpret_cast<typename Register<T>::U*>(p) = v; }

// One fixed tree: lane i with lane i + half, halving.
inline float sum_lanes(Vec<float> v) {
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return v[0];
}
inline double sum_lanes(Vec<double> v) {
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  return v[0];
}

// Stored numbers: a vector of the compute type from f32, bf16, f16 or f64.
struct Bf16 { uint16_t bits; };
inline float widen(Bf16 x) { uint32_t w = uint32_t(x.bits) << 16; float f; std::memcpy(&f, &w, 4); return f; }
inline Bf16 narrow(float f) {  // round to nearest, ties to even
  uint32_t w; std::memcpy(&w, &f, 4);
  if ((w & 0x7fffffff) > 0x7f800000) return {uint16_t((w >> 16) | 64)};
  return {uint16_t((w + 0x7fff + ((w >> 16) & 1)) >> 16)};
}
struct Half { uint16_t bits; };
inline float widen(Half x) {  // the exponent is moved by a product, which is exact and also right below the normal range
  uint32_t rest = x.bits & 0x7fffu, w = rest << 13;
  float f; std::memcpy(&f, &w, 4);
  f *= 0x1p112f;
  std::memcpy(&w, &f, 4);
  w |= uint32_t(x.bits & 0x8000u) << 16 | (rest >= 0x7c00u ? 0x7f800000u : 0u);
  std::memcpy(&f, &w, 4);
  return f;
}
inline Half to_half(float f) {  // round to nearest, ties to even; from 65,520 on infinite
  uint32_t w; std::memcpy(&w, &f, 4);
  uint32_t sign = w >> 16 & 0x8000u;
  w &= 0x7fffffffu;
  if (w >= 0x47800000u) return {uint16_t(sign | (w > 0x7f800000u ? 0x7e00u : 0x7c00u))};
  if (w < 0x38800000u) {  // below the normal range: 0.5 has the spacing of the smallest halves
    std::memcpy(&f, &w, 4);
    f += 0.5f;
    std::memcpy(&w, &f, 4);
    return {uint16_t(sign | (w - 0x3f000000u))};
  }
  return {uint16_t(sign | ((w - 0x38000000u + 0xfffu + (w >> 13 & 1u)) >> 13))};
}
inline Wide<float> load_wide_as(const float* p) { return load_wide(p); }
inline Wide<double> load_wide_as(const double* p) { return load_wide(p); }
inline Wide<float> load_wide_as(const Bf16* p) {
  typedef uint16_t Halves __attribute__((vector_size(REGISTER / 2), aligned(2), may_alias));
  return (Wide<float>)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Wide<uint32_t>) << 16);
}
inline Wide<float> load_wide_as(const Half* p) {
#if defined(__AVX512F__)
  return (Wide<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (Wide<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Wide<float> v;
  for (int i = 0; i < WIDTH<float>; i++) v[i] = widen(p[i]);
  return v;
#endif
}
// A register of 32-bit words that hold two numbers each.
inline Wide<float> even_of(const Bf16* p) { return (Wide<float>)(load_wide(reinterpret_cast<const uint32_t*>(p)) << 16); }
inline Wide<float> odd_of(const Bf16* p) { return (Wide<float>)(load_wide(reinterpret_cast<const uint32_t*>(p)) & 0xffff0000u); }
inline void store_as(float* p, float x) { *p = x; }
inline void store_as(double* p, double x) { *p = x; }
inline void store_as(Bf16* p, float x) { *p = narrow(x); }
inline void store_as(Half* p, float x) { *p = to_half(x); }

// Cephes' expf: within 2 ulp; 0 below the normal range. Never inlined: copies could contract multiply-adds differently.
__attribute__((noinline)) Vec<float> exp_lanes(Vec<float> x) {
  const Vec<float> low = splat(-87.0f);
  auto tiny = x < low;
  x = tiny ? low : x;
  x = x > 88.0f ? splat(88.0f) : x;
  Vec<float> n = x * 1.44269504088896341f + 12582912.0f;
  n = n - 12582912.0f;
  Vec<float> r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec<float> y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  typename Vectors<float>::I e = __builtin_convertvector(n, typename Vectors<float>::I);
  e = (e + 127) << 23;
  Vec<float> scale = (Vec<float>)e;
  y = y * scale;
  return tiny ? splat(0.0f) : y;
}
__attribute__((noinline)) Vec<double> exp_lanes(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < 8; i++) y[i] = std::exp(x[i]);
  return y;
}
template <class T> inline Vec<T> tanh_lanes(Vec<T> x) {  // 1 - 2 / (exp(2 x) + 1)
  return T(1) - T(2) / (exp_lanes(x * T(2)) + T(1));
}

// Memory that grows, for `count` numbers at least.
template <class N> N* sized(std::vector<N>& memory, int64_t count) {
  if (int64_t(memory.size()) < count) memory.resize(count + count / 2);
  return memory.data();
}

}  // namespace drafthouse
