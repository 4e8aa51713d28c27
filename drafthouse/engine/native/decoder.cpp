// The dense decoder's forward pass on CPUs: one call for each step, all layers inside.
//
// Promises: a row's bits depend on that row and on the keys and values that it sees, and on nothing else: not on the number of
// rows, the other sequences, the chunking of a prompt, the tree, the number of threads or the width of the machine's vectors.
//
// No torch headers: arrays come as pointers.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "attention.h"
#include "int8.h"
#include "layout.h"
#include "linears.h"
#include "ranks.h"
#include "rows.h"
#include "team.h"
#include "vectors.h"

namespace drafthouse {

enum Epilogue { STORE, RESIDUAL, GLU, LOGITS };

// A thread's own memory, which grows.
template <class T> struct Scratch {
  AttentionScratch<T> attention;
  std::vector<T> panel, rows;
};

// Rows that a linear takes: there already, or to be normed by each thread that takes a task of it.
template <class T> struct Source {
  const T* rows;
  const void* norm;
};

template <class T, class W, class KV> struct Run {
  static constexpr int FEW = 4;        // rows that each thread norms for itself, which costs less than to wait for another
  static constexpr int WIDENED = 128;  // rows from which on a panel is widened once instead of for each group of rows
  static constexpr int CHUNK = 384;    // rows at most that pass all panels, so that the cache holds them
  const Model& m;
  const Step& s;
  Team& team;
  T *x, *normed, *qkv, *attended, *active, *added;  // [tokens, ...]
  uint8_t* rounded;                                 // [tokens, row_bytes]: what an int8 linear takes
  Scratch<T>* scratch;                              // of each thread
  const std::vector<int>& blocks;
  int heads_dim, kv_dim;
  Ranks<T> ranks;

  template <Epilogue E, class Weights, class In>
  void panel_rows(const Linear& l, int panel, const Weights* w, const In* in, int64_t in_stride, int rows, T* out, int64_t out_stride) {
    constexpr int OUT = E == GLU ? PANEL / 2 : PANEL;
    const T* bias = static_cast<const T*>(l.bias);
    int first = panel * OUT, valid = (E == GLU ? l.outer / 2 : l.outer) - first;
    if (valid > OUT) valid = OUT;
    T acc[ROWS * PANEL];
    int groups = (rows + ROWS - 1) / ROWS;
    for (int group = 0, row = 0, count; group < groups; group++, row += count) {
      count = (rows - row + groups - group - 1) / (groups - group);
      multiply_rows(count, in + row * in_stride, in_stride, l.inner, w, acc);
      for (int r = 0; r < count; r++) {
        T* a = acc + r * PANEL;
        if (bias) for (int c = 0; c < PANEL; c++) a[c] += bias[panel * PANEL + c];
        T* o = out + (row + r) * out_stride + first;
        if (E == GLU) {
          for (int c = 0; c < OUT; c += LANES<T>) store(a + c, activate<T>(load(a + c), m.activation) * load(a + OUT + c));
          std::memcpy(o, a, valid * sizeof(T));
        } else if (E == RESIDUAL) {
          for (int c = 0; c < valid; c++) o[c] += a[c] * T(m.residual_scale);
        } else if (E == LOGITS) {
          for (int c = 0; c < valid; c++) a[c] *= T(m.logit_scale);
          if (m.final_softcap > 0)
            for (int c = 0; c < PANEL; c += LANES<T>)
              store(a + c, tanh_lanes<T>(load(a + c) / T(m.final_softcap)) * T(m.final_softcap));
          std::memcpy(o, a, valid * sizeof(T));
        } else {
          std::memcpy(o, a, valid * sizeof(T));
        }
      }
    }
  }
  template <Epilogue E> void linear(const Linear& l, int& region, int thread, Source<T> in, int rows, T* out, int64_t stride) {
    int panels = (l.outer + PANEL - 1) / PANEL, threads = int(team.workers.size()) + 1, chunks = (rows + CHUNK - 1) / CHUNK;
    if (chunks == 1 && rows >= 8 * ROWS && threads > 1 && panels < 8 * threads) chunks = 2;  // or threads wait for the last panel
    int chunk = chunks > 1 ? ((rows + chunks - 1) / chunks + ROWS - 1) / ROWS * ROWS : rows;
    int64_t bytes = row_bytes(l.inner);
    if constexpr (IN_INT8) team.share(rows, region, [&](int r) { quantise_row(in.rows + int64_t(r) * l.inner, l.inner, rounded + r * bytes); });
    team.share(panels * chunks, region, [&](int task) {
      int panel = task % panels, row = std::min(task / panels * chunk, rows), count = std::min(chunk, rows - row);
      const W* w = static_cast<const W*>(l.panels) + panel * panel_size(l.inner);
      T* to = out + row * stride;
      if constexpr (IN_INT8) return panel_rows<E>(l, panel, w, rounded + row * bytes, bytes, count, to, stride);
      if (!in.rows) in.rows = normed_alone(in.norm, rows, thread);
      const T* from = in.rows + int64_t(row) * l.inner;
      if constexpr (sizeof(W) < sizeof(T) && !IN_INT8) {
        if (count >= WIDENED) return panel_rows<E>(l, panel, widened(w, l.inner, scratch[thread].panel), from, l.inner, count, to, stride);
      }
      if constexpr (!IN_INT8) panel_rows<E>(l, panel, w, from, l.inner, count, to, stride);
    });
  }
  // Only within a task: until it is done no thread goes on to change x.
  const T* normed_alone(const void* weight, int rows, int thread) {
    T* own = sized(scratch[thread].rows, int64_t(rows) * m.hidden);
    for (int r = 0; r < rows; r++) norm_row(x + int64_t(r) * m.hidden, static_cast<const T*>(weight), own + int64_t(r) * m.hidden, m.hidden, m.eps);
    return own;
  }
  static constexpr bool IN_INT8 = std::is_same_v<W, Int8>;
  static int64_t panel_size(int inner) { return IN_INT8 ? panel_bytes(inner) : int64_t(PANEL) * inner; }

  // Of several ranks the one that holds the token writes its part.
  void embed(int row) {
    int token = s.token[row];
    T* out = (m.ranks > 1 ? ranks.mine(int64_t(s.tokens) * m.hidden) : x) + int64_t(row) * m.hidden;
    if (m.ranks > 1) {
      if (token / ranks.share() != m.rank) return;
      token -= m.rank * ranks.share();
    }
    if (m.tied || IN_INT8) {
      const W* w = static_cast<const W*>(m.tied ? m.head.panels : m.embedding) + token / PANEL * panel_size(m.hidden);
      int c = token % PANEL;
      for (int k = 0; k < m.hidden; k++) out[k] = column(w, c, k) * T(m.embedding_scale);
    } else {
      const W* w = static_cast<const W*>(m.embedding) + int64_t(token) * m.hidden;
      for (int k = 0; k < m.hidden; k++) out[k] = number(w[k]) * T(m.embedding_scale);
    }
    if (s.input_of[row] < 0) return;
    const T* added = static_cast<const T*>(s.inputs) + int64_t(s.input_of[row]) * m.hidden;
    for (int k = 0; k < m.hidden; k++) out[k] += added[k];
  }
  static float number(float w) { return w; }
  static double number(double w) { return w; }
  static float number(Bf16 w) { return widen(w); }
  static float number(Half w) { return widen(w); }
  static float number(Int8 w) { return w.bits; }
  static float column(const float* w, int c, int k) { return w[k * PANEL + c]; }
  static double column(const double* w, int c, int k) { return w[k * PANEL + c]; }
  static float column(const Bf16* w, int c, int k) { return widen(w[(k / 2 * PANEL + c) * 2 + k % 2]); }
  static float column(const Half* w, int c, int k) { return widen(w[k * PANEL + c]); }
  static float column(const Int8* w, int c, int k) { return weight8(w, c, k); }

  // Norms and rotates the queries that share a KV head, and its key, and stores the row's key and value.
  void place(int layer, int row, int kv_head) {
    const Layer& l = m.layer[layer];
    int d = m.head_dim, half = m.rotary / 2, group = m.heads / m.kv_heads;
    T* q = qkv + int64_t(row) * (heads_dim + 2 * kv_dim) + kv_head * group * d;
    T *k = qkv + int64_t(row) * (heads_dim + 2 * kv_dim) + heads_dim + kv_head * d, *v = k + kv_dim;
    const T* cos = static_cast<const T*>(l.cos) + int64_t(s.position[row]) * half;
    const T* sin = static_cast<const T*>(l.sin) + int64_t(s.position[row]) * half;
    for (int h = 0; h <= group; h++) {
      T* head = h < group ? q + h * d : k;
      const void* norm = h < group ? l.q_norm : l.k_norm;
      if (norm && !m.norm_over_all_heads) norm_row(head, static_cast<const T*>(norm), head, d, m.eps);
      rotate(head, cos, sin, half);
    }
    KV* key = static_cast<KV*>(m.cache) + ((int64_t(layer) * 2 * m.kv_heads + kv_head) * m.slots + s.write_slot[row]) * d;
    KV* value = key + int64_t(m.kv_heads) * m.slots * d;
    for (int i = 0; i < d; i++) { store_as(key + i, k[i]); store_as(value + i, v[i]); }
  }
  void place_all(int layer, int row) {
    const Layer& l = m.layer[layer];
    T* q = qkv + int64_t(row) * (heads_dim + 2 * kv_dim);
    if (l.q_norm && m.norm_over_all_heads) {
      T* k = q + heads_dim;
      int64_t at = int64_t(row) * 2, all = int64_t(s.tokens) * 2;
      T q_squares = m.ranks > 1 ? ranks.sum_one(all, at) : squares_of(q, heads_dim);
      T k_squares = m.ranks > 1 ? ranks.sum_one(all, at + 1) : squares_of(k, kv_dim);
      norm_part(q, static_cast<const T*>(l.q_norm), q, heads_dim, q_squares, heads_dim * m.ranks, m.eps);
      norm_part(k, static_cast<const T*>(l.k_norm), k, kv_dim, k_squares, kv_dim * m.ranks, m.eps);
    }
    for (int h = 0; h < m.kv_heads; h++) place(layer, row, h);
  }
  // A step of one block places its rows with the heads that attend.
  void attention(int layer, int& region, int thread) {
    int count = int(blocks.size()) - 1;
    bool together = count == 1 && !m.norm_over_all_heads;
    if (m.ranks > 1 && m.norm_over_all_heads) gather_squares(region);
    if (!together) team.share(s.tokens, region, [&](int row) { place_all(layer, row); });
    team.share(count * m.kv_heads, region, [&](int task) {
      int first = blocks[task / m.kv_heads], rows = blocks[task / m.kv_heads + 1] - first, head = task % m.kv_heads;
      if (together) for (int r = 0; r < rows; r++) place(layer, r, head);
      Attention<T, KV>(m, s, qkv, attended, layer, first, rows, head, scratch[thread].attention).attend();
    });
  }

  // Norms over all heads need the squares of the other ranks' heads.
  void gather_squares(int& region) {
    int64_t all = int64_t(s.tokens) * 2;
    team.share(s.tokens, region, [&](int r) {
      const T* q = qkv + int64_t(r) * (heads_dim + 2 * kv_dim);
      ranks.mine(all)[r * 2] = squares_of(q, heads_dim);
      ranks.mine(all)[r * 2 + 1] = squares_of(q + heads_dim, kv_dim);
    });
    ranks.gather(all, region);
  }

  // added = linear(in), of several ranks summed over them, then x += scale * norm(added); or at once where neither is.
  void into_residual(const Linear& l, const void* norm, int& region, int thread, const T* in) {
    if (!norm && m.ranks == 1) return linear<RESIDUAL>(l, region, thread, {in, nullptr}, s.tokens, x, m.hidden);
    int64_t all = int64_t(s.tokens) * m.hidden;
    linear<STORE>(l, region, thread, {in, nullptr}, s.tokens, m.ranks > 1 ? ranks.mine(all) : added, m.hidden);
    if (m.ranks > 1) ranks.gather(all, region);
    team.share(s.tokens, region, [&](int r) {
      T *a = added + int64_t(r) * m.hidden, *to = x + int64_t(r) * m.hidden;
      if (m.ranks > 1) ranks.sum(all, int64_t(r) * m.hidden, m.hidden, a);
      if (norm) norm_row(a, static_cast<const T*>(norm), a, m.hidden, m.eps);
      for (int i = 0; i < m.hidden; i++) to[i] += a[i] * T(m.residual_scale);
    });
  }
  Source<T> normalised(const void* weight, int& region) {
    if (!weight) return {x, nullptr};
    if (!IN_INT8 && s.tokens <= FEW) return {nullptr, weight};
    team.share(s.tokens, region, [&](int r) {
      norm_row(x + int64_t(r) * m.hidden, static_cast<const T*>(weight), normed + int64_t(r) * m.hidden, m.hidden, m.eps);
    });
    return {normed, nullptr};
  }

  void embed_all(int& region) {
    team.share(s.tokens, region, [&](int r) { embed(r); });
    if (m.ranks == 1) return;
    int64_t all = int64_t(s.tokens) * m.hidden;
    ranks.gather(all, region);
    team.share(s.tokens, region, [&](int r) {
      std::memcpy(x + int64_t(r) * m.hidden, ranks.of(s.token[r] / ranks.share(), all) + int64_t(r) * m.hidden, m.hidden * sizeof(T));
    });
  }
  void head(int& region, int thread) {
    T* logits = static_cast<T*>(s.logits);
    if (m.ranks == 1) return linear<LOGITS>(m.head, region, thread, {normed, nullptr}, s.outputs, logits, m.vocab);
    int share = ranks.share();
    int64_t all = int64_t(s.outputs) * share;
    linear<LOGITS>(m.head, region, thread, {normed, nullptr}, s.outputs, ranks.mine(all), share);
    ranks.gather(all, region);
    team.share(s.outputs, region, [&](int r) {
      for (int first = 0, rank = 0; first < m.vocab; first += share, rank++)
        std::memcpy(logits + int64_t(r) * m.vocab + first, ranks.of(rank, all) + int64_t(r) * share,
                    (m.vocab - first < share ? m.vocab - first : share) * sizeof(T));
    });
  }

  void work(int thread) {
    int region = 0;
    embed_all(region);
    for (int i = 0; i < m.layers; i++) {
      const Layer& l = m.layer[i];
      linear<STORE>(l.qkv, region, thread, normalised(l.attn_in, region), s.tokens, qkv, heads_dim + 2 * kv_dim);
      attention(i, region, thread);
      into_residual(l.out, l.attn_out, region, thread, attended);
      linear<GLU>(l.gate_up, region, thread, normalised(l.mlp_in, region), s.tokens, active, m.intermediate);
      into_residual(l.down, l.mlp_out, region, thread, active);
    }
    team.share(s.outputs + s.states, region, [&](int r) {
      int row = r < s.outputs ? s.output[r] : s.state[r - s.outputs];
      T* to = r < s.outputs ? normed + int64_t(r) * m.hidden : static_cast<T*>(s.last_states) + int64_t(r - s.outputs) * m.hidden;
      norm_row(x + int64_t(row) * m.hidden, static_cast<const T*>(m.final_norm), to, m.hidden, m.eps);
    });
    if (s.outputs) head(region, thread);
  }
};

struct Decoder {
  Model model;
  Team team;
  std::vector<char> scratch;
  std::vector<int> blocks;
  std::vector<Scratch<float>> singles;
  std::vector<Scratch<double>> doubles;
  Decoder(const Model& m, int threads) : model(m), team(threads), singles(threads), doubles(threads) {}
};

Scratch<float>* scratch_of(Decoder& d, float) { return d.singles.data(); }
Scratch<double>* scratch_of(Decoder& d, double) { return d.doubles.data(); }

template <class T, class W, class KV> void forward(Decoder& d, const Step& s) {
  const Model& m = d.model;
  int heads_dim = m.heads * m.head_dim, kv_dim = m.kv_heads * m.head_dim;
  int64_t rows = s.tokens > s.outputs ? s.tokens : s.outputs;
  int64_t in_parts = m.ranks > 1 ? (m.hidden > m.vocab / m.ranks + 1 ? m.hidden : m.vocab / m.ranks + 1) * m.ranks : 0;
  int64_t widths[] = {m.hidden, m.hidden, heads_dim + 2 * kv_dim, heads_dim, m.intermediate, m.hidden, in_parts};
  int widest = m.intermediate > m.hidden ? m.intermediate : m.hidden;
  int64_t rounded = std::is_same_v<W, Int8> ? rows * row_bytes(widest > heads_dim ? widest : heads_dim) : 0;
  int64_t total = 64 + rounded;
  for (int64_t w : widths) total += (rows * w * int64_t(sizeof(T)) + 63) / 64 * 64;
  if (int64_t(d.scratch.size()) < total) { d.scratch.clear(); d.scratch.shrink_to_fit(); d.scratch.resize(total); }
  char* at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(d.scratch.data()) + 63) / 64 * 64);
  T* part[7];
  for (int i = 0; i < 7; i++) { part[i] = reinterpret_cast<T*>(at); at += (rows * widths[i] * int64_t(sizeof(T)) + 63) / 64 * 64; }
  find_blocks(s, d.blocks);
  Run<T, W, KV> run{m, s, d.team, part[0], part[1], part[2], part[3], part[4], part[5], reinterpret_cast<uint8_t*>(at), scratch_of(d, T()), d.blocks, heads_dim, kv_dim, {m, d.team, part[6]}};
  d.team.run([](void* r, int thread) { static_cast<Run<T, W, KV>*>(r)->work(thread); }, &run, 20 * m.layers + 12);
}

}  // namespace drafthouse

