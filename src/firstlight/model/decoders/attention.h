// Causal attention of new positions over a cache, for one key-value head at a time.
#pragma once

#include "matmul.h"

constexpr long ATTENTION_ROWS = 16;  // query vectors at once, at least the query heads of a key-value head

// Keys and values of one sequence: (layers, 2, K, capacity, D).
struct Cache {
  float* data;
  int64_t capacity;
};

// exp(x - largest) of ``n`` scores, in place; returns their sum.
inline float softmax(float* x, long n) {
  Vec tops = broadcast(-INFINITY);
  float top = -INFINITY;
  long i = 0;
  for (; i + LANES <= n; i += LANES) tops = max(tops, load(x + i));
  top = max(tops);
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  Vec sums{};
  float last[LANES];
  for (i = 0; i < n; i += LANES) {
    long rest = n - i < LANES ? n - i : LANES;
    for (long j = 0; j < LANES; j++) last[j] = j < rest ? x[i + j] - top : -INFINITY;
    Vec e = exp(load(last));
    store(last, e);
    for (long j = rest; j < LANES; j++) last[j] = 0;
    std::memcpy(x + i, last, rest * sizeof(float));
    sums += load(last);
  }
  return sum(sums);
}

// y (n, D) = weights (n, S) values (S, D), from key ``first`` to ``end``.
template <int M, int N>
inline void weigh(const float* weights, long stride, const float* values, long D, long first, long end, float* y) {
  Vec sums[M][N] = {};
  for (long s = first; s < end; s++) {
    Vec v[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) v[i] = load(values + s * D + i * LANES);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Vec p = broadcast(weights[m * stride + s]);
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) sums[m][i] += p * v[i];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) store(y + m * D + i * LANES, sums[m][i]);
}

template <int M>
inline void weigh_all(const float* weights, long stride, const float* values, long D, long first, long end, float* y) {
  long d = 0;
  for (; d + 2 * LANES <= D; d += 2 * LANES) weigh<M, 2>(weights, stride, values + d, D, first, end, y + d);
  for (; d + LANES <= D; d += LANES) weigh<M, 1>(weights, stride, values + d, D, first, end, y + d);
  for (; d < D; d++) {
    for (int m = 0; m < M; m++) {
      float total = 0;
      for (long s = first; s < end; s++) total = std::fma(weights[m * stride + s], values[s * D + d], total);
      y[m * D + d] = total;
    }
  }
}

struct Heads {
  long D, group, window;  // group: query heads of a key-value head; window: 0 where all earlier positions are seen
  float scale;
  const float* slopes;  // of ALiBi for these query heads, or null
};

// Attend with ``n`` rows at consecutive positions from ``position``; q and y are (n * group, D), sums (n * group,).
inline void attend(const Heads& h, float* q, long n, long position, const float* keys, const float* values,
                   float* scores, long stride, float* sums, float* y) {
  const long D = h.D, total = n * h.group, end = position + n;
  const long start = h.window && position + 1 > h.window ? position + 1 - h.window : 0;
  for (long i = 0; i < total * D; i++) q[i] *= h.scale;
  Matrix k{keys + start * D, nullptr, nullptr, (int32_t)(end - start), (int32_t)D, (int32_t)D, FP32};
  Rows rows{q, nullptr, nullptr, nullptr, D, D};
  columns(rows, total, k, 0, end - start, scores + start, stride);
  for (long r = 0; r < total; r++) {
    float* x = scores + r * stride;
    const long own = position + r / h.group, first = h.window && own + 1 > h.window ? own + 1 - h.window : 0;
    if (h.slopes != nullptr)
      for (long s = first; s <= own; s++) x[s] -= h.slopes[r % h.group] * (float)(own - s);
    sums[r] = softmax(x + first, own + 1 - first);
    for (long s = start; s < first; s++) x[s] = 0;
    for (long s = own + 1; s < end; s++) x[s] = 0;
  }
  long r = 0;
  for (; r + 4 <= total; r += 4) weigh_all<4>(scores + r * stride, stride, values, D, start, end, y + r * D);
  for (; r < total; r++) weigh_all<1>(scores + r * stride, stride, values, D, start, end, y + r * D);
  for (r = 0; r < total; r++) {
    const float inverse = 1 / sums[r];
    for (long d = 0; d < D; d++) y[r * D + d] *= inverse;
  }
}
