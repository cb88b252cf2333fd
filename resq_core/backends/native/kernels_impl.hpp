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

// Bounds are tried a little early where two ways of computing a value may differ in its last bits.
constexpr float kNearly = 1.0f - 1e-5f;

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

// Calls f(0) … f(N−1) with constant indices: arrays that are only indexed so live in registers.
template <int I>
struct Index {
  constexpr operator int() const { return I; }
};

template <int N, typename F>
[[gnu::always_inline]] inline void each(F&& f) {
  if constexpr (N > 0) {
    each<N - 1>(f);
    f(Index<N - 1>{});
  }
}

template <int P, int V>
inline void gemm_tile(const Gemm& g, int first) {
  __m512i acc[P][V];
  each<V>([&](auto j) __attribute__((always_inline)) {
    const __m512i init = _mm512_loadu_si512(g.init + j * kLanes);
    each<P>([&](auto i) __attribute__((always_inline)) { acc[i][j] = init; });
  });
  const int8_t* w = static_cast<const int8_t*>(g.weights);
  for (int s = 0; s < g.n_segments; ++s) {
    const uint8_t* p[P];
    each<P>([&](auto i) __attribute__((always_inline)) {
      p[i] = g.base[first + i] + g.segments[s].offset;
    });
    const int length = g.segments[s].length;
    for (int k = 0; k < length; k += 4) {
      __m512i b[V];
      each<V>([&](auto j) __attribute__((always_inline)) {
        b[j] = _mm512_loadu_si512(w + j * 64);
      });
      w += V * 64;
      each<P>([&](auto i) __attribute__((always_inline)) {
        int word;
        memcpy(&word, p[i] + k, 4);
        const __m512i a = _mm512_set1_epi32(word);
        each<V>([&](auto j) __attribute__((always_inline)) {
          acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], a, b[j]);
        });
      });
    }
  }
  const bool accumulate = g.accumulate;
  each<V>([&](auto j) __attribute__((always_inline)) {
    const __m512 multiplier = _mm512_loadu_ps(g.multiplier + j * kLanes);
    const __m512 bias = g.bias ? _mm512_loadu_ps(g.bias + j * kLanes) : _mm512_setzero_ps();
    each<P>([&](auto i) __attribute__((always_inline)) {
      float* out = g.out + (first + i) * g.stride + j * kLanes;
      __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[i][j]), multiplier);
      if (accumulate) v = _mm512_add_ps(_mm512_loadu_ps(out), v);
      if (g.bias) v = _mm512_add_ps(v, bias);
      if (g.relu) v = _mm512_max_ps(v, _mm512_setzero_ps());
      _mm512_storeu_ps(out, v);
    });
  });
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
      if (g.relu) v = _mm256_max_ps(v, _mm256_setzero_ps());
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
        if (g.relu) v = v > 0.0f ? v : 0.0f;
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

// ---------------------------------------------------------------- sixteen lanes

// A row of channels goes by sixteen; a last part of n lanes reads zeros beyond, and keeps to n.
#if defined(__AVX512VNNI__)

using Lanes = __m512;

inline __mmask16 first_lanes(int n) { return n >= 16 ? 0xffff : __mmask16((1u << n) - 1); }
inline Lanes all(float v) { return _mm512_set1_ps(v); }
inline Lanes load(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, Lanes v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
inline Lanes plus(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes minus(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes times(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes between(Lanes v, Lanes low, Lanes high) {
  return _mm512_min_ps(_mm512_max_ps(v, low), high);
}
using Mask = __mmask16;
inline Mask beyond(Lanes v, Lanes bound) {  // |v| > bound
  return _mm512_cmp_ps_mask(_mm512_abs_ps(v), bound, _CMP_GT_OQ);
}
inline int count_above(Lanes a, Lanes b) {
  return __builtin_popcount(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ));
}
inline Mask differ(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
// The bytes of rounded codes, from steps between −128 and 127: adding 1.5·2^23 + 128 leaves
// code + 128 in the last byte of the float.
inline void store_steps(uint8_t* p, Lanes steps, int n) {
  const __m512 sum = _mm512_add_ps(steps, _mm512_set1_ps(kRound + 128.0f));
  _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(_mm512_castps_si512(sum)));
}
inline Lanes above_zero(Lanes v) { return _mm512_max_ps(v, _mm512_setzero_ps()); }
inline __m128 quarter(Lanes v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
// Square root of the sum over the lanes, added in the order of `norms4`.
inline float norm1(Lanes v) {
  const __m128 a = quarter(v), b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_sqrt_ss(_mm_add_ss(b, _mm_movehdup_ps(b))));
}
// The same of four.
inline void norms4(const Lanes* v, float* out) {
  __m128 a = quarter(v[0]), b = quarter(v[1]), c = quarter(v[2]), d = quarter(v[3]);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, _mm_sqrt_ps(_mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d))));
}
inline Lanes load_codes(const uint8_t* p, int n) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p));
  const __m512i zero = _mm512_maskz_set1_epi32(first_lanes(n), kZeroCode);
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(wide, zero));
}
inline void store_codes(uint8_t* p, Lanes v, int n) {
  const __m512i wide = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(kZeroCode));
  _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(wide));
}

