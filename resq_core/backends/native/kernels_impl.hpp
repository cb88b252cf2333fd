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

// Bytes of one row of a tile register: the product takes so many codes of a pixel at a time.
constexpr int kTileBytes = 64;

#if defined(__AMX_INT8__)
constexpr int kTilePixels = 16;

int tile(int) { return kTilePixels; }

// Up to a whole tile: what is beyond is multiplied by zeros.
size_t packed_bytes(int depth, int vectors) {
  return size_t((depth + kTileBytes - 1) / kTileBytes * kTileBytes) * vectors * kLanes;
}
#else
int tile(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }

size_t packed_bytes(int depth, int vectors) { return size_t(depth) * vectors * kLanes; }
#endif

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

// What becomes of sixteen sums.
struct Finish {
  const Gemm& g;
  float* out;
  __m512 multiplier, bias;
  bool biased;

  // From channel o of the block on.
  Finish(const Gemm& g_, const GemmBlock& b, int o)
      : g(g_),
        out(g_.out + b.first + o),
        multiplier(_mm512_loadu_ps(b.multiplier + o)),
        bias(b.bias ? _mm512_loadu_ps(b.bias + o) : _mm512_setzero_ps()),
        biased(b.bias != nullptr) {}

  [[gnu::always_inline]] void operator()(int pixel, __m512i sums) const {
    float* row = out + pixel * g.stride;
    __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), multiplier);
    if (g.accumulate) v = _mm512_add_ps(_mm512_loadu_ps(row), v);
    if (biased) v = _mm512_add_ps(v, bias);
    if (g.relu) v = _mm512_max_ps(v, _mm512_setzero_ps());
    _mm512_storeu_ps(row, v);
  }
};

template <int P, int V>
inline void gemm_tile(const Gemm& g, const GemmBlock& b, int first) {
  __m512i acc[P][V];
  each<V>([&](auto j) __attribute__((always_inline)) {
    const __m512i init = _mm512_loadu_si512(b.init + j * kLanes);
    each<P>([&](auto i) __attribute__((always_inline)) { acc[i][j] = init; });
  });
  const int8_t* w = static_cast<const int8_t*>(b.weights);
  for (int s = 0; s < g.n_segments; ++s) {
    const uint8_t* p[P];
    each<P>([&](auto i) __attribute__((always_inline)) {
      p[i] = g.base[first + i] + g.segments[s].offset;
    });
    const int length = g.segments[s].length;
    for (int k = 0; k < length; k += 4) {
      __m512i word_weights[V];
      each<V>([&](auto j) __attribute__((always_inline)) {
        word_weights[j] = _mm512_loadu_si512(w + j * 64);
      });
      w += V * 64;
      each<P>([&](auto i) __attribute__((always_inline)) {
        int word;
        memcpy(&word, p[i] + k, 4);
        const __m512i a = _mm512_set1_epi32(word);
        each<V>([&](auto j) __attribute__((always_inline)) {
          acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], a, word_weights[j]);
        });
      });
    }
  }
  each<V>([&](auto j) __attribute__((always_inline)) {
    const Finish finish(g, b, j * kLanes);
    each<P>([&](auto i) __attribute__((always_inline)) { finish(first + i, acc[i][j]); });
  });
}

template <int P, int V>
inline void gemm_tiles(const Gemm& g, const GemmBlock& b, int first) {
  for (; g.pixels - first > P / 2; first += P) gemm_tile<P, V>(g, b, first);
  if (first < g.pixels) gemm_tile<P / 2, V>(g, b, first);
}

// The pixels from `first` on.
void gemm_from(const Gemm& g, int first) {
  for (int i = 0; i < g.n_blocks; ++i) {
    const GemmBlock& b = g.blocks[i];
    switch (b.vectors) {
      case 1: gemm_tiles<12, 1>(g, b, first); break;
      case 2: gemm_tiles<12, 2>(g, b, first); break;
      case 3: gemm_tiles<8, 3>(g, b, first); break;
      default: gemm_tiles<6, 4>(g, b, first);
    }
  }
}

#if defined(__AMX_INT8__)

// Intel's matrix registers: one instruction multiplies the codes of 16 pixels, 64 at a time, with
// the weights of 16 channels. Packed weights are as above: a register of them is 16 rows of 64
// bytes, `vectors` · 64 apart.

constexpr int kFew = 5;         // so many pixels are better off without
constexpr int kShallow = 128;   // so few codes of a pixel are, too
constexpr int kAtOnce = 32;     // pixels that share a register of weights
constexpr int kDeep = 8192;     // most bytes of a pixel that are gathered
constexpr int kMostRuns = 256;  // parts of runs of codes, each within a register

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // rest: codes that the registers for a run's last part take.
  explicit TileShapes(int rest) {
    for (int i = 0; i < 8; ++i) row_bytes[i] = kTileBytes, rows[i] = kTilePixels;
    if (!rest) return;
    row_bytes[5] = uint16_t(rest);
    rows[2] = rows[3] = uint8_t(rest / 4);
  }
};

// Where the codes of sixteen pixels are: row p at base + p · stride.
struct Codes {
  const uint8_t* base;
  ptrdiff_t stride;
  bool gathered;  // side by side; else at the segments' offsets

  const uint8_t* at(int offset, int depth) const { return base + (gathered ? depth : offset); }
};

// What a register's row of codes is put together from: bytes of `mask` at base + offset.
struct Run {
  uint64_t mask;
  int32_t offset;
  bool last;  // of its register
};

// All runs of a product, and how many bytes they fill, where that `fits`.
struct Runs {
  Run run[kMostRuns];
  int count = 0, bytes = 0;
  bool fits = true;
  bool alike = true;  // every segment ends with as many codes in its last register
  int rest;           // those, 0 for a whole one

  // A transposed convolution has pixels that read nothing.
  explicit Runs(const Gemm& g)
      : rest(g.n_segments ? g.segments[0].length % kTileBytes : 0) {
    int at = 0;  // in the register
    for (int s = 0; s < g.n_segments; ++s) {
      const Segment& segment = g.segments[s];
      alike = alike && segment.length % kTileBytes == rest;
      for (int k = 0; k < segment.length;) {
        const int left = segment.length - k, room = kTileBytes - at;
        const int n = left < room ? left : room;
        const uint64_t ones = n == kTileBytes ? ~uint64_t(0) : (uint64_t(1) << n) - 1;
        if (count == kMostRuns) {
          fits = false;
          return;
        }
        run[count++] = {ones << at, segment.offset + k - at, n == room};
        k += n;
        at = (at + n) % kTileBytes;
      }
      bytes += segment.length;
    }
    if (count) run[count - 1].last = true;
    bytes = (bytes + kTileBytes - 1) / kTileBytes * kTileBytes;
    fits = fits && bytes <= kDeep;
  }
};

