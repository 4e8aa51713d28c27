// What the ranks of a tensor-parallel decoder hold together: each rank's part is gathered, and parts are added in the order of ranks.
//
// Promises: all ranks get the same bits, and a row's do not depend on the number of rows. Threads of one step call `gather` in the
// same order, as they call `Team::share`; all ranks run the same steps.

#pragma once

#include "layout.h"
#include "team.h"
#include "vectors.h"

namespace drafthouse {

template <class T> struct Ranks {
  const Model& m;
  Team& team;
  T* parts;  // [ranks, count]; the longest is a step's hidden states or logits

  // Tokens of the vocabulary on each rank; the last may have fewer.
  int share() const { return (m.vocab + m.ranks - 1) / m.ranks; }
  T* mine(int64_t count) const { return parts + m.rank * count; }
  const T* of(int rank, int64_t count) const { return parts + rank * count; }
  void gather(int64_t count, int& region) {
    team.share(1, region, [&](int) { m.gather(parts, count * int64_t(sizeof(T))); });
  }
  // out[0..n) = the sum over ranks of what begins at `at` of each part of `count` numbers.
  void sum(int64_t count, int64_t at, int n, T* out) const {
    for (int i = 0; i < n; i += LANES<T>) {
      Vec<T> total = load(of(0, count) + at + i);
      for (int r = 1; r < m.ranks; r++) total += load(of(r, count) + at + i);
      store(out + i, total);
    }
  }
  T sum_one(int64_t count, int64_t at) const {
    T total = of(0, count)[at];
    for (int r = 1; r < m.ranks; r++) total += of(r, count)[at];
    return total;
  }
};

}  // namespace drafthouse
