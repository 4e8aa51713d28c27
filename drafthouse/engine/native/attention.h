// Attention of one row's head over its own path: the exact maximum first, then one sum in the order of positions.

#pragma once

#include <limits>
#include <vector>

#include "layout.h"
#include "vectors.h"

namespace drafthouse {

template <class T, class KV> struct Attention {
  const Model& m;
  const Step& s;
  const T* qkv;  // [tokens, heads + 2 kv_heads, head_dim], rotated
  T* attended;   // [tokens, heads, head_dim]

  KV* stored(int layer, int which, int head, int64_t slot) const {
    return static_cast<KV*>(m.cache) + (((int64_t(layer) * 2 + which) * m.kv_heads + head) * m.slots + slot) * m.head_dim;
  }

  // The first entry of the row's prefix within the window: positions above own - window. A token always sees itself.
  int first_entry(int row, int64_t window) {
    if (window == 0) return 0;
    int64_t least = int64_t(s.position[row]) - window + 1;
    int sinks = s.sinks[row], skipped = s.skipped[row];
    if (least <= 0) return 0;
    if (least < sinks) return int(least);
    int64_t entry = least - skipped > sinks ? least - skipped : sinks;
    int own = s.line_start[row + 1] == s.line_start[row] ? s.prefix[row] - 1 : s.prefix[row];
    return entry < own ? int(entry) : own;
  }

  void attend(int layer, int row, int head, std::vector<T>& scratch) {
    const Layer& l = m.layer[layer];
    int d = m.head_dim, kv_head = head / (m.heads / m.kv_heads);
    const T* q = qkv + int64_t(row) * (m.heads + 2 * m.kv_heads) * m.head_dim + head * d;
    const int32_t* table = s.table[row];
    int first = first_entry(row, l.window), prefix = s.prefix[row];
    int from = s.line_start[row], line = s.line_start[row + 1] - from;
    if (l.window && line > l.window) { from += line - int(l.window); line = int(l.window); }
    int count = prefix - first + line, padded = (count + LANES<T> - 1) / LANES<T> * LANES<T>;
    if (int(scratch.size()) < padded) scratch.resize(padded * 2);
    T* p = scratch.data();
    const KV *keys = stored(layer, 0, kv_head, 0), *values = stored(layer, 1, kv_head, 0);
    auto slot = [&](int i) -> int64_t { return int64_t(i < prefix - first ? table[first + i] : table[s.line[from + i - (prefix - first)]]) * d; };
    for (int i = 0; i < count; i++) {
      const KV* key = keys + slot(i);
      Vec<T> dot = load(q) * load_as(key);
      for (int j = LANES<T>; j < d; j += LANES<T>) dot += load(q + j) * load_as(key + j);
      p[i] = sum_lanes(dot);
    }
    for (int i = count; i < padded; i++) p[i] = -std::numeric_limits<T>::infinity();
    Vec<T> most = splat(-std::numeric_limits<T>::infinity());
    for (int i = 0; i < padded; i += LANES<T>) {
      Vec<T> v = load(p + i) * T(m.scaling);
      if (m.attention_softcap > 0) v = i + LANES<T> <= count ? capped(v) : capped_tail(v, count - i);
      store(p + i, v);
      most = v > most ? v : most;
    }
    T peak = most[0];
    for (int i = 1; i < LANES<T>; i++) peak = most[i] > peak ? most[i] : peak;
    Vec<T> total{};
    for (int i = 0; i < padded; i += LANES<T>) { Vec<T> e = exp_lanes(load(p + i) - peak); store(p + i, e); total += e; }
    T weight = T(1) / sum_lanes(total);
    T* out = attended + int64_t(row) * m.heads * m.head_dim + head * d;
    for (int j = 0; j < d; j += LANES<T> * 4) {
      int width = (d - j) / LANES<T> < 4 ? (d - j) / LANES<T> : 4;
      Vec<T> acc[4] = {};
      for (int i = 0; i < count; i++) {
        const KV* value = values + slot(i) + j;
        for (int b = 0; b < width; b++) acc[b] += p[i] * load_as(value + b * LANES<T>);
      }
      for (int b = 0; b < width; b++) store(out + j + b * LANES<T>, acc[b] * weight);
    }
  }
  Vec<T> capped(Vec<T> v) { return tanh_lanes<T>(v / T(m.attention_softcap)) * T(m.attention_softcap); }
  Vec<T> capped_tail(Vec<T> v, int valid) {
    Vec<T> c = capped(v);
    for (int i = valid < 0 ? 0 : valid; i < LANES<T>; i++) c[i] = -std::numeric_limits<T>::infinity();
    return c;
  }
};

}  // namespace drafthouse