inline bool evenly_apart(const Gemm& g, int first, ptrdiff_t* stride) {
  const uint8_t* const* base = g.base + first;
  *stride = base[1] - base[0];
  for (int i = 2; i < kTilePixels; ++i)
    if (base[i] - base[i - 1] != *stride) return false;
  return true;
}

// One register's part of every row.
template <typename Load>
[[gnu::always_inline]] inline void gather_rows(const uint8_t* const* base, int count, uint8_t* to,
                                               ptrdiff_t stride, Load&& load) {
  for (int i = 0; i < count; ++i) _mm512_store_si512(to + i * stride, load(base[i]));
}

// All that pixels read, side by side, zeros up to a whole register. What a mask leaves out is not
// touched.
inline void gather(const Gemm& g, int first, int count, const Runs& runs, uint8_t* to,
                   ptrdiff_t stride) {
  const uint8_t* const* base = g.base + first;
  for (int r = 0; r < runs.count; to += kTileBytes) {
    const Run a = runs.run[r];
    if (a.mask == ~uint64_t(0)) {
      gather_rows(base, count, to, stride,
                  [&](const uint8_t* p) { return _mm512_loadu_si512(p + a.offset); });
      ++r;
      continue;
    }
    int end = r;
    while (!runs.run[end].last) ++end;
    if (end == r + 1) {
      const Run b = runs.run[end];
      gather_rows(base, count, to, stride, [&](const uint8_t* p) {
        const __m512i v = _mm512_maskz_loadu_epi8(a.mask, p + a.offset);
        return _mm512_mask_loadu_epi8(v, b.mask, p + b.offset);
      });
    } else {
      gather_rows(base, count, to, stride, [&](const uint8_t* p) {
        __m512i v = _mm512_maskz_loadu_epi8(a.mask, p + a.offset);
        for (int k = r + 1; k <= end; ++k)
          v = _mm512_mask_loadu_epi8(v, runs.run[k].mask, p + runs.run[k].offset);
        return v;
      });
    }
    r = end + 1;
  }
}

// What becomes of the sums in registers 0 to 3, [group][vector].
template <int G, int V>
inline void finish_tiles(const Gemm& g, const GemmBlock& b, int first, int count, int j) {
  constexpr int kSums = kTilePixels * kLanes;
  alignas(64) int32_t sums[G * V * kSums];
  _tile_stored(0, sums, kTileBytes);
  if constexpr (V > 1) _tile_stored(1, sums + kSums, kTileBytes);
  if constexpr (G > 1) _tile_stored(2, sums + V * kSums, kTileBytes);
  if constexpr (G > 1 && V > 1) _tile_stored(3, sums + (V + 1) * kSums, kTileBytes);
  each<V>([&](auto v) __attribute__((always_inline)) {
    const int o = (j + v) * kLanes;
    const Finish finish(g, b, o);
    const __m512i init = _mm512_loadu_si512(b.init + o);
    for (int i = 0; i < count; ++i) {
      const int row = (i / kTilePixels * V + v) * kTilePixels + i % kTilePixels;
      finish(first + i, _mm512_add_epi32(_mm512_load_si512(sums + row * kLanes), init));
    }
  });
}

// Registers 0 to 3 hold sums, [group][vector]; 4 and 5 codes; 6 and 7 weights.
template <int G, int V>
inline void multiply_tiles(const Gemm& g, const GemmBlock& b, int first, int count, int j,
                           const Codes* codes, const Runs& runs) {
  _tile_zero(0);
  if constexpr (V > 1) _tile_zero(1);
  if constexpr (G > 1) _tile_zero(2);
  if constexpr (G > 1 && V > 1) _tile_zero(3);
  const ptrdiff_t next = ptrdiff_t(b.vectors) * kTileBytes;
  const int8_t* w = static_cast<const int8_t*>(b.weights) + j * kTileBytes;
  const auto step = [&](int offset, int depth) __attribute__((always_inline)) {
    _tile_loadd(4, codes[0].at(offset, depth), codes[0].stride);
    if constexpr (G > 1) _tile_loadd(5, codes[1].at(offset, depth), codes[1].stride);
    _tile_loadd(6, w, next);
    _tile_dpbusd(0, 4, 6);
    if constexpr (G > 1) _tile_dpbusd(2, 5, 6);
    if constexpr (V > 1) {
      _tile_loadd(7, w + kTileBytes, next);
      _tile_dpbusd(1, 4, 7);
      if constexpr (G > 1) _tile_dpbusd(3, 5, 7);
    }
    w += next * (kTileBytes / 4);
  };
  if (runs.alike) {
    int depth = 0;
    for (int s = 0; s < g.n_segments; ++s)
      for (int k = 0; k < g.segments[s].length; k += kTileBytes, depth += kTileBytes)
        step(g.segments[s].offset + k, depth);
  } else {
    for (int depth = 0; depth < runs.bytes; depth += kTileBytes) step(0, depth);
  }
  finish_tiles<G, V>(g, b, first, count, j);
}

// The same of sixteen pixels whose segments all leave a rest. Registers 0 and 1 hold sums, 4
// codes, 6 and 7 weights; 5, 2 and 3 are for the rest.
template <int V>
inline void multiply_rests(const Gemm& g, const GemmBlock& b, int first, int count, int j,
                           const Codes& codes, int rest) {
  _tile_zero(0);
  if constexpr (V > 1) _tile_zero(1);
  const ptrdiff_t next = ptrdiff_t(b.vectors) * kTileBytes;
  const int8_t* w = static_cast<const int8_t*>(b.weights) + j * kTileBytes;
  int depth = 0;
  for (int s = 0; s < g.n_segments; ++s) {
    const Segment& segment = g.segments[s];
    int k = 0;
    for (; k + kTileBytes <= segment.length; k += kTileBytes) {
      _tile_loadd(4, codes.at(segment.offset + k, depth + k), codes.stride);
      _tile_loadd(6, w, next);
      _tile_dpbusd(0, 4, 6);
      if constexpr (V > 1) {
        _tile_loadd(7, w + kTileBytes, next);
        _tile_dpbusd(1, 4, 7);
      }
      w += next * (kTileBytes / 4);
    }
    _tile_loadd(5, codes.at(segment.offset + k, depth + k), codes.stride);
    _tile_loadd(2, w, next);
    _tile_dpbusd(0, 5, 2);
    if constexpr (V > 1) {
      _tile_loadd(3, w + kTileBytes, next);
      _tile_dpbusd(1, 5, 3);
    }
    w += next * (rest / 4);
    depth += segment.length;
  }
  finish_tiles<1, V>(g, b, first, count, j);
}

