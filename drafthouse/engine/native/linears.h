// Rows times one panel. Every output is one chain of multiply-adds in the order of the inner index, whatever the number of rows.

#pragma once

#include "layout.h"
#include "vectors.h"

namespace drafthouse {

#if defined(__AVX512F__)
constexpr int ROWS = 6;
#else
constexpr int ROWS = 1;
#endif

// acc[ROWS][PANEL] = x rows times one panel. Chains run over the inner index in order, whatever the number of rows.
template <int M> inline void multiply(const float* x, int64_t stride, int inner, const float* w, float* acc) {
  Vec<float> a[M][4];
  for (int m = 0; m < M; m++) for (int j = 0; j < 4; j++) a[m][j] = Vec<float>{};
  for (int k = 0; k < inner; k++, w += PANEL) {
    Vec<float> b[4] = {load(w), load(w + 16), load(w + 32), load(w + 48)};
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Vec<float> s = splat(x[m * stride + k]);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) a[m][j] += s * b[j];
    }
  }
  for (int m = 0; m < M; m++) for (int j = 0; j < 4; j++) store(acc + m * PANEL + 16 * j, a[m][j]);
}
template <int M> inline void multiply(const float* x, int64_t stride, int inner, const Bf16* panel, float* acc) {
  const uint32_t* w = reinterpret_cast<const uint32_t*>(panel);  // two inner indices in each word, the even one low
  Vec<float> a[M][4];
  for (int m = 0; m < M; m++) for (int j = 0; j < 4; j++) a[m][j] = Vec<float>{};
  for (int k = 0; k < inner; k += 2, w += PANEL) {
    Words word[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) word[j] = *reinterpret_cast<const WordsU*>(w + 16 * j);
    {
      Vec<float> b[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) { Words e = word[j] << 16; b[j] = (Vec<float>)e; }
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Vec<float> s = splat(x[m * stride + k]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) a[m][j] += s * b[j];
      }
    }
    {
      Vec<float> b[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) { Words o = word[j] & 0xffff0000u; b[j] = (Vec<float>)o; }
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Vec<float> s = splat(x[m * stride + k + 1]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) a[m][j] += s * b[j];
      }
    }
  }
  for (int m = 0; m < M; m++) for (int j = 0; j < 4; j++) store(acc + m * PANEL + 16 * j, a[m][j]);
}
template <int M> inline void multiply(const double* x, int64_t stride, int inner, const double* w, double* acc) {
  for (int m = 0; m < M; m++) {
    Vec<double> a[8];
    for (int j = 0; j < 8; j++) a[j] = Vec<double>{};
    const double* p = w;
    for (int k = 0; k < inner; k++, p += PANEL) {
      Vec<double> s = splat(x[m * stride + k]);
      for (int j = 0; j < 8; j++) a[j] += s * load(p + 8 * j);
    }
    for (int j = 0; j < 8; j++) store(acc + m * PANEL + 8 * j, a[j]);
  }
}

template <class T, class W> inline void multiply_rows(int rows, const T* x, int64_t stride, int inner, const W* w, T* acc) {
  switch (rows) {
    case 1: return multiply<1>(x, stride, inner, w, acc);
#if defined(__AVX512F__)
    case 2: return multiply<2>(x, stride, inner, w, acc);
    case 3: return multiply<3>(x, stride, inner, w, acc);
    case 4: return multiply<4>(x, stride, inner, w, acc);
    case 5: return multiply<5>(x, stride, inner, w, acc);
    case 6: return multiply<6>(x, stride, inner, w, acc);
#endif
  }
}

}  // namespace drafthouse
