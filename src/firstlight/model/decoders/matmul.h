// Products of a few rows of activations with a matrix, y = x w^T. A number of y depends on its row of x and its row of
// w alone, never on how many rows there are: its terms are added in the order of k, in LANES sums, which are added last.
#pragma once

#include "threads.h"
#include "vec.h"

enum Format : int32_t { FP32 = 0, BF16 = 1, INT8 = 2 };

// A matrix (rows, columns), row by row. INT8: columns are padded to a multiple of 64, and each row has a scale.
struct Matrix {
  const void* data;
  const float* scale;
  const float* bias;
  int32_t rows, columns, stride, format;
};

// Rows of activations: as they are, and for INT8 also in 8 bits, with a scale for each 32 of them.
struct Rows {
  float* x;         // (n, columns)
  int8_t* q;        // (n, stride)
  float* scales;    // (n, stride / 4): the scale of each lane
  int32_t* offset;  // (n, stride / 4): what makes up for weights that are read as unsigned
  long columns, stride;
};

template <class W, int M, int N>
inline void dots(const float* x, long x_stride, const W* w, long w_stride, long K, float* y, long y_stride) {
  Vec sums[M][N] = {};
  long k = 0;
  for (; k + LANES <= K; k += LANES) {
    Vec a[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) a[m] = load(x + m * x_stride + k);
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      Vec b = load(w + n * w_stride + k);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) sums[m][n] += a[m] * b;
    }
  }
  if (k < K) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      Vec b = load_part(w + n * w_stride + k, K - k);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) sums[m][n] += load_part(x + m * x_stride + k, K - k) * b;
    }
  }
  sum_all(sums, y, y_stride);
}

// Four products of small integers in each lane are added to it.
inline VecI dot4(VecI total, VecI w, VecI x, VecI offset) {
#if defined(__AVX512VNNI__)
  __m512i unsigned_w = _mm512_xor_si512((__m512i)w, _mm512_set1_epi8((char)0x80));
  return (VecI)_mm512_dpbusd_epi32((__m512i)(total + offset), unsigned_w, (__m512i)x);
#elif defined(__AVX__) && !defined(__AVX512F__) && defined(__AVXVNNI__)
  __m256i unsigned_w = _mm256_xor_si256((__m256i)w, _mm256_set1_epi8((char)0x80));
  return (VecI)_mm256_dpbusd_avx_epi32((__m256i)(total + offset), unsigned_w, (__m256i)x);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  (void)offset;
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)x), _mm256_sign_epi8((__m256i)w, (__m256i)x));
  return total + (VecI)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
  (void)offset;
  return (VecI)vdotq_s32((int32x4_t)total, (int8x16_t)w, (int8x16_t)x);
#else
  (void)offset;
  int8_t a[4 * LANES], b[4 * LANES];
  std::memcpy(a, &w, sizeof a);
  std::memcpy(b, &x, sizeof b);
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < 4; j++) total[i] += a[4 * i + j] * b[4 * i + j];
  return total;
#endif
}

template <int M, int N>
inline void dots_int8(const Rows& rows, long m0, const Matrix& w, long n0, float* y, long y_stride) {
  Vec sums[M][N] = {};
  const int8_t* weights = (const int8_t*)w.data + n0 * w.stride;
  const long quarter = rows.stride / 4;
  for (long k = 0; k < rows.stride; k += 4 * LANES) {
    VecI a[M], offset[M];
    Vec scale[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      a[m] = load_as<VecI>(rows.q + (m0 + m) * rows.stride + k);
      offset[m] = load_as<VecI>(rows.offset + (m0 + m) * quarter + k / 4);
      scale[m] = load(rows.scales + (m0 + m) * quarter + k / 4);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      VecI b = load_as<VecI>(weights + n * (long)w.stride + k);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        VecI product = dot4(VecI{}, b, a[m], offset[m]);
        sums[m][n] += __builtin_convertvector(product, Vec) * scale[m];
      }
    }
  }
  sum_all(sums, y, y_stride);
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) y[m * y_stride + n] *= w.scale[n0 + n];
}

// Quantise a row: the largest of each 32 numbers becomes 127.
inline void quantize(const Rows& rows, long m) {
  const float* x = rows.x + m * rows.columns;
  int8_t* q = rows.q + m * rows.stride;
  const long quarter = rows.stride / 4;
  for (long first = 0; first < rows.stride; first += 32) {
    long n = rows.columns - first < 32 ? rows.columns - first : 32;
    float largest = 0, bad = 0;  // bad becomes NaN with a number that is not finite, which the scale passes on
    for (long k = 0; k < n; k++) {
      bad += 0 * x[first + k];
      largest = std::fabs(x[first + k]) > largest ? std::fabs(x[first + k]) : largest;
    }
    float scale = largest / 127 + bad, inverse = scale > 0 ? 127 / largest : 0;
    for (long k = 0; k < 32; k++) q[first + k] = k < n && inverse > 0 ? (int8_t)std::nearbyint(x[first + k] * inverse) : 0;
    for (long i = 0; i < 8; i++) {
      const int8_t* four = q + first + 4 * i;
      rows.scales[m * quarter + first / 4 + i] = scale;
      rows.offset[m * quarter + first / 4 + i] = -128 * (four[0] + four[1] + four[2] + four[3]);
    }
  }
}

#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int TILE_M = 4, TILE_N = 4;  // 16 sums and their operands fit 32 registers
#else
constexpr int TILE_M = 3, TILE_N = 3;  // 16 registers
#endif

template <int M, int N>
inline void tile(const Rows& rows, long m, const Matrix& w, long n, float* y, long y_stride) {
  const float* x = rows.x + m * rows.columns;
  const long offset = n * (long)w.stride;
  if (w.format == FP32) {
    dots<float, M, N>(x, rows.columns, (const float*)w.data + offset, w.stride, w.columns, y, y_stride);
  } else if (w.format == BF16) {
    dots<uint16_t, M, N>(x, rows.columns, (const uint16_t*)w.data + offset, w.stride, w.columns, y, y_stride);
  } else {
    dots_int8<M, N>(rows, m, w, n, y, y_stride);
  }
}

template <int N>
inline void tiles(const Rows& rows, long n_rows, const Matrix& w, long n, float* y, long y_stride) {
  long m = 0;
  for (; m + TILE_M <= n_rows; m += TILE_M) tile<TILE_M, N>(rows, m, w, n, y + m * y_stride, y_stride);
  y += m * y_stride;
  if (TILE_M > 3 && n_rows - m == 3) {
    tile<3, N>(rows, m, w, n, y, y_stride);
  } else if (n_rows - m == 2) {
    tile<2, N>(rows, m, w, n, y, y_stride);
  } else if (n_rows - m == 1) {
    tile<1, N>(rows, m, w, n, y, y_stride);
  }
}

// Compute columns ``first`` to ``end`` of y for all rows; y points at column ``first``.
inline void columns(const Rows& rows, long n_rows, const Matrix& w, long first, long end, float* y, long y_stride) {
  long n = first;
  for (; n + TILE_N <= end; n += TILE_N) tiles<TILE_N>(rows, n_rows, w, n, y + (n - first), y_stride);
  for (; n < end; n++) tiles<1>(rows, n_rows, w, n, y + (n - first), y_stride);
  if (w.bias != nullptr)
    for (long m = 0; m < n_rows; m++)
      for (long i = first; i < end; i++) y[m * y_stride + i - first] += w.bias[i];
}
