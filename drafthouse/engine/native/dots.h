// Dot products of one query with LANES keys at once.
//
// Each product has LANES partial sums over the inner index, and the fixed tree of `sum_lanes`: the bits of one alone.

#pragma once

#include <utility>

#include "vectors.h"

namespace drafthouse {

// A stored vector in the compute type: where it lies, or copied to `room`.
template <class T> inline const T* as_computed(const T* stored, T*, int) { return stored; }
template <class S> inline const float* widened(const S* stored, float* room, int count) {
  for (int i = 0; i < count; i += WIDTH<float>) store_wide(room + i, load_wide_as(stored + i));
  return room;
}
inline const float* as_computed(const Bf16* stored, float* room, int count) { return widened(stored, room, count); }
inline const float* as_computed(const Half* stored, float* room, int count) { return widened(stored, room, count); }

// Of each 2 * HALF lanes of a the HALF that begin at SIDE, beside the same of b.
template <int HALF, int SIDE, class V, size_t... I> inline V beside(V a, V b, std::index_sequence<I...>) {
  constexpr int N = sizeof...(I);
  return __builtin_shufflevector(a, b, (int(I) / HALF % 2 * N + int(I) / (2 * HALF) * 2 * HALF + SIDE + int(I) % HALF)...);
}
// sums[i] = tree of v[i]'s lanes. Each level adds lane i to lane i + HALF, of two vectors at once.
template <int HALF, class T> inline Wide<T> sum_each(Wide<T>* v) {
  using All = std::make_index_sequence<WIDTH<T>>;
  for (int i = 0; i < HALF; i++) v[i] = beside<HALF, 0>(v[i], v[i + HALF], All()) + beside<HALF, HALF>(v[i], v[i + HALF], All());
  if constexpr (HALF > 1) return sum_each<HALF / 2, T>(v); else return v[0];
}

// Adds C * LANES products from inner index j on to each key's partial sums.
template <int C, class T> inline void add_partials(const T* q, const T* const* key, int j, T* partial) {
  constexpr int N = C * LANES<T> / WIDTH<T>, PARTS = LANES<T> / WIDTH<T>;
  Wide<T> part[N];
  for (int n = 0; n < N; n++) part[n] = load_wide(q + j + n * WIDTH<T>);
  for (int i = 0; i < LANES<T>; i++, partial += LANES<T>) {
    Wide<T> sums[PARTS];
    for (int p = 0; p < PARTS; p++) sums[p] = load_wide(partial + p * WIDTH<T>);
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sums[n % PARTS] += part[n] * load_wide(key[i] + j + n * WIDTH<T>);
    for (int p = 0; p < PARTS; p++) store_wide(partial + p * WIDTH<T>, sums[p]);
  }
}

template <class T> void dots(const T* q, const T* const* key, int inner, T* out) {
  constexpr int LANE = LANES<T>, W = WIDTH<T>;
  alignas(64) T partial[LANE * LANE] = {};
  int j = 0;
  for (; j + 4 * LANE <= inner; j += 4 * LANE) add_partials<4>(q, key, j, partial);
  for (; j < inner; j += LANE) add_partials<1>(q, key, j, partial);
  for (int first = 0; first < LANE; first += W) {
    Wide<T> v[W];
    for (int i = 0; i < W; i++) {
      const T* own = partial + (first + i) * LANE;
      Wide<T> parts[LANE / W];
      for (int p = 0; p < LANE / W; p++) parts[p] = load_wide(own + p * W);
      for (int half = LANE / W / 2; half; half /= 2) for (int p = 0; p < half; p++) parts[p] += parts[p + half];
      v[i] = parts[0];
    }
    store_wide(out + first, sum_each<W / 2, T>(v));
  }
}

}  // namespace drafthouse
