// Attention of a block of rows over their own paths, with all query heads that share keys and values.
//
// A row's scores are dot products of LANES partial sums and one fixed tree. Its weights are exp of what lies below the exact maximum,
// summed in lanes by the entry's number. Its output is one chain in the order of entries. So no bit depends on the block.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "dots.h"
#include "layout.h"
#include "linears.h"
#include "vectors.h"

namespace drafthouse {

constexpr int BLOCK = 8;  // rows at most

// Rows of one sequence that stand together, at most BLOCK: the first row of each block, and the end.
inline void find_blocks(const Step& s, std::vector<int>& starts) {
  starts.assign(1, 0);
  for (int row = 1; row <= s.tokens; row++)
    if (row == s.tokens || s.table[row] != s.table[row - 1] || row - starts.back() == BLOCK) starts.push_back(row);
}

// A thread's own memory, which grows.
template <class T> struct AttentionScratch {
  std::vector<T> scores, keys;
  std::vector<int32_t> line;
};

// What a row sees: entries [begin, prefix) of its sequence, then those of its line, numbered [prefix, end).
struct Seen { int begin, prefix, end; };

// The first entry of the row's prefix within the window: positions above own - window. A token always sees itself.
inline int first_entry(const Step& s, int row, int64_t window) {
  if (window == 0) return 0;
  int64_t least = int64_t(s.position[row]) - window + 1;
  int sinks = s.sinks[row], skipped = s.skipped[row];
  if (least <= 0) return 0;
  if (least < sinks) return int(least);
  int64_t entry = least - skipped > sinks ? least - skipped : sinks;
  int own = s.line_start[row + 1] == s.line_start[row] ? s.prefix[row] - 1 : s.prefix[row];
  return entry < own ? int(entry) : own;
}
inline Seen seen(const Step& s, int row, int64_t window) {
  int prefix = s.prefix[row], line = s.line_start[row + 1] - s.line_start[row];
  return {window && line > window ? prefix + line - int(window) : first_entry(s, row, window), prefix, prefix + line};
}

template <class T, class KV> struct Attention {
  static constexpr int LANE = LANES<T>;
  const Model& m;
  const Step& s;
  const T* qkv;  // [tokens, heads + 2 kv_heads, head_dim], rotated
  T* attended;   // [tokens, heads, head_dim]
  int first, rows, kv_head, group, low;  // group: query heads of kv_head; low: the entry of the first score
  const KV *keys, *values;               // of slot 0
  const int32_t *table, *line;           // slots of entries; of the rows' lines, one after the other
  int64_t stride;
  T *scores, *widened;                   // [rows, group, stride]
  Seen row[BLOCK];

  Attention(const Model& m, const Step& s, const T* qkv, T* attended, int layer, int first, int rows, int kv_head, AttentionScratch<T>& scratch)
      : m(m), s(s), qkv(qkv), attended(attended), first(first), rows(rows), kv_head(kv_head), group(m.heads / m.kv_heads), table(s.table[first]) {
    keys = static_cast<const KV*>(m.cache) + (int64_t(layer) * 2 * m.kv_heads + kv_head) * m.slots * m.head_dim;
    values = keys + int64_t(m.kv_heads) * m.slots * m.head_dim;
    int end = 0;
    low = std::numeric_limits<int>::max();
    for (int r = 0; r < rows; r++) {
      row[r] = seen(s, first + r, m.layer[layer].window);
      low = std::min(low, std::min(row[r].begin, row[r].prefix) / LANE * LANE), end = std::max(end, row[r].end);
    }
    stride = (end - low + 2 * LANE - 1) / LANE * LANE;
    scores = sized(scratch.scores, rows * group * stride);
    widened = sized(scratch.keys, LANE * m.head_dim);
    int from = s.line_start[first], count = s.line_start[first + rows] - from;
    int32_t* slots = sized(scratch.line, count + 1);
    for (int i = 0; i < count; i++) slots[i] = table[s.line[from + i]];
    line = slots;
  }
  const T* query(int r, int g) const { return qkv + (int64_t(first + r) * (m.heads + 2 * m.kv_heads) + kv_head * group + g) * m.head_dim; }
  T* output(int r, int g) const { return attended + (int64_t(first + r) * m.heads + kv_head * group + g) * m.head_dim; }
  T* score(int r, int g, int entry) const { return scores + (r * group + g) * stride + entry - low; }
  const int32_t* line_of(int r) const { return line + s.line_start[first + r] - s.line_start[first]; }

  void attend() {
    int high = 0, from = low, to = std::numeric_limits<int>::max();  // all rows see entries [from, to)
    for (int r = 0; r < rows; r++) high = std::max(high, row[r].prefix), from = std::max(from, row[r].begin), to = std::min(to, row[r].prefix);
    if (from >= to) from = to = high;
    ask(0, rows, table + low, low, high);
    for (int r = 0; r < rows; r++) {
      ask(r, 1, line_of(r), row[r].prefix, row[r].end);
      for (int g = 0; g < group; g++) soften(score(r, g, low), row[r].begin - low, row[r].end - low);
      std::fill_n(output(r, 0), group * m.head_dim, T(0));
      add(r, 1, table, 0, row[r].begin, std::min(from, row[r].prefix));
    }
    add(0, rows, table, 0, from, to);
    for (int r = 0; r < rows; r++) {
      add(r, 1, table, 0, std::max(to, row[r].begin), row[r].prefix);
      add(r, 1, line_of(r), row[r].prefix, std::max(row[r].begin, row[r].prefix), row[r].end);
    }
  }

  // Scores of `count` rows from row r on for entries [entry, end), which lie in `slots`.
  void ask(int r, int count, const int32_t* slots, int entry, int end) {
    for (; entry < end; entry += LANE, slots += LANE) {
      const T* key[LANE];
      for (int i = 0; i < LANE; i++) {
        int known = std::min(i, end - entry - 1);  // what lies behind the last is masked
        key[i] = as_computed(keys + int64_t(slots[known]) * m.head_dim, widened + i * m.head_dim, m.head_dim);
      }
      for (int q = 0; q < count * group; q++) dots(query(r + q / group, q % group), key, m.head_dim, score(r, q, entry));
    }
  }

  // Dot products to weights that sum to 1, for columns [begin, end); lanes follow the entry's number, as `low` is a multiple of them.
  void soften(T* p, int begin, int end) {
    int first = begin / LANE * LANE, last = (end + LANE - 1) / LANE * LANE;
    for (int i = first; i < last; i += LANE) {
      Vec<T> v = load(p + i) * T(m.scaling);
      if (m.attention_softcap > 0) v = tanh_lanes<T>(v / T(m.attention_softcap)) * T(m.attention_softcap);
      store(p + i, v);
    }
    constexpr T NEVER = -std::numeric_limits<T>::infinity();
    std::fill(p + first, p + begin, NEVER);
    std::fill(p + end, p + last, NEVER);
    Vec<T> most = splat(NEVER), total{};
    for (int i = first; i < last; i += LANE) { Vec<T> v = load(p + i); most = v > most ? v : most; }
    T peak = most[0];
    for (int i = 1; i < LANE; i++) peak = most[i] > peak ? most[i] : peak;
    for (int i = first; i < last; i += LANE) { Vec<T> e = exp_lanes(load(p + i) - peak); store(p + i, e); total += e; }
    T weight = T(1) / sum_lanes(total);
    for (int i = first; i < last; i += LANE) store(p + i, load(p + i) * weight);
  }

  // Adds weighted values of entries [from, to) to the outputs of `count` rows from row r on; entry `base` lies in slots[0].
  void add(int r, int count, const int32_t* slots, int base, int from, int to) {
    if (from >= to) return;
    slots += from - base;
    for (int q = 0, left = count * group, now; left; q += now, left -= now) {
      const T* p = score(r, q, from);
      T* out[ROWS];
      for (int i = 0; i < std::min(left, ROWS); i++) out[i] = output(r + (q + i) / group, (q + i) % group);
      now = left >= 6 ? 6 : left >= 4 ? 4 : left;
      by_rows(now, [&](auto queries) { weigh<decltype(queries)::value>(p, slots, to - from, out); });
    }
  }
  template <int M> void weigh(const T* p, const int32_t* slots, int count, T* const* out) {
    constexpr int J = SUMS / ROWS;
    int j = 0;
    for (; j + J * WIDTH<T> <= m.head_dim; j += J * WIDTH<T>) weigh_columns<M, J>(p, slots, count, out, j);
    for (; j < m.head_dim; j += WIDTH<T>) weigh_columns<M, 1>(p, slots, count, out, j);
  }
  template <int M, int J> void weigh_columns(const T* p, const int32_t* slots, int count, T* const* out, int column) {
    Wide<T> sums[M][J];
    for (int q = 0; q < M; q++) for (int j = 0; j < J; j++) sums[q][j] = load_wide(out[q] + column + j * WIDTH<T>);
    for (int i = 0; i < count; i++) {
      const KV* value = values + int64_t(slots[i]) * m.head_dim + column;
      Wide<T> b[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) b[j] = load_wide_as(value + j * WIDTH<T>);
      add_products<M, J, T>(sums, p + i, stride, b);
    }
    for (int q = 0; q < M; q++) for (int j = 0; j < J; j++) store_wide(out[q] + column + j * WIDTH<T>, sums[q][j]);
  }
};

}  // namespace drafthouse
