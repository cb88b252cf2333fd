// The kernels, compiled once per instruction set: the including file sets RESQ_ISA to the
// name of the namespace. No include guard is needed: each translation unit includes it once.
//
// Everything here lies in an anonymous namespace, and no std:: template or other inline function
// of a shared header may be instantiated: the linker keeps one copy of such a function, which may
// be the one with wider instructions, and an older processor would then meet them outside the
// kernels. Float loops must not be contracted (-ffp-contract=off), so that every instruction set
// gives the same codes; loops marked `omp simd` are vectorized by the compiler.

#include <math.h>
#include <string.h>

#include "kernels.hpp"

#if defined(__AVX512VNNI__) || defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined registers of its own header for a mistake (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#define RESQ_NAME_(text) #text
#define RESQ_NAME(text) RESQ_NAME_(text)
#define RESQ_GETTER__(isa) isa##_kernels
#define RESQ_GETTER_(isa) RESQ_GETTER__(isa)
#define RESQ_GETTER RESQ_GETTER_(RESQ_ISA)

namespace resq {
namespace {

// Adding and taking away 1.5·2^23 rounds a float of magnitude below 2^22 to nearest, ties to even.
constexpr float kRound = 12582912.0f;

inline float clamped(float v, float low, float high) {
  v = v > low ? v : low;
  return v < high ? v : high;
}

// The code of x, as a whole float: clamp(round(x/s)).
inline float code_of(float x, float inverse, float low, float high) {
  return (clamped(x * inverse, low, high) + kRound) - kRound;
}

// ---------------------------------------------------------------- matrix products

#if defined(__AVX512VNNI__)

int tile(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }

size_t packed_bytes(int depth, int vectors) { return size_t(depth) * vectors * kLanes; }

// [depth/4][vectors][lane][4]
void pack(const int8_t* weights, int depth, int vectors, void* packed) {
  int8_t* out = static_cast<int8_t*>(packed);
  for (int k = 0; k < depth; k += 4)
    for (int o = 0; o < vectors * kLanes; ++o)
      for (int i = 0; i < 4; ++i) *out++ = weights[size_t(k + i) * vectors * kLanes + o];
}

template <int P, int V>
inline void gemm_tile(const Gemm& g, int first) {
  __m512i acc[P][V];
  for (int j = 0; j < V; ++j) {
    const __m512i init = _mm512_loadu_si512(g.init + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) acc[i][j] = init;
  }
  const int8_t* w = static_cast<const int8_t*>(g.weights);
  for (int s = 0; s < g.n_segments; ++s) {
    const uint8_t* p[P];
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) p[i] = g.base[first + i] + g.segments[s].offset;
    const int length = g.segments[s].length;
    for (int k = 0; k < length; k += 4) {
      __m512i b[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) b[j] = _mm512_loadu_si512(w + j * 64);
      w += V * 64;
#pragma GCC unroll 16
      for (int i = 0; i < P; ++i) {
        int word;
        memcpy(&word, p[i] + k, 4);
        const __m512i a = _mm512_set1_epi32(word);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], a, b[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) {
    float* out = g.out + (first + i) * g.stride;
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[i][j]),
                               _mm512_loadu_ps(g.multiplier + j * kLanes));
      if (g.accumulate) v = _mm512_add_ps(_mm512_loadu_ps(out + j * kLanes), v);
      if (g.bias) v = _mm512_add_ps(v, _mm512_loadu_ps(g.bias + j * kLanes));
      _mm512_storeu_ps(out + j * kLanes, v);
    }
  }
}

template <int P, int V>
inline void gemm_tiles(const Gemm& g) {
  int first = 0;
  for (; g.pixels - first > P / 2; first += P) gemm_tile<P, V>(g, first);
  if (first < g.pixels) gemm_tile<P / 2, V>(g, first);
}

void gemm(const Gemm& g) {
  switch (g.vectors) {
    case 1: return gemm_tiles<12, 1>(g);
    case 2: return gemm_tiles<12, 2>(g);
    case 3: return gemm_tiles<8, 3>(g);
    default: return gemm_tiles<6, 4>(g);
  }
}

#elif defined(__AVX2__)

int tile(int) { return 4; }

size_t packed_bytes(int depth, int vectors) { return size_t(depth) * vectors * kLanes * 2; }

// [vectors][depth/2][lane][2], int16
void pack(const int8_t* weights, int depth, int vectors, void* packed) {
  int16_t* out = static_cast<int16_t*>(packed);
  for (int j = 0; j < vectors; ++j)
    for (int k = 0; k < depth; k += 2)
      for (int o = 0; o < kLanes; ++o)
        for (int i = 0; i < 2; ++i)
          *out++ = weights[size_t(k + i) * vectors * kLanes + j * kLanes + o];
}

