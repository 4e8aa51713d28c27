// Linears in int8: weights and rows are rounded in groups of GROUP inner indices, each group with a scale of its own.
//
// Promises: products are summed in integers, which is exact, so every instruction set gives the same sums; a row is rounded by
// itself, and its groups are added in the order of the inner index. Numbers lie in [-127, 127].
//
// A panel is, for each group, PANEL scales in bfloat16 and then [GROUP / 4, PANEL, 4] weights with 128 added. A rounded row is its scales, then for
// each group -128 times the sum of its numbers, then its numbers.

#pragma once

#include "layout.h"
#include "linears.h"
#include "vectors.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace drafthouse {

constexpr int GROUP = 32;
constexpr int AHEAD8 = 4096;  // bytes of weights that are fetched ahead

struct Int8 { uint8_t bits; };  // a byte of a panel

inline int groups_of(int inner) { return (inner + GROUP - 1) / GROUP; }
inline int64_t panel_bytes(int inner) { return int64_t(groups_of(inner)) * PANEL * (GROUP + 2); }
inline int64_t row_bytes(int inner) { return int64_t(groups_of(inner)) * (GROUP + 8); }

typedef int32_t Ints __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));

// To the nearest whole number, ties to even.
inline Ints nearest(Vec<float> v) {
  Ints n;
#if defined(__AVX512F__)
  n = (Ints)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
  __m256 half[2];
  __m256i whole[2];
  std::memcpy(half, &v, 64);
  for (int i = 0; i < 2; i++) whole[i] = _mm256_cvtps_epi32(half[i]);
  std::memcpy(&n, whole, 64);
#else
  for (int i = 0; i < 16; i++) n[i] = int32_t(std::lrint(v[i]));
#endif
  return n;
}

// The group's largest magnitude becomes 127. A number that is none makes the scale none, and so the outputs.
inline void quantise_group(const float* x, int count, float* scale, int32_t* offset, uint8_t* out) {
  alignas(64) float group[GROUP] = {};
  std::memcpy(group, x, count * sizeof(float));
  Ints most{};
  for (int i = 0; i < GROUP; i += 16) {
    Ints bits = (Ints)load(group + i) & 0x7fffffff;  // ordered as the magnitudes are
    most = bits > most ? bits : most;
  }
  int32_t peak_bits = 0;
  for (int i = 0; i < 16; i++) peak_bits = most[i] > peak_bits ? most[i] : peak_bits;
  float peak;
  std::memcpy(&peak, &peak_bits, 4);
  float inverse = peak < 1e-30f ? 0.0f : 127.0f / peak;
  *scale = peak < 1e-30f ? 0.0f : peak / 127.0f;
  Ints sums{};
  for (int i = 0; i < GROUP; i += 16) {
    Ints n = nearest(load(group + i) * inverse);
    sums += n;
    *reinterpret_cast<Bytes*>(out + i) = __builtin_convertvector(n, Bytes);
  }
  int32_t sum = 0;
  for (int i = 0; i < 16; i++) sum += sums[i];
  *offset = -128 * sum;
}
inline void quantise_row(const float* x, int inner, uint8_t* row) {
  int groups = groups_of(inner);
  float* scales = reinterpret_cast<float*>(row);
  int32_t* offsets = reinterpret_cast<int32_t*>(row + 4 * groups);
  uint8_t* numbers = row + 8 * groups;
  for (int g = 0; g < groups; g++) {
    int count = inner - g * GROUP < GROUP ? inner - g * GROUP : GROUP;
    quantise_group(x + g * GROUP, count, scales + g, offsets + g, numbers + g * GROUP);
  }
}