extern "C" {

void* drafthouse_decoder_new(const drafthouse::Model* model, int32_t threads) { return new drafthouse::Decoder(*model, threads); }

void drafthouse_decoder_free(void* decoder) { delete static_cast<drafthouse::Decoder*>(decoder); }

void drafthouse_decoder_run(void* decoder, const drafthouse::Step* step) {
  auto& d = *static_cast<drafthouse::Decoder*>(decoder);
  switch (d.model.kind) {
    case drafthouse::F32: return drafthouse::forward<float, float, float>(d, *step);
    case drafthouse::BF16: return drafthouse::forward<float, drafthouse::Bf16, drafthouse::Bf16>(d, *step);
    case drafthouse::F16: return drafthouse::forward<float, drafthouse::Half, drafthouse::Half>(d, *step);
    case drafthouse::INT8: return drafthouse::forward<float, drafthouse::Int8, drafthouse::Bf16>(d, *step);
    case drafthouse::F64: return drafthouse::forward<double, double, double>(d, *step);
  }
}

// rows [count, inner] times panels of float32 or, `wide`, of float64: out [count, outer].
void drafthouse_multiply(const void* panels, int32_t inner, int32_t outer, int32_t wide, const void* rows, int32_t count, void* out) {
  using drafthouse::multiply_alone;
  if (wide) multiply_alone(static_cast<const double*>(panels), inner, outer, static_cast<const double*>(rows), count, static_cast<double*>(out));
  else multiply_alone(static_cast<const float*>(panels), inner, outer, static_cast<const float*>(rows), count, static_cast<float*>(out));
}

}