inline void gemm_tile(const Gemm& g, int first, int j, const int16_t* w) {
  constexpr int P = 4;
  __m256i acc[P][2];
  for (int h = 0; h < 2; ++h) {
    const __m256i init =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(g.init + j * kLanes + h * 8));
    for (int i = 0; i < P; ++i) acc[i][h] = init;
  }
  const __m256i zero = _mm256_setzero_si256();
  for (int s = 0; s < g.n_segments; ++s) {
    const uint8_t* p[P];
    for (int i = 0; i < P; ++i) p[i] = g.base[first + i] + g.segments[s].offset;
    const int length = g.segments[s].length;
    for (int k = 0; k < length; k += 4, w += 64) {
      const __m256i* b = reinterpret_cast<const __m256i*>(w);
      const __m256i b0 = _mm256_loadu_si256(b), b1 = _mm256_loadu_si256(b + 1);
      const __m256i b2 = _mm256_loadu_si256(b + 2), b3 = _mm256_loadu_si256(b + 3);
#pragma GCC unroll 4
      for (int i = 0; i < P; ++i) {
        int word;
        memcpy(&word, p[i] + k, 4);
        const __m256i wide = _mm256_unpacklo_epi8(_mm256_set1_epi32(word), zero);
        const __m256i low = _mm256_shuffle_epi32(wide, 0x00);
        const __m256i high = _mm256_shuffle_epi32(wide, 0x55);
        acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(low, b0));
        acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(low, b1));
        acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(high, b2));
        acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(high, b3));
      }
    }
  }
  for (int i = 0; i < P; ++i) {
    for (int h = 0; h < 2; ++h) {
      const int o = j * kLanes + h * 8;
      float* out = g.out + (first + i) * g.stride + o;
      __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][h]), _mm256_loadu_ps(g.multiplier + o));
      if (g.accumulate) v = _mm256_add_ps(_mm256_loadu_ps(out), v);
      if (g.bias) v = _mm256_add_ps(v, _mm256_loadu_ps(g.bias + o));
      _mm256_storeu_ps(out, v);
    }
  }
}

void gemm(const Gemm& g) {
  int depth = 0;
  for (int s = 0; s < g.n_segments; ++s) depth += g.segments[s].length;
  for (int first = 0; first < g.pixels; first += 4)
    for (int j = 0; j < g.vectors; ++j)
      gemm_tile(g, first, j, static_cast<const int16_t*>(g.weights) + size_t(j) * depth * kLanes);
}

#else

int tile(int) { return 1; }

size_t packed_bytes(int depth, int vectors) { return size_t(depth) * vectors * kLanes * 2; }

// [vectors][depth][lane], int16
void pack(const int8_t* weights, int depth, int vectors, void* packed) {
  int16_t* out = static_cast<int16_t*>(packed);
  for (int j = 0; j < vectors; ++j)
    for (int k = 0; k < depth; ++k)
      for (int o = 0; o < kLanes; ++o)
        *out++ = weights[size_t(k) * vectors * kLanes + j * kLanes + o];
}

void gemm(const Gemm& g) {
  for (int i = 0; i < g.pixels; ++i) {
    const int16_t* w = static_cast<const int16_t*>(g.weights);
    for (int j = 0; j < g.vectors; ++j) {
      int32_t acc[kLanes];
      memcpy(acc, g.init + j * kLanes, sizeof acc);
      for (int s = 0; s < g.n_segments; ++s) {
        const uint8_t* p = g.base[i] + g.segments[s].offset;
        for (int k = 0; k < g.segments[s].length; ++k, w += kLanes) {
          const int a = p[k];
          for (int o = 0; o < kLanes; ++o) acc[o] += a * w[o];
        }
      }
      float* out = g.out + i * g.stride + j * kLanes;
      for (int o = 0; o < kLanes; ++o) {
        float v = float(acc[o]) * g.multiplier[j * kLanes + o];
        if (g.accumulate) v = out[o] + v;
        if (g.bias) v = v + g.bias[j * kLanes + o];
        out[o] = v;
      }
    }
  }
}

#endif