// Sums of four products in each 32-bit lane: `w` are weights with 128 added, `x` four numbers of a row in every lane.
#if defined(__AVX512VNNI__)
constexpr int LANES8 = 16, SUMS8 = 24;
typedef __m512i Lanes;
inline Lanes begin(int32_t offset) { return _mm512_set1_epi32(offset); }
inline Lanes four(const uint8_t* x) { int32_t word; std::memcpy(&word, x, 4); return _mm512_set1_epi32(word); }
inline Lanes weights(const uint8_t* w) { return _mm512_loadu_si512(w); }
inline Lanes add_products8(Lanes sum, Lanes w, Lanes x) { return _mm512_dpbusd_epi32(sum, w, x); }
inline __m512 scales_of(const Bf16* p) {
  __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline void add_scaled(float* acc, Lanes sum, float scale, __m512 scales) {
  __m512 both = _mm512_mul_ps(_mm512_set1_ps(scale), scales);
  _mm512_storeu_ps(acc, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, _mm512_loadu_ps(acc)));
}
#elif defined(__AVX2__) && defined(__FMA__)
// Bytes are multiplied in pairs into 16 bits: 2 * 127 * 127 is within them.
constexpr int LANES8 = 8, SUMS8 = 8;
typedef __m256i Lanes;
inline Lanes begin(int32_t) { return _mm256_setzero_si256(); }
inline Lanes four(const uint8_t* x) { int32_t word; std::memcpy(&word, x, 4); return _mm256_set1_epi32(word); }
inline Lanes weights(const uint8_t* w) {
  return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)), _mm256_set1_epi8(-128));
}
inline Lanes add_products8(Lanes sum, Lanes w, Lanes x) {
  Lanes pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline __m256 scales_of(const Bf16* p) {
  __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline void add_scaled(float* acc, Lanes sum, float scale, __m256 scales) {
  __m256 both = _mm256_mul_ps(_mm256_set1_ps(scale), scales);
  _mm256_storeu_ps(acc, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), both, _mm256_loadu_ps(acc)));
}
#else
constexpr int LANES8 = 4, SUMS8 = 4;
typedef int32_t Lanes __attribute__((vector_size(16)));
inline Lanes begin(int32_t offset) { return Lanes{} + offset; }
inline Lanes four(const uint8_t* x) { int32_t word; std::memcpy(&word, x, 4); return Lanes{} + word; }
inline Lanes weights(const uint8_t* w) { Lanes v; std::memcpy(&v, w, 16); return v; }
inline Lanes add_products8(Lanes sum, Lanes w, Lanes x) {
#pragma GCC unroll 4
  for (int k = 0; k < 32; k += 8) sum += (w >> k & 255) * (x << (24 - k) >> 24);
  return sum;
}
inline const Bf16* scales_of(const Bf16* p) { return p; }
inline void add_scaled(float* acc, Lanes sum, float scale, const Bf16* scales) {
  for (int i = 0; i < 4; i++) acc[i] += float(sum[i]) * (scale * widen(scales[i]));
}
#endif

template <int M, int J> inline void multiply8(const uint8_t* rows, int64_t stride, int groups, const uint8_t* panel, int column, float* acc) {
  for (int g = 0; g < groups; g++, panel += PANEL * (GROUP + 2)) {
    const uint8_t *w = panel + 2 * PANEL + 4 * column, *x = rows + 8 * groups + g * GROUP;
    Lanes sums[M][J];
    for (int m = 0; m < M; m++) {
      int32_t offset = reinterpret_cast<const int32_t*>(rows + m * stride)[groups + g];
#pragma GCC unroll 16
      for (int j = 0; j < J; j++) sums[m][j] = begin(offset);
    }
    for (int k = 0; k < GROUP; k += 4, w += 4 * PANEL) {
      Lanes b[J];
#pragma GCC unroll 16
      for (int j = 0; j < J; j++) {
        b[j] = weights(w + 4 * LANES8 * j);
        __builtin_prefetch(w + AHEAD8 + 4 * LANES8 * j);
      }
#pragma GCC unroll 6
      for (int m = 0; m < M; m++) {
        Lanes numbers = four(x + m * stride + k);
#pragma GCC unroll 16
        for (int j = 0; j < J; j++) sums[m][j] = add_products8(sums[m][j], b[j], numbers);
      }
    }
    decltype(scales_of(nullptr)) scales[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) scales[j] = scales_of(reinterpret_cast<const Bf16*>(panel) + column + LANES8 * j);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
      float scale = reinterpret_cast<const float*>(rows + m * stride)[g];
#pragma GCC unroll 16
      for (int j = 0; j < J; j++) add_scaled(acc + m * PANEL + column + LANES8 * j, sums[m][j], scale, scales[j]);
    }
  }
}
// Vectors of one row that are summed at once: a power of two that divides a panel.
constexpr int side8(int rows) {
  int side = PANEL / LANES8;
  while (side * rows > SUMS8 && side > 1) side /= 2;
  return side;
}
template <int M> inline void multiply_panel8(const uint8_t* rows, int64_t stride, int groups, const uint8_t* panel, float* acc) {
  constexpr int J = side8(M);
  std::memset(acc, 0, M * PANEL * sizeof(float));
  for (int column = 0; column < PANEL; column += J * LANES8) multiply8<M, J>(rows, stride, groups, panel, column, acc);
}
// acc[rows][PANEL] = rounded rows times one panel.
inline void multiply_rows(int rows, const uint8_t* x, int64_t stride, int inner, const Int8* panel, float* acc) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(panel);
  by_rows(rows, [&](auto count) { multiply_panel8<decltype(count)::value>(x, stride, groups_of(inner), p, acc); });
}

// One weight of column c.
inline float weight8(const Int8* panel, int c, int k) {
  const uint8_t* group = reinterpret_cast<const uint8_t*>(panel) + int64_t(k / GROUP) * PANEL * (GROUP + 2);
  int inside = k % GROUP;
  float scale = widen(reinterpret_cast<const Bf16*>(group)[c]);
  return float(int(group[2 * PANEL + (inside / 4 * PANEL + c) * 4 + inside % 4]) - 128) * scale;
}

}  // namespace drafthouse
