// Rows times one panel. Every output is one chain of multiply-adds in the order of the inner index, whatever the number of rows.

#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "layout.h"
#include "vectors.h"

namespace drafthouse {

// Outputs that are summed at once: SUMS registers of sums leave room for the weights and the rows' numbers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int SUMS = 24;
#else
constexpr int SUMS = 12;
#endif
constexpr int ROWS = 6;
// Inner indices whose weights are fetched ahead: the processor itself stops at the end of each page.
constexpr int AHEAD = 16;
// Vectors of one row: a power of two that divides a panel.
template <class T> constexpr int side(int rows) {
  int side = PANEL / WIDTH<T>;
  while (side * rows > SUMS) side /= 2;
  return side;
}

template <int M, int J, class T>
inline __attribute__((always_inline)) void add_products(Wide<T> (&sums)[M][J], const T* x, int64_t stride, const Wide<T> (&w)[J]) {
#pragma GCC unroll 6
  for (int m = 0; m < M; m++) {
    T number = x[m * stride];
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) sums[m][j] += number * w[j];
  }
}
template <int M, int J, class T, class W> inline void multiply(const T* x, int64_t stride, int inner, const W* w, T* acc) {
  Wide<T> sums[M][J] = {};
  for (int k = 0; k < inner; k++, w += PANEL) {
    Wide<T> b[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) {
      b[j] = load_wide_as(w + j * WIDTH<T>);
      __builtin_prefetch(w + AHEAD * PANEL * int(sizeof(T) / sizeof(W)) + j * WIDTH<T>);
    }
    add_products<M, J, T>(sums, x + k, stride, b);
  }
  for (int m = 0; m < M; m++) for (int j = 0; j < J; j++) store_wide(acc + m * PANEL + j * WIDTH<T>, sums[m][j]);
}
// Two inner indices lie in each word, the even one low. Words are read twice, which costs less than registers to keep them in.
template <int M, int J> inline void multiply(const float* x, int64_t stride, int inner, const Bf16* w, float* acc) {
  Wide<float> sums[M][J] = {};
  for (int k = 0; k < inner; k += 2, w += 2 * PANEL) {
    Wide<float> b[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) {
      b[j] = even_of(w + 2 * j * WIDTH<float>);
      __builtin_prefetch(w + 2 * AHEAD * PANEL + 2 * j * WIDTH<float>);
    }
    add_products<M, J, float>(sums, x + k, stride, b);
#pragma GCC unroll 16
    for (int j = 0; j < J; j++) b[j] = odd_of(w + 2 * j * WIDTH<float>);
    add_products<M, J, float>(sums, x + k + 1, stride, b);
  }
  for (int m = 0; m < M; m++) for (int j = 0; j < J; j++) store_wide(acc + m * PANEL + j * WIDTH<float>, sums[m][j]);
}

// The panel's columns in groups of what the registers hold.
template <int M, class T, class W> void multiply_panel(const T* x, int64_t stride, int inner, const W* w, T* acc) {
  constexpr int J = side<T>(M), COLUMNS = J * WIDTH<T>, WORD = std::is_same_v<W, Bf16> ? 2 : 1;
  for (int c = 0; c < PANEL; c += COLUMNS) multiply<M, J>(x, stride, inner, w + c * WORD, acc + c);
}
// Calls `f` with the number of rows, which is from 1 to ROWS, as a constant.
template <class F> inline void by_rows(int rows, F f) {
  static_assert(ROWS == 6);
  switch (rows) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    case 6: return f(std::integral_constant<int, 6>());
  }
}
// acc[rows][PANEL] = rows of x times one panel.
template <class T, class W> inline void multiply_rows(int rows, const T* x, int64_t stride, int inner, const W* w, T* acc) {
  by_rows(rows, [&](auto count) { multiply_panel<decltype(count)::value>(x, stride, inner, w, acc); });
}

// out[count][outer] = rows of x times all panels, on the caller's thread alone: a product of few rows takes less than waking another.
template <class T> void multiply_alone(const T* panels, int inner, int outer, const T* x, int count, T* out) {
  T acc[ROWS * PANEL];
  for (int first = 0; first < outer; first += PANEL, panels += int64_t(inner) * PANEL) {
    int valid = outer - first < PANEL ? outer - first : PANEL;
    for (int row = 0; row < count; row += ROWS) {
      int some = count - row < ROWS ? count - row : ROWS;
      multiply_rows(some, x + int64_t(row) * inner, inner, inner, panels, acc);
      for (int r = 0; r < some; r++) std::memcpy(out + int64_t(row + r) * outer + first, acc + r * PANEL, valid * sizeof(T));
    }
  }
}

// The panel in the compute type: for many rows, that each number is widened once.
inline const float* widened(const Half* w, int inner, std::vector<float>& room) {
  float* panel = sized(room, int64_t(inner) * PANEL);
  for (int i = 0; i < inner * PANEL; i += WIDTH<float>) store_wide(panel + i, load_wide_as(w + i));
  return panel;
}
inline const float* widened(const Bf16* w, int inner, std::vector<float>& room) {
  float* panel = sized(room, int64_t(inner) * PANEL);
  for (int k = 0; k < inner; k += 2, w += 2 * PANEL) {
    for (int c = 0; c < PANEL; c += WIDTH<float>) {
      store_wide(panel + k * PANEL + c, even_of(w + 2 * c));
      store_wide(panel + (k + 1) * PANEL + c, odd_of(w + 2 * c));
    }
  }
  return panel;
}

}  // namespace drafthouse