void depthwise(const Depthwise& d) {
  int32_t acc[256];
  for (int first = 0; first < d.channels; first += 256) {
    const int n = d.channels - first < 256 ? d.channels - first : 256;
    memset(acc, 0, sizeof acc);
    for (int t = 0; t < d.taps; ++t) {
      const uint8_t* code = d.base + d.offsets[t] + first;
      const int8_t* w = d.weights + size_t(t) * d.channels + first;
#pragma omp simd
      for (int c = 0; c < n; ++c) acc[c] += (int32_t(code[c]) - kZeroCode) * int32_t(w[c]);
    }
    float* out = d.out + first;
    for (int c = 0; c < n; ++c) {
      float v = float(acc[c]) * d.multiplier[first + c];
      if (d.accumulate) v = out[c] + v;
      if (d.bias) v = v + d.bias[first + c];
      out[c] = v;
    }
  }
}

// ---------------------------------------------------------------- quantization

float quantize_frame(const Quantizers& q, const float* x, uint8_t* codes, bool* pending) {
  const float inverse = q.frame_inverse, low = q.frame_low, high = q.frame_high;
  const float step = q.frame_step, scale = q.plane_scale[0];
  float squares = 0.0f, loudest = 0.0f;
#pragma omp simd reduction(+ : squares) reduction(max : loudest)
  for (int c = 0; c < q.channels; ++c) {
    const float code = code_of(x[c], inverse, low, high) * step;
    const float distance = fabsf(x[c] - code * scale);
    squares += x[c] * x[c];
    loudest = loudest > distance ? loudest : distance;
    codes[c] = uint8_t(int32_t(code) + kZeroCode);
  }
  *pending = loudest > q.quiet;
  return sqrtf(squares);
}

// δ = x − what was transmitted, and max|δ|.
float residual(const Quantizers& q, const float* x, const float* against, uint8_t* const* codes,
               float* delta) {
  float loudest = 0.0f;
  const int n = q.channels;
  if (against) {
#pragma omp simd reduction(max : loudest)
    for (int c = 0; c < n; ++c) {
      delta[c] = x[c] - against[c];
      const float size = fabsf(delta[c]);
      loudest = loudest > size ? loudest : size;
    }
    return loudest;
  }
  const uint8_t* first = codes[0];
  const float scale = q.plane_scale[0];
  if (q.n_planes == 1) {
#pragma omp simd reduction(max : loudest)
    for (int c = 0; c < n; ++c) {
      delta[c] = x[c] - float(int32_t(first[c]) - kZeroCode) * scale;
      const float size = fabsf(delta[c]);
      loudest = loudest > size ? loudest : size;
    }
    return loudest;
  }
  for (int c = 0; c < n; ++c) delta[c] = float(int32_t(first[c]) - kZeroCode) * scale;
  for (int p = 1; p < q.n_planes; ++p)
    for (int c = 0; c < n; ++c)
      delta[c] = delta[c] + float(int32_t(codes[p][c]) - kZeroCode) * q.plane_scale[p];
  for (int c = 0; c < n; ++c) {
    delta[c] = x[c] - delta[c];
    const float size = fabsf(delta[c]);
    loudest = loudest > size ? loudest : size;
  }
  return loudest;
}

float error_norm(const PoolEntry& e, const float* delta, int n) {
  float squares = 0.0f;
  if (e.bits == 0) {
#pragma omp simd reduction(+ : squares)
    for (int c = 0; c < n; ++c) squares += delta[c] * delta[c];
  } else {
    const float inverse = e.inverse, low = e.low, high = e.high, scale = e.scale;
#pragma omp simd reduction(+ : squares)
    for (int c = 0; c < n; ++c) {
      const float rest = delta[c] - code_of(delta[c], inverse, low, high) * scale;
      squares += rest * rest;
    }
  }
  return sqrtf(squares);
}

// Eq. 11, on errors computed only as far as they are needed.
int choose(const Quantizers& q, const Policy& policy, const float* delta) {
  if (q.n_pool == 1) return 0;
  float error = error_norm(q.pool[0], delta, q.channels) * policy.gain;
  for (int i = 0; i + 1 < q.n_pool; ++i) {
    const float next = error_norm(q.pool[i + 1], delta, q.channels) * policy.gain;
    const float gap = error - next;
    if (gap < policy.threshold || gap <= 0.0f) return i;
    error = next;
  }
  return q.n_pool - 1;
}

