// The dense decoder's forward pass on CPUs: one call for each step, all layers inside.
//
// Promises: a row's bits depend on that row and on the keys and values that it sees, and on nothing else: not on the number of
// rows, the other sequences, the chunking of a prompt, the tree, the number of threads or the width of the machine's vectors.
// Every output of a linear is one chain of multiply-adds in the order of the inner index; reductions over a row use LANES partial
// sums and one fixed tree; attention takes the exact maximum first, then sums a row's keys in the order of their positions.
//
// No torch headers: arrays come as pointers. Weights lie in panels of PANEL columns (see packing.py).

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int PANEL = 64;

enum Kind : int32_t { F32 = 0, BF16 = 1, F64 = 2 };
enum Activation : int32_t { SILU = 0, GELU_TANH = 1 };

struct Linear {
  const void* panels;
  const void* bias;     // in the compute type, or null
  int32_t inner, outer; // outer counts real columns; panels are padded
};

struct Layer {
  Linear qkv, out, gate_up, down;
  const void *attn_in, *attn_out, *mlp_in, *mlp_out;  // norm weights in the compute type, or null
  const void *q_norm, *k_norm;
  const void *cos, *sin;  // [context, rotary / 2]
  int64_t window;         // 0: none
};

struct Model {
  int32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, rotary;
  int32_t kind, activation, tied, norm_over_all_heads;
  double eps, scaling, attention_softcap, final_softcap, embedding_scale, residual_scale, logit_scale;
  const Layer* layer;
  const void* embedding;  // rows, if not tied
  Linear head;
  const void* final_norm;
  void* cache;  // [layers, 2, kv_heads, slots, head_dim]
  int64_t slots;
};

struct Step {
  int32_t tokens, outputs;
  const int32_t *token, *position, *write_slot;
  const int32_t* const* table;       // each row's slot table: entry e of its sequence lies in slot table[row][e]
  const int32_t *prefix, *sinks, *skipped;
  const int32_t *line_start, *line;  // entries on each row's line, [tokens + 1] and flat
  const int32_t *output;             // rows whose logits are wanted
  void* logits;                      // [outputs, vocab] in the compute type
};

// ---- vectors of 64 bytes, lowered by the compiler to what the machine has ----

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
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint32_t WordsU __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint16_t HalvesU __attribute__((vector_size(32), aligned(2), may_alias));

template <class T> using Vec = typename Vectors<T>::V;
template <class T> constexpr int LANES = Vectors<T>::LANES;

template <class T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const typename Vectors<T>::U*>(p); }
template <class T> inline void store(T* p, Vec<T> v) { *reinterpret_cast<typename Vectors<T>::U*>(p) = v; }
template <class T> inline Vec<T> splat(T x) { return Vec<T>{} + x; }

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

// Stored keys and values: a vector of the compute type from f32, bf16 or f64.
struct Bf16 { uint16_t bits; };
inline float widen(Bf16 x) { uint32_t w = uint32_t(x.bits) << 16; float f; std::memcpy(&f, &w, 4); return f; }
inline Bf16 narrow(float f) {  // round to nearest, ties to even
  uint32_t w; std::memcpy(&w, &f, 4);
  if ((w & 0x7fffffff) > 0x7f800000) return {uint16_t((w >> 16) | 64)};
  return {uint16_t((w + 0x7fff + ((w >> 16) & 1)) >> 16)};
}
inline Vec<float> load_as(const float* p) { return load(p); }
inline Vec<double> load_as(const double* p) { return load(p); }
inline Vec<float> load_as(const Bf16* p) {
  Halves h = *reinterpret_cast<const HalvesU*>(p);
  Words w = __builtin_convertvector(h, Words) << 16;
  return (Vec<float>)w;
}
inline void store_as(float* p, float x) { *p = x; }
inline void store_as(double* p, double x) { *p = x; }
inline void store_as(Bf16* p, float x) { *p = narrow(x); }

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

