// The forward pass of a GPT over a few new positions of several sequences, each with its own cache.
//
// All threads run ``forward`` together and share out the items of each loop. A number depends on its own sequence only.

#include <unistd.h>

#include <algorithm>
#include <memory>

#include "attention.h"

enum NormKind : int32_t { NO_NORM = 0, LAYERNORM = 1, RMSNORM = 2 };
enum MLPKind : int32_t { GELU_TANH = 0, GELU = 1, SWIGLU = 2 };

struct Norm {
  const float* weight;
  const float* bias;
  int32_t kind;
  float eps;
};

struct Layer {
  Norm norm1, norm2, q_norm, k_norm;
  Matrix qkv, out, up, down;
  int64_t window;
};

struct Model {
  const Layer* layers;
  Matrix embed, head;
  const float* positions;  // (block_size, C) learned positions, or null
  const float* cos;        // (block_size, D), or null
  const float* sin;
  const float* slopes;  // (H,) of ALiBi, or null
  Norm norm;
  int64_t n_layer, n_head, n_kv_head, d_head, n_embd, d_ff;
  float scale;
  int32_t mlp, post_norm;
};

// New positions: ``n`` tokens of sequence ``cache``, from ``position``, in rows from ``row``.
struct Segment {
  Cache cache;
  int64_t row, n, position;
};

struct Batch {
  const int64_t* ids;        // (n_rows,)
  const Segment* segments;   // (n_segments,)
  const int64_t* wanted;     // (n_wanted,) rows whose logits are computed
  float* logits;             // (n_wanted, V)
  int64_t n_rows, n_segments, n_wanted;
};

namespace {

struct Buffer {
  std::unique_ptr<char[]> memory;
  size_t size = 0;