template <int G>
inline void multiply(const Gemm& g, int first, int count, const Runs& runs, uint8_t* room) {
  Codes codes[G];
  for (int i = 0; i < G; ++i) {
    const int from = first + i * kTilePixels, left = first + count - from;
    Codes& c = codes[i];
    c = {g.base[from], 0, false};
    if (runs.alike && left >= kTilePixels && evenly_apart(g, from, &c.stride)) continue;
    c = {room, runs.bytes + kTileBytes, true};
    gather(g, from, left < kTilePixels ? left : kTilePixels, runs, room, c.stride);
    room += kTilePixels * c.stride;
  }
  for (int i = 0; i < g.n_blocks; ++i) {
    const GemmBlock& b = g.blocks[i];
    int j = 0;
    if (G == 1 && runs.alike && runs.rest) {
      for (; j + 2 <= b.vectors; j += 2)
        multiply_rests<2>(g, b, first, count, j, codes[0], runs.rest);
      if (j < b.vectors) multiply_rests<1>(g, b, first, count, j, codes[0], runs.rest);
      continue;
    }
    for (; j + 2 <= b.vectors; j += 2) multiply_tiles<G, 2>(g, b, first, count, j, codes, runs);
    if (j < b.vectors) multiply_tiles<G, 1>(g, b, first, count, j, codes, runs);
  }
}

void gemm(const Gemm& g) {
  if (g.pixels <= kFew) return gemm_from(g, 0);
  const Runs runs(g);
  if (!runs.fits || runs.bytes <= kShallow) return gemm_from(g, 0);
  alignas(64) static thread_local uint8_t room[kAtOnce * (kDeep + kTileBytes)];
  const bool rests = runs.alike && runs.rest;
  const TileShapes shapes(rests ? runs.rest : 0);
  _tile_loadconfig(&shapes);
  int first = 0;
  for (; !rests && g.pixels - first > kTilePixels + kFew; first += kAtOnce) {
    const int left = g.pixels - first;
    multiply<2>(g, first, left < kAtOnce ? left : kAtOnce, runs, room);
  }
  for (; g.pixels - first > kFew; first += kTilePixels) {
    const int left = g.pixels - first;
    multiply<1>(g, first, left < kTilePixels ? left : kTilePixels, runs, room);
  }
  _tile_release();
  if (first < g.pixels) gemm_from(g, first);
}

#else

void gemm(const Gemm& g) { gemm_from(g, 0); }

#endif

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

inline void gemm_tile(const Gemm& g, const GemmBlock& block, int first, int j, const int16_t* w) {
  constexpr int P = 4;
  __m256i acc[P][2];
  for (int h = 0; h < 2; ++h) {
    const __m256i init =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.init + j * kLanes + h * 8));
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
      float* out = g.out + (first + i) * g.stride + block.first + o;
      __m256 v =
          _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][h]), _mm256_loadu_ps(block.multiplier + o));
      if (g.accumulate) v = _mm256_add_ps(_mm256_loadu_ps(out), v);
      if (block.bias) v = _mm256_add_ps(v, _mm256_loadu_ps(block.bias + o));
      if (g.relu) v = _mm256_max_ps(v, _mm256_setzero_ps());
      _mm256_storeu_ps(out, v);
    }
  }
}