// ---- threads: whoever is on a core takes the next task; a thread that is not there holds nobody up ----

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Spins while the wait is likely short, then lets others run.
struct Patience {
  int spins = 0;
  void wait() { ++spins < 400 ? relax() : std::this_thread::yield(); }
};

struct Team {
  static constexpr int REGIONS = 1 << 14;
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> open{false};  // a step runs, and workers may enter it
  std::atomic<int> inside{0};     // workers in it
  bool ending = false;
  void (*work)(void*, int) = nullptr;
  void* argument = nullptr;
  std::atomic<int32_t> next[REGIONS], done[REGIONS];  // tasks of each part of a step: handed out, finished

  explicit Team(int threads) {
    for (int i = 1; i < threads; i++) workers.emplace_back([this, i] { serve(i); });
  }
  ~Team() {
    { std::lock_guard<std::mutex> lock(mutex); ending = true; generation.fetch_add(1); }
    wake.notify_all();
    for (auto& w : workers) w.join();
  }
  void serve(int id) {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; generation.load() == seen && spins < 20000; spins++) relax();
      if (generation.load() == seen) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return generation.load() != seen; });
      }
      seen = generation.load();
      inside.fetch_add(1);
      if (ending) return;
      if (open.load()) work(argument, id);
      inside.fetch_sub(1);
    }
  }
  void run(void (*what)(void*, int), void* with, int regions) {
    for (int i = 0; i < regions; i++) { next[i].store(0, std::memory_order_relaxed); done[i].store(0, std::memory_order_relaxed); }
    work = what; argument = with;
    if (!workers.empty()) {
      open.store(true);
      { std::lock_guard<std::mutex> lock(mutex); generation.fetch_add(1); }
      wake.notify_all();
    }
    what(with, 0);
    open.store(false);
    for (Patience p; inside.load() > 0;) p.wait();
  }
};

// ---- linears ----

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


// ---- parts of a layer, by row ----

