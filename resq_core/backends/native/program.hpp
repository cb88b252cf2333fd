// A network planned for one input size: what happens in which order, and where everything lies.
//
// A `Program` is immutable once finished and shared by any number of streams and threads. A
// stream's state is one block of bytes that the caller owns. A `Frame` is one pass: it borrows
// scratch from the program, and gives it back when it ends.
//
// Every tensor is a list of pixels, each a row of channels (NHWC). A step computes the rows of
// the pixels that changed, puts them through its post-operations while they are in cache, and
// hands them on: into the tensor, if other steps read it, and into the code planes of the layers
// that convolve it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "team.hpp"

namespace resq {

enum class Reference : int { keyframe = 0, previous = 1, tracking = 2 };
constexpr int kReferences = 3;

struct Tensor {
  int n, h, w, c;
  bool half = false;        // kept in 16 bits; its rows are rounded to them
  bool read = false;        // a step, an op outside or the caller reads its rows
  bool inside = false;      // a step does, or compares them with an input
  bool planes = false;      // kept as the caller reads it, [n][c][h][w]; else [n][h][w][c]
  std::vector<int> sinks;   // layers that quantize it
  size_t base[kReferences];  // offset in the state; kNowhere: not kept
  int pixels() const { return n * h * w; }
  size_t row_bytes() const { return size_t(c) * (half ? 2 : 4); }
};

struct Block {
  int first;  // output channel
  int vectors;
  int segments;  // index of its segment list
  std::vector<uint8_t> packed;
  std::vector<int32_t> init;
  std::vector<float> multiplier, bias;
};

// Output pixels (j·out_y + first_y, i·out_x + first_x) read codes around (j·in_y, i·in_x).
struct Phase {
  int out_y, out_x, first_y, first_x, in_y, in_x;
  std::vector<int> dy, dx;  // taps, in pixels of the padded plane
  std::vector<std::vector<Segment>> segments;
  std::vector<std::vector<Block>> blocks;  // per plane
};

struct Layer {
  int tensor;  // input
  int out_h, out_w, out_c;
  int top, left, padded_h, padded_w, stride;  // of the code planes; stride: bytes per pixel
  Quantizers quantizers;
  float weight_norm;
  double macs;
  bool image;  // has places in a bit map
  std::vector<Phase> phases;
  bool depthwise = false;
  bool tiled = false;  // a transposed convolution whose windows lie side by side
  std::vector<int32_t> offsets;               // depthwise taps
  std::vector<std::vector<int8_t>> dw_weights;  // per plane
  std::vector<std::vector<float>> dw_multiplier;
  std::vector<float> dw_bias;
  size_t plane_bytes = 0, codes = 0, pending = 0;  // offsets in the state
};

enum class Op : int { copy, conv, bilinear, nearest, average, maximum, mean, concat, import };
enum class Post : int { relu, clamp, affine, add, half };

struct PostOp {
  Post kind;
  int tensor = -1;
  float low = 0, high = 0;
  std::vector<float> weight, bias;
};

struct Step {
  Op op;
  std::vector<int> inputs;  // tensors; conv: none
  int layer = -1;
  int out;
  std::vector<PostOp> post;
  int raw = -1;       // conv: the tensor of its own output, kept where an addition follows
  int raw_post = 0;   // post-operations before it is kept
  // bilinear and nearest: source rows and columns, and weights
  std::vector<int> y0, y1, x0, x1;
  std::vector<float> wy0, wy1, wx0, wx1;
  // pooling
  int kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
  bool count_pad = false;
};

struct LayerStats {
  int64_t counts[kMaxPool] = {};
  int64_t clipped = 0, active_in = 0, active_out = 0;
};

struct StepTime {
  double total = 0, product = 0;  // seconds of rank 0
  int64_t pixels = 0;
};

struct Scratch;
class Frame;

class Program {
 public:
  explicit Program(const std::string& isa);
  ~Program();

  int add_tensor(int n, int h, int w, int c, bool half);
  int add_layer(Layer layer);
  void add_block(int layer, int phase, int plane, int group, const int8_t* weights,
                 const float* multiplier, const float* bias, int group_in, int group_out,
                 int groups);
  void add_depthwise(int layer, const int8_t* weights, const float* multiplier, const float* bias);
  void add_step(Step step);
  void mark_read(int tensor);
  void mark_inside(int tensor);
  void finish();

  size_t state_bytes(Reference reference) const { return state_bytes_[int(reference)]; }
  int n_layers() const { return int(layers_.size()); }
  int n_steps() const { return int(steps_.size()); }
  const Tensor& tensor(int i) const { return tensors_.at(size_t(i)); }
  const char* isa() const { return kernels_->name; }

 private:
  friend class Frame;
  friend struct Scratch;
  std::unique_ptr<Scratch> borrow();
  void give_back(std::unique_ptr<Scratch> scratch);

  const Kernels* kernels_;
  std::vector<Tensor> tensors_;
  std::vector<Layer> layers_;
  std::vector<Step> steps_;
  std::vector<int> producer_;  // step of each tensor
  size_t state_bytes_[kReferences] = {};
  size_t norms_ = 0;  // offset in the state
  int widest_ = 1;    // channels
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

struct FrameOptions {
  bool anchor;
  bool keeps;            // later frames will refer to this keyframe
  Reference reference;
  bool relative;         // the policy's form
  bool look_everywhere;  // decide on every pixel anew
  bool refresh;          // a keyframe, made of what differs from the state
  bool bits;             // note the bits of every pixel
  bool timed;
  int threads;
  int probe;    // a layer; -1 for none
  double most;  // of its input's pixels may be active, a share; with more the pass is given up
};

class Frame {
 public:
  Frame(std::shared_ptr<Program> program, uint8_t* state, const FrameOptions& options,
        std::vector<float> thresholds);
  ~Frame();

  // Runs steps [first, last). False: the pass was given up, see `most`, and the state is half new.
  bool run(int first, int last);
  // Data of an import step; strides in floats.
  void bind(int step, const float* data, const int64_t strides[4],
            const std::array<int64_t, 4>& shape);
  // The tensor as contiguous NCHW, of `size` floats.
  void read(int tensor, float* out, size_t size) const;
  std::vector<LayerStats> finish();
  // Bits × MACs of each cell, added up over the layers; [rows][columns].
  void bit_map(int rows, int columns, double* out) const;
  const std::vector<StepTime>& times() const { return times_; }

  struct Binding {
    const float* data = nullptr;
    int64_t strides[4];
  };

 private:
  class Worker;
  friend class Worker;

  std::shared_ptr<Program> program_;
  uint8_t* state_;
  FrameOptions options_;
  std::vector<float> thresholds_;
  std::unique_ptr<Scratch> scratch_;
  std::vector<Binding> bindings_;
  std::vector<StepTime> times_;
  bool finished_ = false, given_up_ = false;
};

}  // namespace resq
