// What the inner loops offer, once for each instruction set.
//
// Activation codes are unsigned bytes with an offset of 128, so that one instruction multiplies
// them with signed weights; `init` takes the offset out again. Rows are one pixel's channels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resq {

constexpr int kLanes = 16;      // output channels of one vector of accumulators
constexpr int kMaxVectors = 4;  // vectors of one block of output channels
constexpr int kMaxPlanes = 9;
constexpr int kMaxPool = 9;
constexpr int kZeroCode = 128;

// A run of code bytes that one pixel of output reads, relative to its base address.
struct Segment {
  int32_t offset;
  int32_t length;  // a multiple of 4
};

// Some vectors of output channels, and the weights of them all.
struct GemmBlock {
  int first;  // output channel
  int vectors;
  const void* weights;  // as `pack` leaves them
  const int32_t* init;
  const float* multiplier;
  const float* bias;  // null: none
};

// out[p][o] = (Σ_k codes[base_p + k]·w[k][o] + init[o])·multiplier[o] (+ bias[o]) (+ out[p][o]),
// for the output channels of every block.
struct Gemm {
  const uint8_t* const* base;
  int pixels;
  const Segment* segments;
  int n_segments;
  const GemmBlock* blocks;
  int n_blocks;
  float* out;
  ptrdiff_t stride;  // floats from one row of `out` to the next; its rows go up to a whole tile
  bool accumulate;
  bool relu;  // max(·, 0) at the end
};

// One channel in, one channel out, per channel.
struct Depthwise {
  const uint8_t* base;
  const int32_t* offsets;  // one per tap, bytes
  int taps;
  const int8_t* weights;  // [taps][channels]
  const float* multiplier;
  const float* bias;
  float* out;
  int channels;
  bool accumulate;
};

struct PoolEntry {
  float scale, inverse, low, high, step;
  int bits, plane;
};

// A layer's quantizers, as `LayerQuantizers` in residual.py.
struct Quantizers {
  int channels;
  int n_planes;
  float plane_scale[kMaxPlanes];
  float frame_inverse, frame_low, frame_high, frame_step;
  int frame_bits;
  int n_pool;
  PoolEntry pool[kMaxPool];
  float quiet;  // |δ| up to here leaves every code at zero
  float fresh;  // |δ| up to here leaves a keyframe's code as it is
};

struct Policy {
  float gain, threshold;
  bool ahead;  // a quantizer is compared with the best of the later ones, not with the next
};

// What became of one residual pixel.
struct Decision {
  int index;     // of the pool
  int clipped;   // values that the top quantizer clamped
  bool active;   // codes have changed
  bool pending;  // the next frame must look again although the input may stay
  bool stale;    // the codes may not be a keyframe's codes of this input
};

// The bits of a pixel's byte in the state.
constexpr uint8_t kPending = 1, kStale = 2;

struct ThinDecision {
  int pixel;
  Decision decision;
};

// What an addition is made of: out = half(relu(half(x) + other + …)), row by row; without others,
// a rounding.
struct Join {
  float* x;  // [count] rows; holds the result
  ptrdiff_t stride;
  int count, channels;
  uint16_t* const* raw;           // where half(x) goes; null: nowhere
  const uint16_t* const* others;  // [n_others][count]
  int n_others;
  bool relu;
  uint16_t* const* out;  // where the result goes; null: nowhere
};

struct Kernels {
  const char* name;
  // Pixels that one call of the inner loop computes; `Gemm::out` is written in whole tiles.
  int (*tile)(int vectors);
  size_t (*packed_bytes)(int depth, int vectors);
  // weights: [depth][vectors·16], depth a multiple of 4
  void (*pack)(const int8_t* weights, int depth, int vectors, void* packed);
  void (*gemm)(const Gemm&);
  void (*depthwise)(const Depthwise&);

  // Keyframe codes of rows that lie `stride` floats apart, ‖x‖₂ of each, and whether the next
  // frame must look at it again. `codes` points at each row's pixel in plane 0.
  void (*quantize_frame)(const Quantizers&, const float* x, ptrdiff_t stride, int count,
                         uint8_t* const* codes, float* norms, uint8_t* pending);
  // Residual codes of such rows, added to the planes, which lie `plane_bytes` apart; `against` is
  // null for `tracking`. `scratch` holds four rows of the channels rounded up to 16.
  void (*quantize_residual)(const Quantizers&, const Policy&, const float* x, ptrdiff_t stride,
                            int count, const float* const* against, uint8_t* const* codes,
                            ptrdiff_t plane_bytes, float* scratch, Decision* decisions);
  // Keyframe codes of such rows over those that are there.
  void (*refresh)(const Quantizers&, const float* x, ptrdiff_t stride, int count,
                  uint8_t* const* codes, Decision* decisions);
  // The first two for pixels of up to 4 channels in separate pictures, with one plane of 4 bytes a
  // pixel; the second for `tracking`: it writes every pixel's byte of the
  // state, lists the pixels that were not simply left alone, and returns how many.
  void (*thin_frame)(const Quantizers&, const float* const* channels, int pixels, uint8_t* codes,
                     float* norms, uint8_t* pending);
  int (*thin_quantize)(const Quantizers&, const Policy&, const float* const* channels, int pixels,
                       uint8_t* codes, uint8_t* marks, ThinDecision* decisions);
  int (*thin_refresh)(const Quantizers&, const float* const* channels, int pixels, uint8_t* codes,
                      uint8_t* marks, ThinDecision* decisions);

  // Halves: rounded to nearest, ties to even, saturating.
  void (*round_half)(float* x, int n);
  void (*store_half)(uint16_t* out, const float* x, int n);
  void (*load_half)(float* out, const uint16_t* x, int n);
  void (*add_half)(float* x, const uint16_t* y, int n);

  void (*join)(const Join&);

  // Rows of channels to pictures that lie `plane` floats apart: out[c·plane + i] = rows[i·stride + c].
  // Rows are read up to a multiple of 16 channels.
  void (*spread)(float* out, ptrdiff_t plane, const float* rows, ptrdiff_t stride, int count,
                 int channels);

  void (*relu)(float* x, int n);
  void (*clamp)(float* x, int n, float low, float high);
  void (*add)(float* x, const float* y, int n);
  void (*affine)(float* x, const float* weight, const float* bias, int n);
  void (*blend)(float* out, const float* const* rows, const float* weights, int n);
  void (*blend_half)(float* out, const uint16_t* const* rows, const float* weights, int n);
  void (*maximum)(float* out, const float* x, int n);
  // out[i] = row[first[i]]·w0[i] + row[second[i]]·w1[i]
  void (*stretch)(float* out, const float* row, const int32_t* first, const int32_t* second,
                  const float* w0, const float* w1, int n);
  // above·w0 + below·w1 against the best so far: where it is larger it is the best, and `id` its
  // owner. The first id is 0, before which there is no best.
  void (*contend)(float* best, int32_t* owners, int32_t id, const float* above, const float* below,
                  float w0, float w1, int n);
  void (*divide)(float* x, float by, int n);
  // out |= in, bytes
  void (*merge)(uint8_t* out, const uint8_t* in, int n);
  // out[i] |= in[step·i]
  void (*merge_every)(uint8_t* out, const uint8_t* in, int step, int n);
  void (*merge_bits)(uint8_t* out, const uint8_t* in, uint8_t bits, int n);
  // indices of non-zero bytes, offset by `first`; returns how many
  int (*compress)(const uint8_t* map, int n, int first, int32_t* out);
};

// Each may be called only where `isas` names it.
const Kernels* amx_kernels();
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* portable_kernels();

}  // namespace resq