  template <class T>
  T* get(size_t n) {
    size_t bytes = n * sizeof(T) + 64;
    if (bytes > size) {
      memory.reset(new char[bytes]);
      size = bytes;
    }
    return (T*)(((uintptr_t)memory.get() + 63) & ~(uintptr_t)63);
  }
};

struct Decoder {
  std::unique_ptr<Team> team{new Team};
  Buffer x, q, scales, offset, hidden, qkv, attended, inner, up, scores, queries;
  pid_t owner = getpid();
};

// After a fork the threads are the parent's: a new team takes their place.
void forget_threads_of_parent(Decoder& d) {
  if (d.owner == getpid()) return;
  d.team.release();
  d.team.reset(new Team);
  d.owner = getpid();
}

void normalize(const Norm& norm, const float* x, float* y, long n) {
  if (norm.kind == NO_NORM) {
    if (x != y) std::copy(x, x + n, y);
    return;
  }
  float mean = 0, squares = 0;
  Vec sums{};
  long i = 0;
  if (norm.kind == LAYERNORM) {
    for (; i + LANES <= n; i += LANES) sums += load(x + i);
    mean = sum(sums);
    for (; i < n; i++) mean += x[i];
    mean /= n;
  }
  sums = Vec{};
  for (i = 0; i + LANES <= n; i += LANES) {
    Vec d = load(x + i) - mean;
    sums += d * d;
  }
  squares = sum(sums);
  for (; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
  const float inverse = 1 / std::sqrt(squares / n + norm.eps);
  for (i = 0; i < n; i++) {
    float value = (x[i] - mean) * inverse * norm.weight[i];
    y[i] = norm.bias != nullptr ? value + norm.bias[i] : value;
  }
}

void activate(int32_t kind, float* x, const float* up, long n) {
  float part[LANES];
  for (long first = 0; first < n; first += LANES) {
    const long m = std::min<long>(LANES, n - first);
    std::fill(part, part + LANES, 0.0f);
    std::copy(x + first, x + first + m, part);
    Vec v = load(part);
    if (kind == SWIGLU) {
      v = v / (1.0f + exp(-v));
    } else if (kind == GELU_TANH) {
      // 0.5 x (1 + tanh u) = x / (1 + exp(-2 u))
      v = v / (1.0f + exp(-1.5957691216f * (v + 0.044715f * v * v * v)));
    } else {
      for (int i = 0; i < LANES; i++) v[i] = 0.5f * v[i] * (1.0f + std::erf(v[i] * 0.70710678f));
    }
    store(part, v);
    for (long i = 0; i < m; i++) x[first + i] = kind == SWIGLU ? part[i] * up[first + i] : part[i];
  }
}

void rotate(float* x, const float* cos, const float* sin, long D) {
  const long half = D / 2;
  for (long i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cos[i] + b * sin[i];
    x[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

void embed_row(const Matrix& w, long id, float* x) {
  const long n = w.columns;
  if (w.format == FP32) {
    std::copy_n((const float*)w.data + id * w.stride, n, x);
  } else if (w.format == BF16) {
    for (long i = 0; i < n; i++) x[i] = to_float(((const uint16_t*)w.data)[id * w.stride + i]);
  } else {
    const int8_t* q = (const int8_t*)w.data + id * w.stride;
    for (long i = 0; i < n; i++) x[i] = q[i] * w.scale[id];
  }
}

class Forward {
 public:
  Forward(Decoder& d, const Model& model, const Batch& batch, int n_threads) : team(*d.team), m(model), b(batch) {
    const long n = b.n_rows, H = m.n_head, K = m.n_kv_head, D = m.d_head;
    const long widest = std::max<long>({(long)m.n_embd, (long)m.d_ff, H * D}), stride = (widest + 63) / 64 * 64;
    wide = (H + 2 * K) * D;
    hidden = d.hidden.get<float>(n * m.n_embd);
    qkv = d.qkv.get<float>(n * wide);
    attended = d.attended.get<float>(n * H * D);
    inner = d.inner.get<float>(n * m.d_ff);
    up = m.mlp == SWIGLU ? d.up.get<float>(n * m.d_ff) : inner;
    normed = d.x.get<float>(std::max<long>(n, b.n_wanted) * widest);
    q = d.q.get<int8_t>(n * stride);
    scales = d.scales.get<float>(n * stride / 4);
    offset = d.offset.get<int32_t>(n * stride / 4);
    longest = 0;
    const long block = std::max<long>(1, ATTENTION_ROWS / (H / K));
    for (long s = 0; s < b.n_segments; s++) {
      const Segment& segment = b.segments[s];
      longest = std::max<long>(longest, segment.position + segment.n);
      for (long i = 0; i < segment.n; i += block) items.push_back({s, i, std::min<long>(block, segment.n - i)});
    }
    longest = (longest + LANES - 1) / LANES * LANES;
    per_thread = std::max<long>(ATTENTION_ROWS, H / K);
    scores = d.scores.get<float>(n_threads * per_thread * longest);
    queries = d.queries.get<float>(n_threads * per_thread * (2 * D + 1));
  }

  void run(int thread) {
    const long C = m.n_embd, n = b.n_rows;
    team.share(n, 8, [&](long first, long end) {
      for (long r = first; r < end; r++) embed_row(m.embed, b.ids[r], hidden + r * C);
    });
    if (m.positions != nullptr) {
      team.share(b.n_segments, 1, [&](long first, long end) {
        for (long s = first; s < end; s++)
          for (long i = 0; i < b.segments[s].n; i++)
            for (long c = 0; c < C; c++)
              hidden[(b.segments[s].row + i) * C + c] += m.positions[(b.segments[s].position + i) * C + c];
      });
    }
    for (long l = 0; l < m.n_layer; l++) layer(l, thread);
    head();
  }

 private:
  struct Item {
    long segment, first, n;
  };

  void layer(long l, int thread) {
    const Layer& w = m.layers[l];
    const long C = m.n_embd, n = b.n_rows, H = m.n_head, D = m.d_head;
    const Norm none{nullptr, nullptr, NO_NORM, 0};
    Rows rows = prepare(m.post_norm ? none : w.norm1, hidden, C, n, w.qkv);
    team.share(wide, grain(wide), [&](long first, long end) { columns(rows, n, w.qkv, first, end, qkv + first, wide); });
    attention(l, thread);
    rows = prepare(none, attended, H * D, n, w.out);
    add_product(rows, w.out);
    if (m.post_norm) normalize_rows(w.norm1);
    rows = prepare(m.post_norm ? none : w.norm2, hidden, C, n, w.up);
    mlp(rows, w.up);
    rows = prepare(none, inner, m.d_ff, n, w.down);
    add_product(rows, w.down);
    if (m.post_norm) normalize_rows(w.norm2);
  }

  // Normalise rows, and quantise them where the matrix that they meet is quantised.
  Rows prepare(const Norm& norm, float* x, long width, long n, const Matrix& w) {
    Rows rows{norm.kind == NO_NORM ? x : normed, q, scales, offset, width, w.stride};
    if (norm.kind == NO_NORM && w.format != INT8) return rows;
    team.share(n, 1, [&](long first, long end) {
      for (long r = first; r < end; r++) {
        if (norm.kind != NO_NORM) normalize(norm, x + r * width, normed + r * width, width);
        if (w.format == INT8) quantize(rows, r);
      }
    });
    return rows;
  }

  void normalize_rows(const Norm& norm) {
    team.share(b.n_rows, 1, [&](long first, long end) {
      for (long r = first; r < end; r++) normalize(norm, hidden + r * m.n_embd, hidden + r * m.n_embd, m.n_embd);
    });
  }

  long grain(long n) const {
    // Some pieces for each thread, so that one which is held up does not hold up the others.
    return std::max<long>(TILE_N, n / (8 * team.size()) / TILE_N * TILE_N);
  }

  void add_product(const Rows& rows, const Matrix& w) {
    const long C = m.n_embd, n = b.n_rows;
    team.share(C, grain(C), [&](long first, long end) {
      columns(rows, n, w, first, end, normed + first, C);
      for (long r = 0; r < n; r++)
        for (long c = first; c < end; c++) hidden[r * C + c] += normed[r * C + c];
    });
  }

  void mlp(const Rows& rows, const Matrix& w) {
    const long n = b.n_rows, F = m.d_ff;
    team.share(F, grain(F), [&](long first, long end) {
      columns(rows, n, w, first, end, inner + first, F);
      if (m.mlp == SWIGLU) columns(rows, n, w, F + first, F + end, up + first, F);
      for (long r = 0; r < n; r++) activate(m.mlp, inner + r * F + first, up + r * F + first, end - first);
    });
  }

  void attention(long l, int thread) {
    const Layer& w = m.layers[l];
    const long H = m.n_head, K = m.n_kv_head, D = m.d_head, G = H / K;
    // Keys and values of all new positions first: later rows of a segment see the earlier ones.
    team.share(b.n_segments, 1, [&](long begin, long stop) {
      for (long s = begin; s < stop; s++) {
        const Segment& segment = b.segments[s];
        for (long i = 0; i < segment.n; i++) {
          float* row = qkv + (segment.row + i) * wide;
          const long position = segment.position + i;
          for (long h = 0; h < H + K; h++) {
            const Norm& norm = h < H ? w.q_norm : w.k_norm;
            normalize(norm, row + h * D, row + h * D, D);
            if (m.cos != nullptr) rotate(row + h * D, m.cos + position * D, m.sin + position * D, D);
          }
          for (long k = 0; k < 2 * K; k++) {
            float* cache = segment.cache.data + ((l * 2 * K + k) * segment.cache.capacity + position) * D;
            std::copy_n(row + (H + k) * D, D, cache);
          }
        }
      }
    });
    float* own_scores = scores + thread * per_thread * longest;
    float* own_q = queries + thread * per_thread * (2 * D + 1);
    float* own_y = own_q + per_thread * D;
    float* sums = own_y + per_thread * D;
    team.share((long)items.size() * K, 1, [&](long begin, long stop) {
      for (long i = begin; i < stop; i++) {
        const Item& item = items[i / K];
        const long k = i % K;
        const Segment& segment = b.segments[item.segment];
        const float* keys = segment.cache.data + (l * 2 * K + k) * segment.cache.capacity * D;
        const float* values = keys + K * segment.cache.capacity * D;
        const long row = segment.row + item.first;
        for (long r = 0; r < item.n; r++) std::copy_n(qkv + (row + r) * wide + k * G * D, G * D, own_q + r * G * D);
        const Heads heads{D, G, w.window, m.scale, m.slopes != nullptr ? m.slopes + k * G : nullptr};
        attend(heads, own_q, item.n, segment.position + item.first, keys, values, own_scores, longest, sums, own_y);
        for (long r = 0; r < item.n; r++) std::copy_n(own_y + r * G * D, G * D, attended + (row + r) * H * D + k * G * D);
      }
    });
  }

  void head() {
    const long C = m.n_embd, V = m.head.rows;
    Rows rows{normed, q, scales, offset, C, m.head.stride};
    team.share(b.n_wanted, 1, [&](long first, long end) {
      for (long r = first; r < end; r++) {
        normalize(m.norm, hidden + b.wanted[r] * C, normed + r * C, C);
        if (m.head.format == INT8) quantize(rows, r);
      }
    });
    team.share(V, grain(V), [&](long first, long end) { columns(rows, b.n_wanted, m.head, first, end, b.logits + first, V); });
  }

  Team& team;
  const Model& m;
  const Batch& b;
  std::vector<Item> items;
  float *hidden, *qkv, *attended, *inner, *up, *normed, *scores, *queries, *scales;
  int8_t* q;
  int32_t* offset;
  long wide, longest, per_thread;
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void* firstlight_new_decoder() { return new Decoder; }

void firstlight_free_decoder(void* decoder) {
  forget_threads_of_parent(*(Decoder*)decoder);
  delete (Decoder*)decoder;
}

// Run the new positions of a batch through the model with ``n_threads``, and write the logits of the wanted rows.
// Returns 0, or 1 where there is not enough memory.
int firstlight_forward(void* decoder, const Model* model, const Batch* batch, int n_threads) {
  Decoder& d = *(Decoder*)decoder;
  forget_threads_of_parent(d);
  try {
    n_threads = d.team->start(n_threads);
    Forward forward(d, *model, *batch, n_threads);
    d.team->run(n_threads, [&](int thread) { forward.run(thread); });
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

// Whether products of a small matrix in each format are right: 1, else 0.
int firstlight_check() {
  const long K = 64 + 3, M = TILE_M + 1, N = TILE_N + 2, stride = 128;
  std::vector<float> x(M * K), w(N * stride), y(M * N), scale(N, 0.5f), scales(M * stride / 4);
  std::vector<uint16_t> half(N * stride);
  std::vector<int8_t> small(N * stride), q(M * stride);
  std::vector<int32_t> offset(M * stride / 4);
  for (long i = 0; i < M * K; i++) x[i] = (float)((i * 37) % 255 - 127) / 127;
  for (long m = 0; m < M; m++) x[m * K] = x[m * K + 32] = x[m * K + 64] = 1;  // the scales are 1 / 127
  for (long i = 0; i < N * stride; i++) {
    small[i] = i % stride < K ? (i * 53) % 255 - 127 : 0;
    w[i] = 0.5f * small[i];
    uint32_t bits;
    std::memcpy(&bits, &w[i], 4);
    half[i] = bits >> 16;
  }
  const void* data[] = {w.data(), half.data(), small.data()};
  Rows rows{x.data(), q.data(), scales.data(), offset.data(), K, stride};
  for (long m = 0; m < M; m++) quantize(rows, m);
  for (int32_t format = FP32; format <= INT8; format++) {
    Matrix matrix{data[format], scale.data(), nullptr, (int32_t)N, (int32_t)K, (int32_t)stride, format};
    columns(rows, M, matrix, 0, N, y.data(), N);
    for (long m = 0; m < M; m++)
      for (long n = 0; n < N; n++) {
        double expected = 0;
        for (long k = 0; k < K; k++)
          expected += (double)x[m * K + k] * (format == BF16 ? to_float(half[n * stride + k]) : w[n * stride + k]);
        if (!(std::fabs(expected - y[m * N + n]) < 1e-2)) return 0;
      }
  }
  return 1;
}
}
#pragma GCC visibility pop