// Adds the codes of δ to their plane, which saturates at int8. Returns whether anything changed.
bool transmit(const Quantizers& q, const PoolEntry& e, const float* delta, uint8_t* codes,
              bool write) {
  if (e.bits == 0) return false;
  const float inverse = e.inverse, low = e.low, high = e.high, step = e.step;
  int32_t changed = 0;
  if (!write) {
#pragma omp simd reduction(| : changed)
    for (int c = 0; c < q.channels; ++c) {
      const float old = float(int32_t(codes[c]) - kZeroCode);
      const float sum =
          clamped(old + code_of(delta[c], inverse, low, high) * step, -128.0f, 127.0f);
      changed |= int32_t(sum != old);
    }
    return changed != 0;
  }
#pragma omp simd reduction(| : changed)
  for (int c = 0; c < q.channels; ++c) {
    const int32_t old = codes[c];
    const float sum = clamped(
        float(old - kZeroCode) + code_of(delta[c], inverse, low, high) * step, -128.0f, 127.0f);
    const int32_t now = int32_t(sum) + kZeroCode;
    changed |= old ^ now;
    codes[c] = uint8_t(now);
  }
  return changed != 0;
}

int count_beyond(const Quantizers& q, const PoolEntry& e, const float* delta) {
  if (e.bits == 0) return 0;
  const float high = (e.high + 0.5f) * e.scale, low = (e.low - 0.5f) * e.scale;
  int n = 0;
#pragma omp simd reduction(+ : n)
  for (int c = 0; c < q.channels; ++c) n += int(delta[c] > high) + int(delta[c] < low);
  return n;
}

Decision quantize_residual(const Quantizers& q, const Policy& policy, const float* x,
                           const float* against, uint8_t* const* codes, float* scratch) {
  Decision d{0, 0, false, false};
  if (!(residual(q, x, against, codes, scratch) > q.quiet)) return d;
  d.index = choose(q, policy, scratch);
  const PoolEntry& entry = q.pool[d.index];
  d.active = transmit(q, entry, scratch, codes[entry.plane], true);
  if (d.index == q.n_pool - 1) d.clipped = count_beyond(q, entry, scratch);
  if (against || (d.index == 0 && !d.active)) return d;
  // what would the next frame do if the input stayed as it is?
  if (!(residual(q, x, nullptr, codes, scratch) > q.quiet)) return d;
  const int next = choose(q, policy, scratch);
  const PoolEntry& again = q.pool[next];
  d.pending = next != 0 || transmit(q, again, scratch, codes[again.plane], false);
  return d;
}

void scan(const Quantizers& q, const float* const* channels, const uint8_t* codes, int stride,
          int pixels, uint8_t* loud) {
  const float scale = q.plane_scale[0], quiet = q.quiet;
  memset(loud, 0, size_t(pixels));
  for (int c = 0; c < q.channels; ++c) {
    const float* x = channels[c];
    const uint8_t* code = codes + c;
#pragma omp simd
    for (int p = 0; p < pixels; ++p) {
      const float size = fabsf(x[p] - float(int32_t(code[p * stride]) - kZeroCode) * scale);
      loud[p] |= uint8_t(size > quiet);
    }
  }
}

// ---------------------------------------------------------------- rows of floats

void relu(float* x, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = x[i] > 0.0f ? x[i] : 0.0f;
}

void clamp(float* x, int n, float low, float high) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = clamped(x[i], low, high);
}

void add(float* x, const float* y, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = x[i] + y[i];
}

void affine(float* x, const float* weight, const float* bias, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = x[i] * weight[i] + bias[i];
}

// Bilinear: (v00·wx0 + v01·wx1)·wy0 + (v10·wx0 + v11·wx1)·wy1; weights are wx0, wx1, wy0, wy1.
void blend(float* out, const float* const* rows, const float* w, int n) {
  const float *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const float x0 = w[0], x1 = w[1], y0 = w[2], y1 = w[3];
#pragma omp simd
  for (int i = 0; i < n; ++i)
    out[i] = (a[i] * x0 + b[i] * x1) * y0 + (c[i] * x0 + d[i] * x1) * y1;
}

void maximum(float* out, const float* x, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = x[i] > out[i] ? x[i] : out[i];
}

void divide(float* x, float by, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = x[i] / by;
}

// ---------------------------------------------------------------- maps of bytes

void merge(uint8_t* out, const uint8_t* in, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = uint8_t(out[i] | in[i]);
}

int compress(const uint8_t* map, int n, int first, int32_t* out) {
  int found = 0, i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    memcpy(&word, map + i, 8);
    if (!word) continue;
    for (int j = i; j < i + 8; ++j)
      if (map[j]) out[found++] = first + j;
  }
  for (; i < n; ++i)
    if (map[i]) out[found++] = first + i;
  return found;
}

const Kernels kTable = {
    RESQ_NAME(RESQ_ISA), tile, packed_bytes, pack, gemm, depthwise, quantize_frame,
    quantize_residual, scan, relu, clamp, add, affine, blend, maximum, divide, merge, compress,
};

}  // namespace

const Kernels* RESQ_GETTER() { return &kTable; }

}  // namespace resq
