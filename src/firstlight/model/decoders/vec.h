// Vectors of floats and of small integers, as wide as the processor's registers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t VecI __attribute__((vector_size(LANES * 4)));
typedef uint16_t BFloat16s __attribute__((vector_size(LANES * 2)));

template <class V, class T>
inline V load_as(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vec load(const float* p) { return load_as<Vec>(p); }

// bfloat16 is the upper half of a float.
inline Vec load(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Vec)((VecI)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)) << 16);
#elif defined(__AVX2__)
  return (Vec)((VecI)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)) << 16);
#else
  return (Vec)(__builtin_convertvector(load_as<BFloat16s>(p), VecI) << 16);
#endif
}

inline float to_float(uint16_t bfloat16) {
  uint32_t bits = (uint32_t)bfloat16 << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

inline Vec broadcast(float x) { return x - Vec{}; }

// The first ``n`` numbers, and zeros.
template <class T>
inline Vec load_part(const T* p, long n) {
  T part[LANES] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load(part);
}

// The sum of the lanes: the upper half is added to the lower one, until one is left.
inline float sum(Vec v) {
#if defined(__AVX512F__)
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX__)
  __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
#endif
#if defined(__AVX__)
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// y[m][n] = sum(sums[m][n]), by the same additions.
template <int M, int N>
inline void sum_all(const Vec (&sums)[M][N], float* y, long y_stride) {
#if defined(__AVX512F__)
  if constexpr (M == 4 && N == 4) {
    __m512 eights[8], fours[4], twos[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {  // halves of two vectors: of column i / 2, of two rows
      __m512 a = (__m512)sums[2 * i % 4][i / 2], b = (__m512)sums[2 * i % 4 + 1][i / 2];
      eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {  // quarters of four vectors: of column i
      __m512 a = eights[2 * i], b = eights[2 * i + 1];
      fours[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      __m512 a = fours[2 * i], b = fours[2 * i + 1];
      twos[i] = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
    }
    __m512 one = _mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88), _mm512_shuffle_ps(twos[0], twos[1], 0xDD));
    _mm_storeu_ps(y, _mm512_castps512_ps128(one));  // the four columns of row 0
    _mm_storeu_ps(y + y_stride, _mm512_extractf32x4_ps(one, 1));
    _mm_storeu_ps(y + 2 * y_stride, _mm512_extractf32x4_ps(one, 2));
    _mm_storeu_ps(y + 3 * y_stride, _mm512_extractf32x4_ps(one, 3));
    return;
  }
#endif
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) y[m * y_stride + n] = sum(sums[m][n]);
}

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

inline float max(Vec v) {
  float x = v[0];
  for (int i = 1; i < LANES; i++) x = v[i] > x ? v[i] : x;
  return x;
}

// The exponential function, to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
inline Vec exp(Vec x) {
  const Vec given = x;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  x = x > 88.0f ? broadcast(88.0f) : x;
  const Vec rounder = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Vec shifted = x * 1.44269504f + rounder;
  Vec n = shifted - rounder;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VecI exponent = (VecI)shifted << 23;
  p = (Vec)((VecI)p + exponent);
  return given == given ? p : given;  // NaN stays NaN
}