void gemm(const Gemm& g) {
  int depth = 0;
  for (int s = 0; s < g.n_segments; ++s) depth += g.segments[s].length;
  for (const GemmBlock* b = g.blocks; b < g.blocks + g.n_blocks; ++b)
    for (int first = 0; first < g.pixels; first += 4)
      for (int j = 0; j < b->vectors; ++j)
        gemm_tile(g, *b, first, j,
                  static_cast<const int16_t*>(b->weights) + size_t(j) * depth * kLanes);
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

inline void gemm_block(const Gemm& g, const GemmBlock& b) {
  for (int i = 0; i < g.pixels; ++i) {
    const int16_t* w = static_cast<const int16_t*>(b.weights);
    for (int j = 0; j < b.vectors; ++j) {
      int32_t acc[kLanes];
      memcpy(acc, b.init + j * kLanes, sizeof acc);
      for (int s = 0; s < g.n_segments; ++s) {
        const uint8_t* p = g.base[i] + g.segments[s].offset;
        for (int k = 0; k < g.segments[s].length; ++k, w += kLanes) {
          const int a = p[k];
          for (int o = 0; o < kLanes; ++o) acc[o] += a * w[o];
        }
      }
      float* out = g.out + i * g.stride + b.first + j * kLanes;
      for (int o = 0; o < kLanes; ++o) {
        float v = float(acc[o]) * b.multiplier[j * kLanes + o];
        if (g.accumulate) v = out[o] + v;
        if (b.bias) v = v + b.bias[j * kLanes + o];
        if (g.relu) v = v > 0.0f ? v : 0.0f;
        out[o] = v;
      }
    }
  }
}

void gemm(const Gemm& g) {
  for (int i = 0; i < g.n_blocks; ++i) gemm_block(g, g.blocks[i]);
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
// Whole is n = 16, known when compiled.
struct Whole {
  constexpr operator int() const { return 16; }
};

template <typename N>
constexpr bool kWhole = false;
template <>
constexpr bool kWhole<Whole> = true;

// Calls f(c, n) for every sixteen of n channels from c.
template <typename F>
[[gnu::always_inline]] inline void by_lanes(int channels, F&& f) {
  int c = 0;
  for (; c + 16 <= channels; c += 16) f(c, Whole{});
  if (c < channels) f(c, channels - c);
}

#if defined(__AVX512VNNI__)

using Lanes = __m512;

inline __mmask16 first_lanes(int n) { return n >= 16 ? 0xffff : __mmask16((1u << n) - 1); }
inline Lanes all(float v) { return _mm512_set1_ps(v); }
template <typename N>
inline Lanes load(const float* p, N n) {
  if constexpr (kWhole<N>) return _mm512_loadu_ps(p);
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
template <typename N>
inline void store(float* p, Lanes v, N n) {
  if constexpr (kWhole<N>) _mm512_storeu_ps(p, v);
  else _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
inline Lanes plus(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes minus(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes times(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes between(Lanes v, Lanes low, Lanes high) {
  return _mm512_min_ps(_mm512_max_ps(v, low), high);
}
inline Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes size(Lanes v) { return _mm512_abs_ps(v); }
using Mask = __mmask16;
inline Mask either(Mask a, Mask b) { return _kor_mask16(a, b); }
inline Mask above(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline int count_above(Lanes a, Lanes b) {
  return __builtin_popcount(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ));
}
inline Mask differ(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
// The bytes of rounded codes, from steps between −128 and 127: adding 1.5·2^23 + 128 leaves
// code + 128 in the last byte of the float.
template <typename N>
inline void store_bytes(uint8_t* p, __m128i bytes, N n) {
  if constexpr (kWhole<N>) _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  else _mm_mask_storeu_epi8(p, first_lanes(n), bytes);
}
template <typename N>
inline void store_steps(uint8_t* p, Lanes steps, N n) {
  const __m512 sum = _mm512_add_ps(steps, _mm512_set1_ps(kRound + 128.0f));
  store_bytes(p, _mm512_cvtepi32_epi8(_mm512_castps_si512(sum)), n);
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
template <typename N>
inline Lanes load_codes(const uint8_t* p, N n) {
  const __m512i zero = _mm512_set1_epi32(kZeroCode);
  if constexpr (kWhole<N>) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), zero));
  }
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p));
  return _mm512_cvtepi32_ps(_mm512_maskz_sub_epi32(first_lanes(n), wide, zero));
}
// Sixteen pixels of four bytes, and the codes of one channel of them.
using Words = __m512i;
template <typename N>
inline Words load_words(const uint8_t* p, N n) {
  return _mm512_mask_loadu_epi32(_mm512_set1_epi8(char(kZeroCode)), first_lanes(n), p);
}
template <typename N>
inline void store_words(uint8_t* p, Words words, N n) {
  _mm512_mask_storeu_epi32(p, first_lanes(n), words);
}
inline Lanes codes_in(Words words, int channel) {
  const __m512i byte = _mm512_and_si512(_mm512_srl_epi32(words, _mm_cvtsi32_si128(8 * channel)),
                                        _mm512_set1_epi32(255));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, _mm512_set1_epi32(kZeroCode)));
}
inline Words with_codes(Words words, int channel, Lanes codes) {
  const __m128i shift = _mm_cvtsi32_si128(8 * channel);
  const __m512i wide = _mm512_add_epi32(_mm512_cvtps_epi32(codes), _mm512_set1_epi32(kZeroCode));
  const __m512i kept = _mm512_andnot_si512(_mm512_sll_epi32(_mm512_set1_epi32(255), shift), words);
  return _mm512_or_si512(kept, _mm512_sll_epi32(wide, shift));
}
// A byte of `value` for each lane of the mask, zero for the others.
template <typename N>
inline void store_marks(uint8_t* p, Mask mask, uint8_t value, N n) {
  store_bytes(p, _mm_maskz_set1_epi8(mask, char(value)), n);
}
inline Lanes chosen(Mask mask, Lanes a, Lanes b) { return _mm512_mask_blend_ps(mask, b, a); }
inline Lanes root(Lanes v) { return _mm512_sqrt_ps(v); }
template <typename N>
inline void store_codes(uint8_t* p, Lanes v, N n) {
  const __m512i wide = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(kZeroCode));
  store_bytes(p, _mm512_cvtepi32_epi8(wide), n);
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
inline Lanes larger(const Lanes& a, const Lanes& b) {
  return lanewise([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes size(const Lanes& v) {
  return lanewise([&](int i) { return fabsf(v.v[i]); });
}
using Mask = int;  // a bit per lane
inline Mask either(Mask a, Mask b) { return a | b; }
inline Mask above(const Lanes& a, const Lanes& b) {
  int mask = 0;
  for (int i = 0; i < 16; ++i) mask |= int(a.v[i] > b.v[i]) << i;
  return mask;
}
inline int count_above(const Lanes& a, const Lanes& b) {
  int n = 0;
  for (int i = 0; i < 16; ++i) n += int(a.v[i] > b.v[i]);
  return n;
}
inline Mask differ(const Lanes& a, const Lanes& b) {
  int mask = 0;
  for (int i = 0; i < 16; ++i) mask |= int(a.v[i] != b.v[i]) << i;
  return mask;
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
struct Words {
  uint32_t v[16];
};
inline Words load_words(const uint8_t* p, int n) {
  Words w;
  memset(w.v, kZeroCode, sizeof w.v);
  memcpy(w.v, p, size_t(n < 16 ? n : 16) * 4);
  return w;
}
inline void store_words(uint8_t* p, const Words& words, int n) {
  memcpy(p, words.v, size_t(n < 16 ? n : 16) * 4);
}
inline Lanes codes_in(const Words& words, int channel) {
  return lanewise([&](int i) {
    return float(int32_t((words.v[i] >> (8 * channel)) & 255u) - kZeroCode);
  });
}
inline Words with_codes(const Words& words, int channel, const Lanes& codes) {
  Words w;
  const int shift = 8 * channel;
#pragma omp simd
  for (int i = 0; i < 16; ++i)
    w.v[i] = (words.v[i] & ~(255u << shift)) | uint32_t(int32_t(codes.v[i]) + kZeroCode) << shift;
  return w;
}
inline void store_marks(uint8_t* p, Mask mask, uint8_t value, int n) {
  for (int i = 0; i < n && i < 16; ++i) p[i] = (mask >> i) & 1 ? value : uint8_t(0);
}
inline Lanes chosen(Mask mask, const Lanes& a, const Lanes& b) {
  return lanewise([&](int i) { return (mask >> i) & 1 ? a.v[i] : b.v[i]; });
}
inline Lanes root(const Lanes& v) {
  return lanewise([&](int i) { return sqrtf(v.v[i]); });
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

// Rows go in groups of four, whose norms share their horizontal sums and whose latencies overlap.
constexpr int kGroup = 4;

template <bool Plain>
void quantize_groups(const Quantizers& q, const float* x, ptrdiff_t stride, int count,
                     uint8_t* const* codes, float* norms, uint8_t* pending) {
  const Lanes inverse = all(q.frame_inverse), low = all(q.frame_low), high = all(q.frame_high);
  const Lanes step = all(q.frame_step), quiet = all(q.quiet * q.frame_inverse * kNearly);
  const int channels = q.channels;
  for (int first = 0; first < count; first += kGroup) {
    const int some = count - first < kGroup ? count - first : kGroup;
    Lanes squares[kGroup];
    Mask loud[kGroup];
    const float* rows[kGroup];
    uint8_t* to[kGroup];
    for (int i = 0; i < kGroup; ++i) {
      const int r = first + (i < some ? i : some - 1);
      squares[i] = all(0.0f), loud[i] = 0, rows[i] = x + r * stride, to[i] = codes[r];
    }
    by_lanes(channels, [&](int c, auto n) __attribute__((always_inline)) {
      for (int i = 0; i < kGroup; ++i) {
        const Lanes v = load(rows[i] + c, n), steps = times(v, inverse);
        const Lanes inside = between(steps, low, high);
        squares[i] = plus(squares[i], times(v, v));
        if constexpr (Plain) {
          loud[i] = either(loud[i], differ(steps, inside));
          store_steps(to[i] + c, inside, n);
        } else {
          const Lanes code = rounded(inside);
          loud[i] = either(loud[i], above(size(minus(steps, code)), quiet));
          store_codes(to[i] + c, times(code, step), n);
        }
      }
    });
    float roots[kGroup];
    norms4(squares, roots);
    memcpy(norms + first, roots, size_t(some) * sizeof(float));
    for (int i = 0; i < some; ++i) pending[first + i] = loud[i] != 0;
  }
}

void quantize_frame(const Quantizers& q, const float* x, ptrdiff_t stride, int count,
                    uint8_t* const* codes, float* norms, uint8_t* pending) {
  // where nothing is quiet below half a step, only what was clamped is loud
  const bool plain = q.frame_step == 1.0f && q.quiet * q.frame_inverse >= 0.49f;
  (plain ? quantize_groups<true> : quantize_groups<false>)(q, x, stride, count, codes, norms,
                                                           pending);
}

// One row of a group on its way through the policy.
struct Judged {
  const float* x;
  uint8_t* codes;  // the pixel in plane 0
  float* delta;    // channels rounded up to 16
  float errors[kMaxPool];
  float norm;  // ‖δ‖₂
  bool loud, stale, clamps;
};

template <typename N>
inline Lanes transmitted(const Quantizers& q, const uint8_t* codes, ptrdiff_t plane_bytes, N n,
                         const Lanes& scale) {
  Lanes sent = times(load_codes(codes, n), scale);
  for (int p = 1; p < q.n_planes; ++p)
    sent = plus(sent, times(load_codes(codes + p * plane_bytes, n), all(q.plane_scale[p])));
  return sent;
}

// δ = x − what was transmitted of a row, and whether any |δ| is above the quiet and fresh bounds.
inline Lanes residual(const Quantizers& q, Judged& row, const float* against,
                      ptrdiff_t plane_bytes) {
  const Lanes scale = all(q.plane_scale[0]);
  Lanes squares = all(0.0f), most = all(0.0f);
  by_lanes(q.channels, [&](int c, auto n) __attribute__((always_inline)) {
    const Lanes sent = against ? load(against + c, n)
                               : transmitted(q, row.codes + c, plane_bytes, n, scale);
    const Lanes d = minus(load(row.x + c, n), sent);
    most = larger(most, size(d));
    squares = plus(squares, times(d, d));
    store(row.delta + c, d, Whole{});
  });
  row.loud = above(most, all(q.quiet)) != 0;
  row.stale = above(most, all(q.fresh)) != 0;
  return squares;
}

// Squares of δ − q(δ), and whether q had to clamp.
inline Lanes error(const PoolEntry& e, Judged& row, int channels) {
  const Lanes inverse = all(e.inverse), low = all(e.low), high = all(e.high), scale = all(e.scale);
  Lanes squares = all(0.0f);
  Mask outside = 0;
  for (int c = 0; c < channels; c += 16) {
    const Lanes d = load(row.delta + c, Whole{});
    const Lanes steps = times(d, inverse), inside = between(steps, low, high);
    outside = either(outside, differ(steps, inside));
    const Lanes rest = minus(d, times(rounded(inside), scale));
    squares = plus(squares, times(rest, rest));
  }
  row.clamps = outside != 0;
  return squares;
}

// Eq. 11 for the rows of a group: the first quantizer that no later one betters by the threshold.
// A row whose error is below the threshold from the start stays at 0.
inline void choose(const Quantizers& q, const Policy& policy, Judged* rows, int count,
                   int32_t* index) {
  const int last = q.n_pool - 1;
  bool open[kGroup];
  Lanes squares[kGroup];
  float norms[kGroup];
  for (int i = 0; i < count; ++i) index[i] = 0;
  if (last == 0) return;
  for (int i = 0; i < kGroup; ++i) squares[i] = all(0.0f);
  for (int i = 0; i < count; ++i) {
    rows[i].clamps = true;
    if (q.pool[0].bits && rows[i].loud) squares[i] = error(q.pool[0], rows[i], q.channels);
  }
  if (q.pool[0].bits) norms4(squares, norms);
  int left = 0;
  for (int i = 0; i < count; ++i) {
    rows[i].errors[0] = policy.gain * (q.pool[0].bits ? norms[i] : rows[i].norm);
    open[i] = rows[i].loud && !(rows[i].errors[0] < policy.threshold);
    left += open[i];
  }
  int known = 0;
  for (int e = 0; e < last && left; ++e) {
    for (const int upto = policy.ahead ? last : e + 1; known < upto; ++known) {
      // those of one scale give the same codes where nothing is clamped: nothing gained
      const bool alike = q.pool[known + 1].scale == q.pool[known].scale;
      bool any = false;
      bool same[kGroup];
      for (int i = 0; i < count; ++i) {
        same[i] = !open[i] || (alike && !rows[i].clamps);
        if (same[i]) continue;
        any = true;
        squares[i] = error(q.pool[known + 1], rows[i], q.channels);
      }
      if (any) norms4(squares, norms);
      for (int i = 0; i < count; ++i)
        rows[i].errors[known + 1] = same[i] ? rows[i].errors[known] : policy.gain * norms[i];
    }
    for (int i = 0; i < count; ++i) {
      if (!open[i]) continue;
      const float* errors = rows[i].errors;
      float best = errors[e + 1];
      for (int j = e + 2; policy.ahead && j <= last; ++j) best = errors[j] < best ? errors[j] : best;
      const float gap = errors[e] - best;
      if (gap < policy.threshold || gap <= 0.0f) {
        open[i] = false;
        --left;
      } else {
        index[i] = e + 1;
      }
    }
  }
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
  const Lanes low = all(-128.0f), high = all(127.0f), scale = all(q.plane_scale[e.plane]);
  Lanes most = all(0.0f);
  Mask changed = 0;
  by_lanes(q.channels, [&](int c, auto n) __attribute__((always_inline)) {
    const Lanes old = load_codes(codes + c, n), d = load(delta + c, Whole{});
    const Lanes now = between(plus(old, times(entry.code(d), entry.step)), low, high);
    changed = either(changed, differ(old, now));
    most = larger(most, size(minus(d, times(minus(now, old), scale))));
    if (write) store_codes(codes + c, now, n);
  });
  return {changed != 0, above(most, all(q.quiet * kNearly)) != 0, above(most, all(q.fresh)) != 0};
}

int count_beyond(const Quantizers& q, const PoolEntry& e, const float* delta) {
  if (e.bits == 0) return 0;
  const Lanes high = all((e.high + 0.5f) * e.scale), low = all((e.low - 0.5f) * e.scale);
  int n = 0;
  for (int c = 0; c < q.channels; c += 16) {
    const Lanes d = load(delta + c, Whole{});
    n += count_above(d, high) + count_above(low, d);
  }
  return n;
}

// What would the next frame do if the input stayed as it is?
bool comes_back(const Quantizers& q, const Policy& policy, Judged& row, ptrdiff_t plane_bytes) {
  row.norm = norm1(residual(q, row, nullptr, plane_bytes));
  if (!row.loud) return false;
  int32_t next;
  choose(q, policy, &row, 1, &next);
  const PoolEntry& again = q.pool[next];
  if (q.n_pool == 1 && count_beyond(q, again, row.delta)) return true;  // is reported every time
  return next != 0 ||
         transmit(q, again, row.delta, row.codes + again.plane * plane_bytes, false).changed;
}

void quantize_residual(const Quantizers& q, const Policy& policy, const float* x, ptrdiff_t stride,
                       int count, const float* const* against, uint8_t* const* codes,
                       ptrdiff_t plane_bytes, float* scratch, Decision* decisions) {
  const int width = (q.channels + 15) & ~15, top = q.n_pool - 1;
  Judged rows[kGroup];
  Lanes squares[kGroup];
  float norms[kGroup];
  int32_t index[kGroup];
  for (int first = 0; first < count; first += kGroup) {
    const int some = count - first < kGroup ? count - first : kGroup;
    for (int i = 0; i < kGroup; ++i) squares[i] = all(0.0f);
    for (int i = 0; i < some; ++i) {
      Judged& row = rows[i];
      row.x = x + (first + i) * stride;
      row.codes = codes[first + i];
      row.delta = scratch + i * width;
      squares[i] = residual(q, row, against ? against[first + i] : nullptr, plane_bytes);
    }
    norms4(squares, norms);
    for (int i = 0; i < some; ++i) rows[i].norm = norms[i];
    choose(q, policy, rows, some, index);
    for (int i = 0; i < some; ++i) {
      Judged& row = rows[i];
      Decision& d = decisions[first + i];
      d = {index[i], 0, false, false, row.stale};
      if (!row.loud) continue;
      const PoolEntry& entry = q.pool[d.index];
      if (d.index == top) d.clipped = count_beyond(q, entry, row.delta);
      const Sent sent =
          transmit(q, entry, row.delta, row.codes + entry.plane * plane_bytes, true);
      d.active = sent.changed;
      d.stale = sent.stale;
      if (against || !sent.rest) continue;
      if (d.index == 0 && !d.active && !d.clipped) continue;
      d.pending = comes_back(q, policy, row, plane_bytes);
      d.stale = row.stale;
    }
  }
}

void refresh(const Quantizers& q, const float* x, ptrdiff_t stride, int count,
             uint8_t* const* codes, Decision* decisions) {
  const Lanes inverse = all(q.frame_inverse), low = all(q.frame_low), high = all(q.frame_high);
  const Lanes quiet = all(q.quiet * q.frame_inverse * kNearly);
  for (int r = 0; r < count; ++r, x += stride) {
    Mask changed = 0;
    Lanes most = all(0.0f);
    by_lanes(q.channels, [&](int c, auto n) __attribute__((always_inline)) {
      const Lanes steps = times(load(x + c, n), inverse);
      const Lanes code = rounded(between(steps, low, high));
      changed = either(changed, differ(code, load_codes(codes[r] + c, n)));
      most = larger(most, size(minus(steps, code)));
      store_codes(codes[r] + c, code, n);
    });
    decisions[r] = {0, 0, changed != 0, above(most, quiet) != 0, false};
  }
}

// ---------------------------------------------------------------- quantization of thin pixels

// Up to four channels, as separate pictures: the lanes are pixels. One plane, whose pixels are
// four bytes each.
constexpr Mask kAllLanes = 0xffff;

struct Thin {
  Lanes x[4], delta[4], codes[4];
  Words words;
};

template <typename N>
inline void open_thin(Thin& t, const Quantizers& q, const float* const* channels, int first, N n,
                      const uint8_t* codes) {
  t.words = load_words(codes + size_t(first) * 4, n);
  for (int c = 0; c < q.channels; ++c) {
    t.x[c] = load(channels[c] + first, n);
    t.codes[c] = codes_in(t.words, c);
  }
}

template <typename N>
inline void close_thin(const Thin& t, const Quantizers& q, int first, N n, uint8_t* codes) {
  Words words = t.words;
  for (int c = 0; c < q.channels; ++c) words = with_codes(words, c, t.codes[c]);
  store_words(codes + size_t(first) * 4, words, n);
}

void thin_frame(const Quantizers& q, const float* const* channels, int pixels, uint8_t* codes,
                float* norms, uint8_t* pending) {
  const Lanes inverse = all(q.frame_inverse), low = all(q.frame_low), high = all(q.frame_high);
  const Lanes step = all(q.frame_step), scale = all(q.plane_scale[0]), quiet = all(q.quiet);
  by_lanes(pixels, [&](int first, auto n) {
    Thin t;
    open_thin(t, q, channels, first, n, codes);
    Lanes squares = all(0.0f), most = all(0.0f);
    for (int c = 0; c < q.channels; ++c) {
      const Lanes v = t.x[c];
      t.codes[c] = times(rounded(between(times(v, inverse), low, high)), step);
      squares = plus(squares, times(v, v));
      most = larger(most, size(minus(v, times(t.codes[c], scale))));
    }
    close_thin(t, q, first, n, codes);
    store(norms + first, root(squares), n);
    store_marks(pending + first, above(most, quiet), kPending, n);
  });
}

// δ of every pixel, and which are loud and stale; returns the squares of ‖δ‖₂.
inline Lanes thin_residual(Thin& t, const Quantizers& q, Mask* loud, Mask* stale) {
  const Lanes scale = all(q.plane_scale[0]);
  Lanes squares = all(0.0f), most = all(0.0f);
  for (int c = 0; c < q.channels; ++c) {
    const Lanes d = minus(t.x[c], times(t.codes[c], scale));
    t.delta[c] = d;
    squares = plus(squares, times(d, d));
    most = larger(most, size(d));
  }
  *loud = above(most, all(q.quiet));
  *stale = above(most, all(q.fresh));
  return squares;
}

inline Lanes thin_error(const Thin& t, const Quantizers& q, const Policy& policy,
                        const PoolEntry& e) {
  const Entry entry(e);
  Lanes squares = all(0.0f);
  for (int c = 0; c < q.channels; ++c) {
    const Lanes d = t.delta[c];
    const Lanes rest = e.bits ? minus(d, times(entry.code(d), entry.scale)) : d;
    squares = plus(squares, times(rest, rest));
  }
  return times(root(squares), all(policy.gain));
}

// Eq. 11 for every pixel: `at[i]` are those that take quantizer i. Returns those beyond the first.
inline Mask thin_choose(const Thin& t, const Quantizers& q, const Policy& policy, Mask loud,
                        Mask* at) {
  const int last = q.n_pool - 1;
  const Lanes threshold = all(policy.threshold);
  for (int i = 0; i <= last; ++i) at[i] = 0;
  at[0] = kAllLanes;
  if (last == 0) return 0;
  Lanes errors[kMaxPool];
  errors[0] = thin_error(t, q, policy, q.pool[0]);
  Mask open = Mask(loud & ~above(threshold, errors[0]) & kAllLanes);
  at[0] = Mask(kAllLanes & ~open);
  int known = 0;
  for (int i = 0; i < last && open; ++i) {
    for (const int upto = policy.ahead ? last : i + 1; known < upto; ++known)
      errors[known + 1] = thin_error(t, q, policy, q.pool[known + 1]);
    Lanes best = errors[i + 1];
    for (int j = i + 2; policy.ahead && j <= last; ++j)
      best = chosen(above(best, errors[j]), errors[j], best);
    const Lanes gap = minus(errors[i], best);
    const Mask go = Mask(open & ~above(threshold, gap) & above(gap, all(0.0f)));
    at[i] |= Mask(open & ~go);
    open = go;
  }
  at[last] |= open;
  return Mask(kAllLanes & ~at[0]);
}

// Codes of δ by each pixel's quantizer, added; only where `loud`. Returns what changed.
inline Mask thin_transmit(Thin& t, const Quantizers& q, const Mask* at, Mask loud, bool write) {
  Mask changed = 0;
  for (int i = 0; i < q.n_pool; ++i) {
    const Mask takes = Mask(at[i] & loud);
    if (!q.pool[i].bits || !takes) continue;
    const Entry entry(q.pool[i]);
    for (int c = 0; c < q.channels; ++c) {
      const Lanes code = times(entry.code(t.delta[c]), entry.step);
      const Lanes now = between(plus(t.codes[c], code), all(-128.0f), all(127.0f));
      changed |= Mask(takes & differ(now, t.codes[c]));
      if (write) t.codes[c] = chosen(takes, now, t.codes[c]);
    }
  }
  return changed;
}

// How many of each pixel's values the top quantizer clamps.
inline Lanes thin_clipped(const Thin& t, const Quantizers& q) {
  const PoolEntry& top = q.pool[q.n_pool - 1];
  const Lanes high = all((top.high + 0.5f) * top.scale), low = all((top.low - 0.5f) * top.scale);
  Lanes sum = all(0.0f);
  for (int c = 0; top.bits && c < q.channels; ++c) {
    const Mask outside = Mask(above(t.delta[c], high) | above(low, t.delta[c]));
    sum = plus(sum, chosen(outside, all(1.0f), all(0.0f)));
  }
  return sum;
}

int thin_quantize(const Quantizers& q, const Policy& policy, const float* const* channels,
                  int pixels, uint8_t* codes, uint8_t* marks, ThinDecision* decisions) {
  int listed = 0;
  const int top = q.n_pool - 1;
  const bool skips = q.n_pool > 1 && !q.pool[0].bits;  // the first quantizer sends nothing
  // Errors so far below the threshold need not be compared exactly.
  const float bound = policy.threshold / policy.gain * kNearly;
  const Lanes low = all(bound * bound);
  by_lanes(pixels, [&](int first, auto n) {
    Thin t;
    Mask loud, stale, at[kMaxPool];
    open_thin(t, q, channels, first, n, codes);
    const Lanes squares = thin_residual(t, q, &loud, &stale);
    if (!loud || (skips && !(loud & above(squares, low))) ||
        (!thin_choose(t, q, policy, loud, at) && skips)) {
      store_marks(marks + first, stale, kStale, n);
      return;
    }
    float clipped[kLanes];
    store(clipped, thin_clipped(t, q), Whole{});
    const Mask changed = thin_transmit(t, q, at, loud, true);
    close_thin(t, q, first, n, codes);
    Mask next, again[kMaxPool], comes_back = 0;
    thin_residual(t, q, &next, &stale);
    if (next) {
      const Mask sent = thin_choose(t, q, policy, next, again);
      comes_back = Mask(next & (sent | thin_transmit(t, q, again, next, false)));
      if (top == 0) comes_back |= Mask(next & above(thin_clipped(t, q), all(0.0f)));
    }
    store_marks(marks + first, stale, kStale, n);
    for (int p = 0; p < n; ++p) {
      const Mask one = Mask(1u << p);
      if (!(loud & one)) continue;
      int index = 0;
      while (!(at[index] & one)) ++index;
      const bool looked = index != 0 || (changed & one) != 0;
      const int over = int(clipped[p]);
      if (!looked && !over) continue;
      decisions[listed++] = {first + p,
                             {index, index == top ? over : 0, (changed & one) != 0,
                              (comes_back & one) != 0, (stale & one) != 0}};
    }
  });
  return listed;
}

int thin_refresh(const Quantizers& q, const float* const* channels, int pixels, uint8_t* codes,
                 uint8_t* marks, ThinDecision* decisions) {
  int listed = 0;
  const Lanes quiet = all(q.quiet * q.frame_inverse * kNearly), inverse = all(q.frame_inverse);
  const Lanes low = all(q.frame_low), high = all(q.frame_high);
  by_lanes(pixels, [&](int first, auto n) {
    Thin t;
    open_thin(t, q, channels, first, n, codes);
    Lanes most = all(0.0f);
    Mask changed = 0;
    for (int c = 0; c < q.channels; ++c) {
      const Lanes steps = times(t.x[c], inverse);
      const Lanes code = rounded(between(steps, low, high));
      most = larger(most, size(minus(steps, code)));
      changed |= differ(code, t.codes[c]);
      t.codes[c] = code;
    }
    const Mask loud = above(most, quiet);
    store_marks(marks + first, loud, kPending, n);
    if (!changed) return;
    close_thin(t, q, first, n, codes);
    for (int p = 0; p < n; ++p)
      if ((changed >> p) & 1)
        decisions[listed++] = {first + p, {0, 0, true, ((loud >> p) & 1) != 0, false}};
  });
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

template <typename N>
inline void store_halves(uint16_t* p, __m256i halves, N n) {
  if constexpr (kWhole<N>) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  else _mm256_mask_storeu_epi16(p, first_lanes(n), halves);
}

template <typename N>
inline __m512 from_half(const uint16_t* x, N n) {
  if constexpr (kWhole<N>)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), x));
}

void round_half(float* x, int n) {
  by_lanes(n, [&](int i, auto k) { store(x + i, _mm512_cvtph_ps(to_half(load(x + i, k))), k); });
}

void store_half(uint16_t* out, const float* x, int n) {
  by_lanes(n, [&](int i, auto k) { store_halves(out + i, to_half(load(x + i, k)), k); });
}

void load_half(float* out, const uint16_t* x, int n) {
  by_lanes(n, [&](int i, auto k) { store(out + i, from_half(x + i, k), k); });
}

void add_half(float* x, const uint16_t* y, int n) {
  by_lanes(n, [&](int i, auto k) { store(x + i, plus(load(x + i, k), from_half(y + i, k)), k); });
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
template <typename N>
inline Lanes rounded_into(Lanes v, uint16_t* to, N n) {
  const __m256i h = to_half(v);
  if (to) store_halves(to, h, n);
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
    by_lanes(j.channels, [&](int c, auto n) __attribute__((always_inline)) {
      Lanes v = rounded_into(load(x + c, n), raw ? raw + c : nullptr, n);
      for (int o = 0; o < j.n_others; ++o)
        v = plus(v, from_half(j.others[o * j.count + k] + c, n));
      if (j.relu) v = above_zero(v);
      store(x + c, rounded_into(v, out ? out + c : nullptr, n), n);
    });
  }
}

// ---------------------------------------------------------------- rows of floats

#if defined(__AVX512VNNI__)

// Rows of sixteen become columns.
inline void transpose(__m512 (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
    const __m512 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]);
    const __m512 d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
    t[i] = _mm512_shuffle_ps(a, c, 0x44), t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44), t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  // t[4g + j] has, in each of its quarters q, the rows 4g … 4g + 3 of column 4q + j
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);
    const __m512 d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
    r[j] = _mm512_shuffle_f32x4(a, b, 0x88), r[4 + j] = _mm512_shuffle_f32x4(c, d, 0x88);
    r[8 + j] = _mm512_shuffle_f32x4(a, b, 0xdd), r[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

void spread(float* out, ptrdiff_t plane, const float* rows, ptrdiff_t stride, int count,
            int channels) {
  for (int first = 0; first < count; first += 16) {
    const int some = count - first < 16 ? count - first : 16;
    for (int c = 0; c < channels; c += 16) {
      const float* from = rows + first * stride + c;
      __m512 r[16];
      for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(from + (i < some ? i : 0) * stride);
      transpose(r);
      const int n = channels - c < 16 ? channels - c : 16;
      float* to = out + c * plane + first;
      for (int k = 0; k < n; ++k, to += plane) _mm512_mask_storeu_ps(to, first_lanes(some), r[k]);
    }
  }
}

#else

void spread(float* out, ptrdiff_t plane, const float* rows, ptrdiff_t stride, int count,
            int channels) {
  for (int c = 0; c < channels; ++c, out += plane)
    for (int i = 0; i < count; ++i) out[i] = rows[i * stride + c];
}

#endif

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
  by_lanes(n, [&](int i, auto left) __attribute__((always_inline)) {
    const Lanes top = plus(times(from_half(rows[0] + i, left), x0),
                           times(from_half(rows[1] + i, left), x1));
    const Lanes bottom = plus(times(from_half(rows[2] + i, left), x0),
                              times(from_half(rows[3] + i, left), x1));
    store(out + i, plus(times(top, y0), times(bottom, y1)), left);
  });
}

void maximum(float* out, const float* x, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = x[i] > out[i] ? x[i] : out[i];
}

void stretch(float* out, const float* row, const int32_t* first, const int32_t* second,
             const float* w0, const float* w1, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = row[first[i]] * w0[i] + row[second[i]] * w1[i];
}

void contend(float* best, int32_t* owners, int32_t id, const float* above, const float* below,
             float w0, float w1, int n) {
  if (id == 0) {
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      best[i] = above[i] * w0 + below[i] * w1;
      owners[i] = 0;
    }
    return;
  }
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const float score = above[i] * w0 + below[i] * w1;
    owners[i] = score > best[i] ? id : owners[i];
    best[i] = score > best[i] ? score : best[i];
  }
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

void merge_every(uint8_t* out, const uint8_t* in, int step, int n) {
  if (step == 1) return merge(out, in, n);
  if (step == 2) {
#pragma omp simd
    for (int i = 0; i < n; ++i) out[i] = uint8_t(out[i] | in[2 * i]);
    return;
  }
  for (int i = 0; i < n; ++i) out[i] = uint8_t(out[i] | in[ptrdiff_t(step) * i]);
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
    add_half, join, spread, relu, clamp, add, affine, blend, blend_half,
    maximum, stretch, contend, divide, merge, merge_every, merge_bits, compress,
};

}  // namespace

const Kernels* RESQ_GETTER() { return &kTable; }

}  // namespace resq