template <class T> void norm_row(const T* x, const T* weight, T* out, int n, double eps) {
  Vec<T> squares{};
  for (int i = 0; i < n; i += LANES<T>) { Vec<T> v = load(x + i); squares += v * v; }
  T scale = T(1) / std::sqrt(sum_lanes(squares) / T(n) + T(eps));
  for (int i = 0; i < n; i += LANES<T>) store(out + i, load(x + i) * scale * load(weight + i));
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

// ---- a step ----

enum Epilogue { STORE, RESIDUAL, GLU, LOGITS };

template <class T, class W, class KV> struct Run {
  const Model& m;
  const Step& s;
  Team& team;
  T *x, *normed, *qkv, *attended, *active, *added;  // [tokens, ...]
  std::vector<T>* scores;                           // of each thread
  int heads_dim, kv_dim;

  // Calls part(i) for i in [0, count), each once, by whichever thread is free; returns when all are done.
  template <class F> void share(int count, int& region, F part) {
    std::atomic<int32_t>&next = team.next[region], &done = team.done[region];
    region++;
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      part(i);
      done.fetch_add(1, std::memory_order_acq_rel);
    }
    for (Patience p; done.load(std::memory_order_acquire) < count;) p.wait();
  }

  template <Epilogue E> void panel_rows(const Linear& l, int panel, const T* in, int rows, T* out, int64_t out_stride) {
    constexpr int OUT = E == GLU ? PANEL / 2 : PANEL;
    const W* w = static_cast<const W*>(l.panels) + int64_t(panel) * PANEL * l.inner;
    const T* bias = static_cast<const T*>(l.bias);
    int first = panel * OUT, valid = (E == GLU ? l.outer / 2 : l.outer) - first;
    if (valid > OUT) valid = OUT;
    T acc[ROWS * PANEL];
    for (int row = 0; row < rows; row += ROWS) {
      int count = rows - row < ROWS ? rows - row : ROWS;
      multiply_rows(count, in + int64_t(row) * l.inner, l.inner, l.inner, w, acc);
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
  template <Epilogue E> void linear(const Linear& l, int& region, const T* in, int rows, T* out, int64_t stride) {
    share((l.outer + PANEL - 1) / PANEL, region, [&](int p) { panel_rows<E>(l, p, in, rows, out, stride); });
  }

  void embed(int row) {
    int token = s.token[row];
    T* out = x + int64_t(row) * m.hidden;
    if (m.tied) {
      const W* w = static_cast<const W*>(m.head.panels) + int64_t(token / PANEL) * PANEL * m.hidden;
      int c = token % PANEL;
      for (int k = 0; k < m.hidden; k++) out[k] = column(w, c, k) * T(m.embedding_scale);
    } else {
      const W* w = static_cast<const W*>(m.embedding) + int64_t(token) * m.hidden;
      for (int k = 0; k < m.hidden; k++) out[k] = number(w[k]) * T(m.embedding_scale);
    }
  }
  static float number(float w) { return w; }
  static double number(double w) { return w; }
  static float number(Bf16 w) { return widen(w); }
  static float column(const float* w, int c, int k) { return w[k * PANEL + c]; }
  static double column(const double* w, int c, int k) { return w[k * PANEL + c]; }
  static float column(const Bf16* w, int c, int k) { return widen(w[(k / 2 * PANEL + c) * 2 + k % 2]); }

  KV* stored(int layer, int which, int head, int64_t slot) {
    return static_cast<KV*>(m.cache) + (((int64_t(layer) * 2 + which) * m.kv_heads + head) * m.slots + slot) * m.head_dim;
  }

  // Norms and rotates queries and keys, and stores the row's key and value.
  void place(int layer, int row) {
    const Layer& l = m.layer[layer];
    int d = m.head_dim, half = m.rotary / 2;
    T* q = qkv + int64_t(row) * (heads_dim + 2 * kv_dim);
    T *k = q + heads_dim, *v = k + kv_dim;
    if (l.q_norm && m.norm_over_all_heads) {
      norm_row(q, static_cast<const T*>(l.q_norm), q, heads_dim, m.eps);
      norm_row(k, static_cast<const T*>(l.k_norm), k, kv_dim, m.eps);
    } else if (l.q_norm) {
      for (int h = 0; h < m.heads; h++) norm_row(q + h * d, static_cast<const T*>(l.q_norm), q + h * d, d, m.eps);
      for (int h = 0; h < m.kv_heads; h++) norm_row(k + h * d, static_cast<const T*>(l.k_norm), k + h * d, d, m.eps);
    }
    const T* cos = static_cast<const T*>(l.cos) + int64_t(s.position[row]) * half;
    const T* sin = static_cast<const T*>(l.sin) + int64_t(s.position[row]) * half;
    for (int h = 0; h < m.heads + m.kv_heads; h++) rotate(q + h * d, cos, sin, half);
    for (int h = 0; h < m.kv_heads; h++) {
      KV *key = stored(layer, 0, h, s.write_slot[row]), *value = stored(layer, 1, h, s.write_slot[row]);
      for (int i = 0; i < d; i++) { store_as(key + i, k[h * d + i]); store_as(value + i, v[h * d + i]); }
    }
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
    const T* q = qkv + int64_t(row) * (heads_dim + 2 * kv_dim) + head * d;
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
    T* out = attended + int64_t(row) * heads_dim + head * d;
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

  // added = linear(in), then x += scale * norm(added); or the sum at once where no norm follows.
  void into_residual(const Linear& l, const void* norm, int& region, const T* in) {
    if (!norm) return linear<RESIDUAL>(l, region, in, s.tokens, x, m.hidden);
    linear<STORE>(l, region, in, s.tokens, added, m.hidden);
    share(s.tokens, region, [&](int r) {
      T *a = added + int64_t(r) * m.hidden, *to = x + int64_t(r) * m.hidden;
      norm_row(a, static_cast<const T*>(norm), a, m.hidden, m.eps);
      for (int i = 0; i < m.hidden; i++) to[i] += a[i] * T(m.residual_scale);
    });
  }
  const T* normalised(const void* weight, int& region) {
    if (!weight) return x;
    share(s.tokens, region, [&](int r) {
      norm_row(x + int64_t(r) * m.hidden, static_cast<const T*>(weight), normed + int64_t(r) * m.hidden, m.hidden, m.eps);
    });
    return normed;
  }

  void work(int thread) {
    int region = 0;
    share(s.tokens, region, [&](int r) { embed(r); });
    for (int i = 0; i < m.layers; i++) {
      const Layer& l = m.layer[i];
      linear<STORE>(l.qkv, region, normalised(l.attn_in, region), s.tokens, qkv, heads_dim + 2 * kv_dim);
      share(s.tokens, region, [&](int r) { place(i, r); });
      share(s.tokens * m.heads, region, [&](int t) { attend(i, t / m.heads, t % m.heads, scores[thread]); });
      into_residual(l.out, l.attn_out, region, attended);
      linear<GLU>(l.gate_up, region, normalised(l.mlp_in, region), s.tokens, active, m.intermediate);
      into_residual(l.down, l.mlp_out, region, active);
    }
    share(s.outputs, region, [&](int r) {
      norm_row(x + int64_t(s.output[r]) * m.hidden, static_cast<const T*>(m.final_norm), normed + int64_t(r) * m.hidden, m.hidden, m.eps);
    });
    if (s.outputs) linear<LOGITS>(m.head, region, normed, s.outputs, static_cast<T*>(s.logits), m.vocab);
  }
};

struct Decoder {
  Model model;
  Team team;
  std::vector<char> scratch;
  std::vector<float> singles[64];
  std::vector<double> doubles[64];
  Decoder(const Model& m, int threads) : model(m), team(threads) {}
};

std::vector<float>* scores_of(Decoder& d, float) { return d.singles; }
std::vector<double>* scores_of(Decoder& d, double) { return d.doubles; }

template <class T, class W, class KV> void forward(Decoder& d, const Step& s) {
  const Model& m = d.model;
  int heads_dim = m.heads * m.head_dim, kv_dim = m.kv_heads * m.head_dim;
  int64_t rows = s.tokens > s.outputs ? s.tokens : s.outputs;
  int64_t widths[] = {m.hidden, m.hidden, heads_dim + 2 * kv_dim, heads_dim, m.intermediate, m.hidden};
  int64_t total = 64;
  for (int64_t w : widths) total += (rows * w * int64_t(sizeof(T)) + 63) / 64 * 64;
  if (int64_t(d.scratch.size()) < total) { d.scratch.clear(); d.scratch.shrink_to_fit(); d.scratch.resize(total); }
  char* at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(d.scratch.data()) + 63) / 64 * 64);
  T* part[6];
  for (int i = 0; i < 6; i++) { part[i] = reinterpret_cast<T*>(at); at += (rows * widths[i] * int64_t(sizeof(T)) + 63) / 64 * 64; }
  Run<T, W, KV> run{m, s, d.team, part[0], part[1], part[2], part[3], part[4], part[5], scores_of(d, T()), heads_dim, kv_dim};
  d.team.run([](void* r, int thread) { static_cast<Run<T, W, KV>*>(r)->work(thread); }, &run, 16 * m.layers + 8);
}

}  // namespace

extern "C" {

void* drafthouse_decoder_new(const Model* model, int32_t threads) { return new Decoder(*model, threads); }

void drafthouse_decoder_free(void* decoder) { delete static_cast<Decoder*>(decoder); }

void drafthouse_decoder_run(void* decoder, const Step* step) {
  Decoder& d = *static_cast<Decoder*>(decoder);
  switch (d.model.kind) {
    case F32: return forward<float, float, float>(d, *step);
    case BF16: return forward<float, Bf16, Bf16>(d, *step);
    case F64: return forward<double, double, double>(d, *step);
  }
}

}
