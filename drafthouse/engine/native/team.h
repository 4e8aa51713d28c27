// The decoder's threads: one that has a core takes the next task. One that has none delays the others by its own task at most.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace drafthouse {

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
  // Calls part(i) for i in [0, count), each once, by whichever thread is free; returns when all are done. All threads of a step call
  // it for the same regions in the same order.
  template <class F> void share(int count, int& region, F part) {
    std::atomic<int32_t>&taken = next[region], &finished = done[region];
    region++;
    for (int i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < count;) {
      part(i);
      finished.fetch_add(1, std::memory_order_acq_rel);
    }
    for (Patience p; finished.load(std::memory_order_acquire) < count;) p.wait();
  }
};

}  // namespace drafthouse