#else

struct Lanes {
  float v[16];
};

template <typename F>
[[gnu::always_inline]] inline Lanes lanewise(F&& f) {
  Lanes r;
#pragma omp simd
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
inline Lanes all(float v) {
  return lanewise([&](int) { return v; });
}
inline Lanes load(const float* p, int n) {
  Lanes r;
  if (n >= 16) {
    memcpy(r.v, p, sizeof r.v);
  } else {
    for (int i = 0; i < 16; ++i) r.v[i] = i < n ? p[i] : 0.0f;
  }
  return r;
}
inline void store(float* p, const Lanes& v, int n) {
  if (n >= 16) memcpy(p, v.v, sizeof v.v);
  else for (int i = 0; i < n; ++i) p[i] = v.v[i];
}
inline Lanes plus(const Lanes& a, const Lanes& b) {
  return lanewise([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes minus(const Lanes& a, const Lanes& b) {
  return lanewise([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes times(const Lanes& a, const Lanes& b) {
  return lanewise([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes between(const Lanes& v, const Lanes& low, const Lanes& high) {
  return lanewise([&](int i) { return clamped(v.v[i], low.v[i], high.v[i]); });
}
using Mask = int;
inline Mask beyond(const Lanes& v, const Lanes& bound) {
  int any = 0;
  for (int i = 0; i < 16; ++i) any |= int(fabsf(v.v[i]) > bound.v[i]);
  return any;
}
inline int count_above(const Lanes& a, const Lanes& b) {
  int n = 0;
  for (int i = 0; i < 16; ++i) n += int(a.v[i] > b.v[i]);
  return n;
}
inline Mask differ(const Lanes& a, const Lanes& b) {
  int any = 0;
  for (int i = 0; i < 16; ++i) any |= int(a.v[i] != b.v[i]);
  return any;
}
inline Lanes above_zero(const Lanes& v) {
  return lanewise([&](int i) { return v.v[i] > 0.0f ? v.v[i] : 0.0f; });
}
// Square root of the sum over the lanes, added in the order of the wide variant.
inline float norm1(const Lanes& v) {
  float half[8], quarter[4];
  for (int i = 0; i < 8; ++i) half[i] = v.v[i] + v.v[i + 8];
  for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
  return sqrtf((quarter[0] + quarter[2]) + (quarter[1] + quarter[3]));
}
inline void norms4(const Lanes* v, float* out) {
  for (int k = 0; k < 4; ++k) out[k] = norm1(v[k]);
}
inline Lanes load_codes(const uint8_t* p, int n) {
  uint8_t bytes[16];
  if (n >= 16) {
    memcpy(bytes, p, 16);
  } else {
    memset(bytes, kZeroCode, 16);
    memcpy(bytes, p, size_t(n));
  }
  return lanewise([&](int i) { return float(int32_t(bytes[i]) - kZeroCode); });
}
inline void store_codes(uint8_t* p, const Lanes& v, int n) {
  uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = uint8_t(int32_t(v.v[i]) + kZeroCode);
  memcpy(p, bytes, size_t(n < 16 ? n : 16));
}
inline void store_steps(uint8_t* p, const Lanes& steps, int n) {
  store_codes(p, lanewise([&](int i) { return (steps.v[i] + kRound) - kRound; }), n);
}

#endif

// Rounds to nearest, ties to even; magnitudes stay below 2^22.
inline Lanes rounded(const Lanes& v) { return minus(plus(v, all(kRound)), all(kRound)); }

// One residual quantizer, spread over the lanes.
struct Entry {
  Lanes scale, inverse, low, high, step;
  explicit Entry(const PoolEntry& e)
      : scale(all(e.scale)),
        inverse(all(e.inverse)),
        low(all(e.low)),
        high(all(e.high)),
        step(all(e.step)) {}
  Lanes code(const Lanes& delta) const {
    return rounded(between(times(delta, inverse), low, high));
  }
};

// ---------------------------------------------------------------- quantization of rows

void quantize_frame(const Quantizers& q, const float* x, ptrdiff_t stride, int count,
                    uint8_t* const* codes, float* norms, uint8_t* pending) {
  const Lanes inverse = all(q.frame_inverse), low = all(q.frame_low), high = all(q.frame_high);
  const Lanes step = all(q.frame_step), quiet = all(q.quiet * q.frame_inverse * kNearly);
  // where nothing is quiet below half a step, only what was clamped is loud
  const bool plain = q.frame_step == 1.0f && q.quiet * q.frame_inverse >= 0.49f;
  Lanes squares[4];
  float roots[4];
  for (int r = 0; r < count; ++r, x += stride) {
    Lanes& mine = squares[r & 3];
    mine = all(0.0f);
    Mask loud = 0;
    for (int c = 0; c < q.channels; c += 16) {
      const int n = q.channels - c;
      const Lanes v = load(x + c, n);
      const Lanes steps = times(v, inverse), inside = between(steps, low, high);
      mine = plus(mine, times(v, v));
      if (plain) {
        loud |= differ(steps, inside);
        store_steps(codes[r] + c, inside, n);
      } else {
        const Lanes code = rounded(inside);
        loud |= beyond(minus(steps, code), quiet);
        store_codes(codes[r] + c, times(code, step), n);
      }
    }
    pending[r] = loud != 0;
    if ((r & 3) == 3) {
      norms4(squares, norms + r - 3);
    } else if (r == count - 1) {
      for (int i = (r & 3) + 1; i < 4; ++i) squares[i] = mine;
      norms4(squares, roots);
      memcpy(norms + (r & ~3), roots, size_t((r & 3) + 1) * sizeof(float));
    }
  }
}

// δ = x − what was transmitted, whether any |δ| is above the quiet bound, and ‖δ‖₂.
inline bool residual(const Quantizers& q, const float* x, const float* against,
                     uint8_t* const* codes, float* delta, float* norm, bool* stale) {
  const Lanes quiet = all(q.quiet), scale = all(q.plane_scale[0]), fresh = all(q.fresh);
  Mask loud = 0, off = 0;
  Lanes squares = all(0.0f);
  for (int c = 0; c < q.channels; c += 16) {
    const int n = q.channels - c;
    Lanes sent;
    if (against) {
      sent = load(against + c, n);
    } else {
      sent = times(load_codes(codes[0] + c, n), scale);
      for (int p = 1; p < q.n_planes; ++p)
        sent = plus(sent, times(load_codes(codes[p] + c, n), all(q.plane_scale[p])));
    }
    const Lanes d = minus(load(x + c, n), sent);
    loud |= beyond(d, quiet);
    off |= beyond(d, fresh);
    squares = plus(squares, times(d, d));
    store(delta + c, d, 16);
  }
  *stale = off != 0;
  if (!loud) return false;
  *norm = norm1(squares);
  return true;
}

// ‖δ − q(δ)‖₂, and whether q had to clamp.
inline float error_norm(const PoolEntry& e, const float* delta, int channels, bool* clamped_any) {
  const Lanes inverse = all(e.inverse), low = all(e.low), high = all(e.high), scale = all(e.scale);
  Lanes squares = all(0.0f);
  Mask outside = 0;
  for (int c = 0; c < channels; c += 16) {
    const Lanes d = load(delta + c, 16);
    const Lanes steps = times(d, inverse), inside = between(steps, low, high);
    outside |= differ(steps, inside);
    const Lanes rest = minus(d, times(rounded(inside), scale));
    squares = plus(squares, times(rest, rest));
  }
  *clamped_any = outside != 0;
  return norm1(squares);
}

// Eq. 11: the first quantizer that no later one betters by the threshold. `norm` is ‖δ‖₂.
inline int choose(const Quantizers& q, const Policy& policy, const float* delta, float norm) {
  const int last = q.n_pool - 1;
  if (last == 0) return 0;
  float errors[kMaxPool];
  bool clamps = true;
  errors[0] =
      policy.gain *
      (q.pool[0].bits ? error_norm(q.pool[0], delta, q.channels, &clamps) : norm);
  if (errors[0] < policy.threshold) return 0;  // no later error is below zero
  int known = 0;
  for (int i = 0; i < last; ++i) {
    // those of one scale give the same codes where nothing is clamped: nothing gained
    const auto know = [&](int upto) {
      while (known < upto) {
        const bool same = !clamps && q.pool[known + 1].scale == q.pool[known].scale;
        errors[known + 1] =
            same ? errors[known]
                 : policy.gain * error_norm(q.pool[known + 1], delta, q.channels, &clamps);
        ++known;
      }
    };
    know(policy.ahead ? last : i + 1);
    float best = errors[i + 1];
    for (int j = i + 2; policy.ahead && j <= last; ++j) best = errors[j] < best ? errors[j] : best;
    const float gap = errors[i] - best;
    if (gap < policy.threshold || gap <= 0.0f) return i;
  }
  return last;
}

// What adding the codes of δ to their plane, which saturates at int8, does.
struct Sent {
  bool changed;
  bool rest;   // |δ| may still be above the quiet bound
  bool stale;  // or above the fresh one
};

inline Sent transmit(const Quantizers& q, const PoolEntry& e, const float* delta, uint8_t* codes,
                     bool write) {
  if (e.bits == 0) return {false, true, true};
  const Entry entry(e);
  const Lanes low = all(-128.0f), high = all(127.0f);
  const Lanes scale = all(q.plane_scale[e.plane]), quiet = all(q.quiet * kNearly);
  const Lanes fresh = all(q.fresh);
  Mask changed = 0, rest = 0, off = 0;
  for (int c = 0; c < q.channels; c += 16) {
    const int n = q.channels - c;
    const Lanes old = load_codes(codes + c, n), d = load(delta + c, 16);
    const Lanes now = between(plus(old, times(entry.code(d), entry.step)), low, high);
    changed |= differ(old, now);
    const Lanes left = minus(d, times(minus(now, old), scale));
    rest |= beyond(left, quiet);
    off |= beyond(left, fresh);
    if (write) store_codes(codes + c, now, n);
  }
  return {changed != 0, rest != 0, off != 0};
}

int count_beyond(const Quantizers& q, const PoolEntry& e, const float* delta) {
  if (e.bits == 0) return 0;
  const Lanes high = all((e.high + 0.5f) * e.scale), low = all((e.low - 0.5f) * e.scale);
  int n = 0;
  for (int c = 0; c < q.channels; c += 16) {
    const Lanes d = load(delta + c, 16);
    n += count_above(d, high) + count_above(low, d);
  }
  return n;
}

Decision quantize_residual(const Quantizers& q, const Policy& policy, const float* x,
                           const float* against, uint8_t* const* codes, float* scratch) {
  Decision d{0, 0, false, false, false};
  float norm;
  if (!residual(q, x, against, codes, scratch, &norm, &d.stale)) return d;
  d.index = choose(q, policy, scratch, norm);
  const PoolEntry& entry = q.pool[d.index];
  if (d.index == q.n_pool - 1) d.clipped = count_beyond(q, entry, scratch);
  const Sent sent = transmit(q, entry, scratch, codes[entry.plane], true);
  d.active = sent.changed;
  d.stale = sent.stale;
  if (against || (d.index == 0 && !d.active) || !sent.rest) return d;
  // what would the next frame do if the input stayed as it is?
  if (!residual(q, x, nullptr, codes, scratch, &norm, &d.stale)) return d;
  const int next = choose(q, policy, scratch, norm);
  const PoolEntry& again = q.pool[next];
  d.pending = next != 0 || transmit(q, again, scratch, codes[again.plane], false).changed;
  return d;
}

Refreshed refresh(const Quantizers& q, const float* x, uint8_t* codes) {
  const Lanes inverse = all(q.frame_inverse), low = all(q.frame_low), high = all(q.frame_high);
  const Lanes quiet = all(q.quiet * q.frame_inverse * kNearly);
  Mask changed = 0, loud = 0;
  for (int c = 0; c < q.channels; c += 16) {
    const int n = q.channels - c;
    const Lanes steps = times(load(x + c, n), inverse);
    const Lanes code = rounded(between(steps, low, high));
    changed |= differ(code, load_codes(codes + c, n));
    loud |= beyond(minus(steps, code), quiet);
    store_codes(codes + c, code, n);
  }
  return {changed != 0, loud != 0};
}

// ---------------------------------------------------------------- quantization of thin pixels

// Up to four channels, as separate pictures: the lanes are pixels. One plane, whose pixels are
// four bytes each.
constexpr int kThin = 64;

struct Thin {
  float x[4][kThin], delta[4][kThin];
  int32_t codes[4][kThin];  // signed
};

inline bool any_of(const int32_t* flags) {
  int32_t any = 0;
#pragma omp simd reduction(| : any)
  for (int p = 0; p < kThin; ++p) any |= flags[p];
  return any != 0;
}

inline void open_thin(Thin& t, const Quantizers& q, const float* const* channels, int first,
                      int count, const uint8_t* codes) {
  int32_t words[kThin];
  memset(words, kZeroCode, sizeof words);
  memcpy(words, codes + size_t(first) * 4, size_t(count) * 4);
  for (int c = 0; c < q.channels; ++c) {
    if (count == kThin) {
      memcpy(t.x[c], channels[c] + first, sizeof t.x[c]);
    } else {
      memset(t.x[c], 0, sizeof t.x[c]);
      memcpy(t.x[c], channels[c] + first, size_t(count) * 4);
    }
    const int shift = 8 * c;
#pragma omp simd
    for (int p = 0; p < kThin; ++p) t.codes[c][p] = ((words[p] >> shift) & 255) - kZeroCode;
  }
}

inline void close_thin(const Thin& t, const Quantizers& q, int first, int count, uint8_t* codes) {
  int32_t words[kThin];
  for (int p = 0; p < kThin; ++p) words[p] = 0;
  for (int c = 0; c < 4; ++c) {
    const int shift = 8 * c;
    if (c < q.channels) {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) words[p] |= (t.codes[c][p] + kZeroCode) << shift;
    } else {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) words[p] |= kZeroCode << shift;
    }
  }
  memcpy(codes + size_t(first) * 4, words, size_t(count) * 4);
}

void thin_frame(const Quantizers& q, const float* const* channels, int pixels, uint8_t* codes,
                float* norms, uint8_t* pending) {
  Thin t;
  for (int first = 0; first < pixels; first += kThin) {
    const int count = pixels - first < kThin ? pixels - first : kThin;
    open_thin(t, q, channels, first, count, codes);
    float squares[kThin] = {};
    int32_t loud[kThin] = {};
    for (int c = 0; c < q.channels; ++c) {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) {
        const float v = t.x[c][p];
        const float code = code_of(v, q.frame_inverse, q.frame_low, q.frame_high) * q.frame_step;
        squares[p] += v * v;
        loud[p] |= int32_t(fabsf(v - code * q.plane_scale[0]) > q.quiet);
        t.codes[c][p] = int32_t(code);
      }
    }
    close_thin(t, q, first, count, codes);
    for (int p = 0; p < count; ++p) {
      norms[first + p] = sqrtf(squares[p]);
      pending[first + p] = uint8_t(loud[p]);
    }
  }
}

// δ of every pixel; returns whether any is loud.
inline bool thin_residual(Thin& t, const Quantizers& q, int32_t* loud, int32_t* stale) {
  for (int p = 0; p < kThin; ++p) loud[p] = stale[p] = 0;
  for (int c = 0; c < q.channels; ++c) {
#pragma omp simd
    for (int p = 0; p < kThin; ++p) {
      t.delta[c][p] = t.x[c][p] - float(t.codes[c][p]) * q.plane_scale[0];
      loud[p] |= int32_t(fabsf(t.delta[c][p]) > q.quiet);
      stale[p] |= int32_t(fabsf(t.delta[c][p]) > q.fresh);
    }
  }
  return any_of(loud);
}

inline void thin_error(const Thin& t, const Quantizers& q, const Policy& policy,
                       const PoolEntry& e, float* error) {
  float squares[kThin] = {};
  for (int c = 0; c < q.channels; ++c) {
    if (e.bits) {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) {
        const float d = t.delta[c][p];
        const float rest = d - code_of(d, e.inverse, e.low, e.high) * e.scale;
        squares[p] += rest * rest;
      }
    } else {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) squares[p] += t.delta[c][p] * t.delta[c][p];
    }
  }
#pragma omp simd
  for (int p = 0; p < kThin; ++p) error[p] = sqrtf(squares[p]) * policy.gain;
}

// Eq. 11 for every pixel: those still `open` go on to the next quantizer.
inline void thin_choose(const Thin& t, const Quantizers& q, const Policy& policy,
                        const int32_t* loud, int32_t* index) {
  for (int p = 0; p < kThin; ++p) index[p] = 0;
  const int last = q.n_pool - 1;
  if (last == 0) return;
  float errors[kMaxPool][kThin];
  int32_t open[kThin];
  thin_error(t, q, policy, q.pool[0], errors[0]);
#pragma omp simd
  for (int p = 0; p < kThin; ++p) open[p] = loud[p] & int32_t(!(errors[0][p] < policy.threshold));
  int known = 0;
  for (int i = 0; i < last && any_of(open); ++i) {
    for (const int upto = policy.ahead ? last : i + 1; known < upto; ++known)
      thin_error(t, q, policy, q.pool[known + 1], errors[known + 1]);
    float best[kThin];
    memcpy(best, errors[i + 1], sizeof best);
    for (int j = i + 2; policy.ahead && j <= last; ++j) {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) best[p] = errors[j][p] < best[p] ? errors[j][p] : best[p];
    }
#pragma omp simd
    for (int p = 0; p < kThin; ++p) {
      const float gap = errors[i][p] - best[p];
      open[p] &= int32_t(!((gap < policy.threshold) | (gap <= 0.0f)));
      index[p] += open[p];
    }
  }
}

// Codes of δ by each pixel's quantizer, added; only where `loud`. Marks what changed.
inline void thin_transmit(Thin& t, const Quantizers& q, const int32_t* index, const int32_t* loud,
                          int32_t* changed, bool write) {
  for (int p = 0; p < kThin; ++p) changed[p] = 0;
  for (int i = 0; i < q.n_pool; ++i) {
    const PoolEntry e = q.pool[i];
    if (!e.bits) continue;
    for (int c = 0; c < q.channels; ++c) {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) {
        const float code = code_of(t.delta[c][p], e.inverse, e.low, e.high) * e.step;
        const int32_t now = int32_t(clamped(float(t.codes[c][p]) + code, -128.0f, 127.0f));
        const bool takes = (index[p] == i) & (loud[p] != 0);
        changed[p] |= int32_t(takes & (now != t.codes[c][p]));
        t.codes[c][p] = takes & write ? now : t.codes[c][p];
      }
    }
  }
}

int thin_quantize(const Quantizers& q, const Policy& policy, const float* const* channels,
                  int pixels, uint8_t* codes, uint8_t* marks, ThinDecision* decisions) {
  Thin t;
  int listed = 0;
  const int top = q.n_pool - 1;
  const float high = (q.pool[top].high + 0.5f) * q.pool[top].scale;
  const float low = (q.pool[top].low - 0.5f) * q.pool[top].scale;
  int32_t loud[kThin], stale[kThin], index[kThin], changed[kThin];
  int32_t next[kThin], again[kThin], would[kThin];
  for (int first = 0; first < pixels; first += kThin) {
    const int count = pixels - first < kThin ? pixels - first : kThin;
    open_thin(t, q, channels, first, count, codes);
    const bool any = thin_residual(t, q, loud, stale);
    if (any) thin_choose(t, q, policy, loud, index);
    if (!any || (q.n_pool > 1 && !q.pool[0].bits && !any_of(index))) {  // left alone, all of them
      for (int p = 0; p < count; ++p) marks[first + p] = uint8_t(stale[p] * kStale);
      continue;
    }
    int32_t clipped[kThin] = {};
    if (q.pool[top].bits)
      for (int c = 0; c < q.channels; ++c)
        for (int p = 0; p < kThin; ++p)
          clipped[p] += int32_t(t.delta[c][p] > high) + int32_t(t.delta[c][p] < low);
    thin_transmit(t, q, index, loud, changed, true);
    const bool rest = thin_residual(t, q, next, stale);
    if (rest) {
      thin_choose(t, q, policy, next, again);
      thin_transmit(t, q, again, next, would, false);
    }
    for (int p = 0; p < count; ++p) {
      marks[first + p] = uint8_t(stale[p] * kStale);
      if (!loud[p] || (index[p] == 0 && !changed[p] && !clipped[p])) continue;
      const bool looked = index[p] != 0 || changed[p];
      const bool pending = looked && rest && next[p] && (again[p] != 0 || would[p]);
      decisions[listed++] = {first + p,
                             {index[p], index[p] == top ? clipped[p] : 0, changed[p] != 0, pending,
                              stale[p] != 0}};
    }
    close_thin(t, q, first, count, codes);
  }
  return listed;
}

int thin_refresh(const Quantizers& q, const float* const* channels, int pixels, uint8_t* codes,
                 uint8_t* marks, ThinDecision* decisions) {
  Thin t;
  int listed = 0;
  const float quiet = q.quiet * q.frame_inverse * kNearly;
  for (int first = 0; first < pixels; first += kThin) {
    const int count = pixels - first < kThin ? pixels - first : kThin;
    open_thin(t, q, channels, first, count, codes);
    int32_t loud[kThin] = {}, changed[kThin] = {};
    for (int c = 0; c < q.channels; ++c) {
#pragma omp simd
      for (int p = 0; p < kThin; ++p) {
        const float steps = t.x[c][p] * q.frame_inverse;
        const float code = (clamped(steps, q.frame_low, q.frame_high) + kRound) - kRound;
        loud[p] |= int32_t(fabsf(steps - code) > quiet);
        changed[p] |= int32_t(code) ^ t.codes[c][p];
        t.codes[c][p] = int32_t(code);
      }
    }
    for (int p = 0; p < count; ++p) {
      marks[first + p] = uint8_t(loud[p] * kPending);
      if (changed[p]) decisions[listed++] = {first + p, {0, 0, true, loud[p] != 0, false}};
    }
    close_thin(t, q, first, count, codes);
  }
  return listed;
}

// ---------------------------------------------------------------- halves

constexpr float kLargestHalf = 65504.0f;

#if defined(__AVX512VNNI__)

inline __m256i to_half(__m512 v) {
  const __m512 limit = _mm512_set1_ps(kLargestHalf);
  v = _mm512_max_ps(_mm512_min_ps(v, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}

void round_half(float* x, int n) {
  for (int i = 0; i < n; i += 16)
    store(x + i, _mm512_cvtph_ps(to_half(load(x + i, n - i))), n - i);
}

void store_half(uint16_t* out, const float* x, int n) {
  for (int i = 0; i < n; i += 16)
    _mm256_mask_storeu_epi16(out + i, first_lanes(n - i), to_half(load(x + i, n - i)));
}

inline __m512 from_half(const uint16_t* x, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), x));
}

void load_half(float* out, const uint16_t* x, int n) {
  for (int i = 0; i < n; i += 16) store(out + i, from_half(x + i, n - i), n - i);
}

void add_half(float* x, const uint16_t* y, int n) {
  for (int i = 0; i < n; i += 16)
    store(x + i, plus(load(x + i, n - i), from_half(y + i, n - i)), n - i);
}

#else

inline uint32_t bits_of(float v) {
  uint32_t b;
  memcpy(&b, &v, 4);
  return b;
}

inline float float_of(uint32_t b) {
  float v;
  memcpy(&v, &b, 4);
  return v;
}

inline uint16_t to_half(float v) {
  v = clamped(v, -kLargestHalf, kLargestHalf);
  const uint32_t sign = bits_of(v) & 0x80000000u, size = bits_of(v) ^ sign;
  uint32_t half;
  if (size < 0x38800000u) {  // below the smallest normal half: adding 0.5 rounds at its last bit
    half = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
  } else {
    const uint32_t odd = (size >> 13) & 1;
    half = (size - 0x38000000u + 0xfffu + odd) >> 13;
  }
  return uint16_t(half | (sign >> 16));
}

inline float from_half(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, size = uint32_t(h & 0x7fffu) << 13;
  // 2^112 moves the exponent's bias, subnormal numbers included
  return float_of(bits_of(float_of(size) * 5.192296858534828e33f) | sign);
}

void round_half(float* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = from_half(to_half(x[i]));
}

void store_half(uint16_t* out, const float* x, int n) {
  for (int i = 0; i < n; ++i) out[i] = to_half(x[i]);
}

void load_half(float* out, const uint16_t* x, int n) {
  for (int i = 0; i < n; ++i) out[i] = from_half(x[i]);
}

void add_half(float* x, const uint16_t* y, int n) {
  for (int i = 0; i < n; ++i) x[i] = x[i] + from_half(y[i]);
}

#endif

#if defined(__AVX512VNNI__)
inline Lanes rounded_into(Lanes v, uint16_t* to, int n) {
  const __m256i h = to_half(v);
  if (to) _mm256_mask_storeu_epi16(to, first_lanes(n), h);
  return _mm512_cvtph_ps(h);
}
#else
inline Lanes rounded_into(const Lanes& v, uint16_t* to, int n) {
  Lanes r;
  for (int i = 0; i < 16; ++i) {
    const uint16_t h = to_half(v.v[i]);
    if (to && i < n) to[i] = h;
    r.v[i] = from_half(h);
  }
  return r;
}
inline Lanes from_half(const uint16_t* x, int n) {
  return lanewise([&](int i) { return i < n ? from_half(x[i]) : 0.0f; });
}
#endif

void join(const Join& j) {
  for (int k = 0; k < j.count; ++k) {
    float* x = j.x + k * j.stride;
    uint16_t* raw = j.raw ? j.raw[k] : nullptr;
    uint16_t* out = j.out ? j.out[k] : nullptr;
    for (int c = 0; c < j.channels; c += 16) {
      const int n = j.channels - c;
      Lanes v = rounded_into(load(x + c, n), raw ? raw + c : nullptr, n);
      for (int o = 0; o < j.n_others; ++o)
        v = plus(v, from_half(j.others[o * j.count + k] + c, n));
      if (j.relu) v = above_zero(v);
      store(x + c, rounded_into(v, out ? out + c : nullptr, n), n);
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

void blend_half(float* out, const uint16_t* const* rows, const float* w, int n) {
  const Lanes x0 = all(w[0]), x1 = all(w[1]), y0 = all(w[2]), y1 = all(w[3]);
  for (int i = 0; i < n; i += 16) {
    const int left = n - i;
    const Lanes top = plus(times(from_half(rows[0] + i, left), x0),
                           times(from_half(rows[1] + i, left), x1));
    const Lanes bottom = plus(times(from_half(rows[2] + i, left), x0),
                              times(from_half(rows[3] + i, left), x1));
    store(out + i, plus(times(top, y0), times(bottom, y1)), left);
  }
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

void merge_bits(uint8_t* out, const uint8_t* in, uint8_t bits, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = uint8_t(out[i] | (in[i] & bits));
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
    quantize_residual, refresh, thin_frame,
    thin_quantize, thin_refresh, round_half, store_half, load_half,
    add_half, join, relu, clamp, add, affine, blend, blend_half,
    maximum, divide, merge, merge_bits, compress,
};

}  // namespace

const Kernels* RESQ_GETTER() { return &kTable; }

}  // namespace resq
