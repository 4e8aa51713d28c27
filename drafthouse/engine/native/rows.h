// Parts of a layer that work on one row: reductions use LANES partial sums and one fixed tree.

#pragma once

#include "layout.h"
#include "vectors.h"

namespace drafthouse {

template <class T> T squares_of(const T* x, int n) {
  Vec<T> squares{};
  for (int i = 0; i < n; i += LANES<T>) { Vec<T> v = load(x + i); squares += v * v; }
  return sum_lanes(squares);
}

// `squares`: of all `of` numbers that are normed together, of which x holds n.
template <class T> void norm_part(const T* x, const T* weight, T* out, int n, T squares, int of, double eps) {
  T scale = T(1) / std::sqrt(squares / T(of) + T(eps));
  for (int i = 0; i < n; i += LANES<T>) store(out + i, load(x + i) * scale * load(weight + i));
}

template <class T> void norm_row(const T* x, const T* weight, T* out, int n, double eps) {
  norm_part(x, weight, out, n, squares_of(x, n), n, eps);
}

template <class T> void rotate(T* x, const T* cos, const T* sin, int half) {
  for (int i = 0; i < half; i++) {
    T a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

template <class T> inline Vec<T> activate(Vec<T> x, int activation) {
  if (activation == SILU) return x / (T(1) + exp_lanes(-x));
  Vec<T> inner = (x + x * x * x * T(0.044715)) * T(0.7978845608028654);
  return x * T(0.5) * (T(1) + tanh_lanes<T>(inner));
}

}  // namespace drafthouse
