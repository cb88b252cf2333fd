// Building a program; frames are in frame.cpp.
#include "program.hpp"

#include <algorithm>
#include <cstring>

#include "cpu.hpp"
#include "scratch.hpp"

namespace resq {
namespace {

constexpr size_t kSlack = 64;  // code planes may be read this far beyond their end

}  // namespace

Scratch::Scratch(const Program& program)
    : changed(program.tensors_.size()),
      active(program.layers_.size()),
      norms(program.layers_.size()),
      bits(program.layers_.size()),
      current(program.tensors_.size()),
      next(program.steps_.size() * 2 * kMostMembers) {
  for (size_t i = 0; i < changed.size(); ++i) {
    const Tensor& t = program.tensors_[i];
    if (t.read) changed[i].size(t.n * t.h, t.w);
  }
  for (size_t i = 0; i < active.size(); ++i) {
    const Tensor& t = program.tensors_[size_t(program.layers_[i].tensor)];
    active[i].size(t.n * t.h, t.w);
  }
}

Program::Program(const std::string& isa) : kernels_(kernels_for(isa)) {}
Program::~Program() = default;

int Program::add_tensor(int n, int h, int w, int c, bool half) {
  Tensor t{};
  t.n = n, t.h = h, t.w = w, t.c = c, t.half = half;
  tensors_.push_back(std::move(t));
  producer_.push_back(-1);
  return int(tensors_.size()) - 1;
}

void Program::mark_read(int tensor) { tensors_.at(size_t(tensor)).read = true; }

void Program::mark_inside(int tensor) {
  mark_read(tensor);
  tensors_.at(size_t(tensor)).inside = true;
}

int Program::add_layer(Layer layer) {
  Tensor& input = tensors_.at(size_t(layer.tensor));
  layer.stride = int(round_up(size_t(input.c), 4));
  layer.plane_bytes = round_up(
      size_t(input.n) * layer.padded_h * layer.padded_w * layer.stride + kSlack, kAlign);
  layers_.push_back(std::move(layer));
  const int id = int(layers_.size()) - 1;
  input.sinks.push_back(id);
  return id;
}

void Program::add_block(int layer_id, int phase_id, int plane, int group, const int8_t* weights,
                        const float* multiplier, const float* bias, int group_in, int group_out,
                        int groups) {
  Layer& layer = layers_.at(size_t(layer_id));
  Phase& phase = layer.phases.at(size_t(phase_id));
  if (phase.blocks.size() < size_t(plane) + 1) phase.blocks.resize(size_t(plane) + 1);
  const int ny = int(phase.dy.size()), nx = int(phase.dx.size());
  const int stride = layer.stride;
  bool adjacent = groups == 1;
  for (int i = 1; i < nx; ++i) adjacent = adjacent && phase.dx[size_t(i)] == phase.dx[0] + i;
  const int depth = int(round_up(size_t(group_in), 4));
  const int taken = groups == 1 ? stride : depth;  // bytes read at each tap
  std::vector<Segment> segments;
  for (int y = 0; y < ny; ++y) {
    const int row = phase.dy[size_t(y)] * layer.padded_w;
    if (adjacent && nx) {
      segments.push_back({(row + phase.dx[0]) * stride, nx * stride});
      continue;
    }
    for (int x = 0; x < nx; ++x)
      segments.push_back({(row + phase.dx[size_t(x)]) * stride + group * group_in, taken});
  }
  if (plane == 0) phase.segments.push_back(std::move(segments));
  const int list = int(phase.segments.size()) - 1;
  const int all = ny * nx * taken;
  for (int first = 0, left = int(round_up(size_t(group_out), kLanes)) / kLanes; left > 0;) {
    Block b;
    b.vectors = left == 5 ? 3 : std::min(left, kMaxVectors);
    b.first = group * group_out + first;
    b.segments = plane == 0 ? list : group;
    const int width = b.vectors * kLanes, valid = std::min(width, group_out - first);
    std::vector<int8_t> flat(size_t(all) * width, 0);
    b.init.assign(size_t(width), 0);
    for (int tap = 0; tap < ny * nx; ++tap)
      for (int c = 0; c < group_in; ++c)
        for (int o = 0; o < valid; ++o) {
          const int8_t w = weights[(size_t(tap) * group_in + c) * group_out + first + o];
          flat[(size_t(tap) * taken + c) * width + o] = w;
          b.init[size_t(o)] -= kZeroCode * w;
        }
    b.packed.resize(kernels_->packed_bytes(all, b.vectors) + kAlign);
    kernels_->pack(flat.data(), all, b.vectors, b.packed.data());
    b.multiplier.assign(size_t(width), 0.0f);
    std::copy_n(multiplier + b.first, valid, b.multiplier.begin());
    if (bias) {
      b.bias.assign(size_t(width), 0.0f);
      std::copy_n(bias + b.first, valid, b.bias.begin());
    }
    phase.blocks[size_t(plane)].push_back(std::move(b));
    first += width;
    left -= int(round_up(size_t(width), kLanes)) / kLanes;
  }
}

void Program::add_depthwise(int layer_id, const int8_t* weights, const float* multiplier,
                            const float* bias) {
  Layer& layer = layers_.at(size_t(layer_id));
  Phase& phase = layer.phases.at(0);
  layer.depthwise = true;
  if (layer.offsets.empty())
    for (int y : phase.dy)
      for (int x : phase.dx) layer.offsets.push_back((y * layer.padded_w + x) * layer.stride);
  const size_t n = size_t(layer.out_c);
  layer.dw_weights.emplace_back(weights, weights + layer.offsets.size() * n);
  layer.dw_multiplier.emplace_back(multiplier, multiplier + n);
  if (bias) layer.dw_bias.assign(bias, bias + n);
}

void Program::add_step(Step step) {
  producer_.at(size_t(step.out)) = int(steps_.size());
  for (int t : step.inputs) mark_inside(t);
  for (const PostOp& post : step.post)
    if (post.kind == Post::add) mark_inside(post.tensor);
  if (step.raw >= 0) mark_inside(step.raw);
  if (step.op == Op::import) tensors_.at(size_t(step.out)).inside = true;
  steps_.push_back(std::move(step));
}

namespace {

constexpr size_t kMostTogether = 8192;  // outputs of one input pixel, channels rounded up

// Every phase reads the same, has as many outputs, and no groups.
bool is_tiled(const Layer& layer) {
  const Phase& first = layer.phases[0];
  if (layer.phases.size() * round_up(size_t(layer.out_c), kLanes) > kMostTogether) return false;
  if (layer.phases.size() != size_t(first.out_y) * first.out_x || layer.depthwise) return false;
  if (layer.out_h % first.out_y || layer.out_w % first.out_x) return false;
  for (const Phase& f : layer.phases)
    if (f.dy != first.dy || f.dx != first.dx || f.segments.size() != 1) return false;
  return true;
}

}  // namespace

void Program::finish() {
  for (Layer& layer : layers_) layer.tiled = layer.phases.size() > 1 && is_tiled(layer);
  size_t common = round_up(layers_.size() * sizeof(float), kAlign);
  for (Layer& layer : layers_) {
    layer.pending = common;
    common = round_up(common + size_t(tensors_[size_t(layer.tensor)].pixels()), kAlign);
    layer.codes = common;
    common += layer.plane_bytes * size_t(layer.quantizers.n_planes);
  }
  for (Tensor& t : tensors_) {
    widest_ = std::max(widest_, t.c);
    t.planes = t.read && !t.inside && !t.half && t.sinks.empty();
  }
  for (int r = 0; r < kReferences; ++r) {
    size_t end = common;
    for (Tensor& t : tensors_) {
      t.base[r] = kNowhere;
      if (!t.read && (Reference(r) == Reference::tracking || t.sinks.empty())) continue;
      t.base[r] = end;
      end = round_up(end + size_t(t.pixels()) * t.row_bytes(), kAlign);
    }
    state_bytes_[r] = end;
  }
}

std::unique_ptr<Scratch> Program::borrow() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.empty()) return std::make_unique<Scratch>(*this);
  std::unique_ptr<Scratch> scratch = std::move(idle_.back());
  idle_.pop_back();
  return scratch;
}

void Program::give_back(std::unique_ptr<Scratch> scratch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(scratch));
}

}  // namespace resq
